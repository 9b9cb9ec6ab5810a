"""Clusters of a fixed size: the paper's network at 224x224, and everywhere else linear cost."""

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.registry import MODELS, DefaultScope
from torch._dynamo.testing import CompileCounterWithBackend

from mmsecvit import SECFasterViT, SECSwin, SecViT
from mmsecvit.apis.config import load_config
from mmsecvit.backbones import sec_fastervit, sec_swin
from mmsecvit.backbones.sec_fastervit import ARCHITECTURES as FASTER_VITS
from mmsecvit.backbones.sec_swin import ARCHITECTURES as SWINS
from mmsecvit.backbones.secvit import ARCHITECTURES as SECVITS
from mmsecvit.layers import SECA

CONFIGS = Path(__file__).parents[2] / 'configs'
MICRO = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
NETWORKS = {
    'paper': lambda **options: SecViT(MICRO, **options),
    'released': lambda **options: SecViT(MICRO, 'released', **options),
    'kmeans': lambda **options: SecViT(MICRO, attention='kmeans', **options),
    'windows': lambda **options: SecViT(MICRO, attention='window', **options),
    'SECSwin': lambda **options: SECSwin('micro', **options),
    'SECFasterViT': lambda **options: SECFasterViT('micro', **options),
}
SIZES = [
    *((SecViT, arch) for arch in SECVITS),
    *((SECSwin, arch) for arch in SWINS),
    *((SECFasterViT, arch) for arch in FASTER_VITS),
]


@pytest.fixture(autouse=True)
def micro_architectures(monkeypatch):
    micro = dict(MICRO, drop_path_rate=0.0)
    monkeypatch.setitem(sec_swin.ARCHITECTURES, 'micro', micro)
    monkeypatch.setitem(sec_fastervit.ARCHITECTURES, 'micro', dict(micro, stem_dims=8))


@pytest.fixture
def forgetful_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def tokens_of_stages(height, width):
    return [-(-height // stride) * -(-width // stride) for stride in (4, 8, 16, 32)]


def with_the_weights_of(network, other):
    other.load_state_dict(network.state_dict())
    return other.train(network.training)


def assert_same_bits(network, other, x):
    outs, others = network(x), other(x)
    assert all(torch.equal(a, b) for a, b in zip(outs, others, strict=True))


@pytest.mark.parametrize(('kind', 'arch'), SIZES)
def test_98_tokens_are_the_papers_clusters_at_224(kind, arch):
    with torch.device('meta'):
        sized, paper = kind(arch, cluster_size=98), kind(arch)
    for (name, attn), other in zip(sized.named_modules(), paper.modules(), strict=True):
        if isinstance(attn, SECA):
            tokens = tokens_of_stages(224, 224)[int(name.split('.')[1])]
            assert attn.num_clusters_of(tokens) == other.num_clusters


@pytest.mark.parametrize('name', NETWORKS)
def test_98_tokens_are_the_papers_network_at_224_to_the_bit(name):
    network = NETWORKS[name](cluster_size=98)
    paper = with_the_weights_of(network, NETWORKS[name]())
    x = torch.randn(1, 3, 224, 224)
    assert_same_bits(network.eval(), paper.eval(), x)


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['paper', 'released'])
@pytest.mark.parametrize('arch', SECVITS)
def test_full_sizes_are_the_papers_at_224_with_gradients_to_the_bit(arch, variant):
    network = SecViT(arch, variant, cluster_size=98, drop_path_rate=0.0)
    paper = with_the_weights_of(network, SecViT(arch, variant, drop_path_rate=0.0))
    x = torch.randn(1, 3, 224, 224)
    for one in (network, paper):
        sum(out.sin().mean() for out in one(x)).backward()
    for p, other in zip(network.parameters(), paper.parameters(), strict=True):
        assert torch.equal(p.grad, other.grad)


@settings(max_examples=10)
@given(st.integers(32, 160), st.integers(32, 160), st.integers(1, 200))
def test_any_size_of_image_has_as_many_clusters_as_fit_best(height, width, size):
    network = SecViT(MICRO, 'released', cluster_size=size).eval()
    clusters = [max(1, round(Fraction(n, size))) for n in tokens_of_stages(height, width)]
    fixed = with_the_weights_of(network, SecViT(MICRO, 'released', num_clusters=clusters))
    with torch.no_grad():
        assert_same_bits(network, fixed, torch.randn(1, 3, height, width))


@pytest.mark.parametrize('name', ['SECSwin', 'SECFasterViT', 'kmeans'])
def test_relatives_have_as_many_clusters_as_fit_best(name):
    network = NETWORKS[name](cluster_size=20).eval()
    clusters = [max(1, round(Fraction(n, 20))) for n in tokens_of_stages(90, 133)]
    number = clusters[2] if name == 'SECFasterViT' else clusters
    fixed = with_the_weights_of(network, NETWORKS[name](num_clusters=number))
    with torch.no_grad():
        assert_same_bits(network, fixed, torch.randn(1, 3, 90, 133))


def test_no_image_depends_on_its_batch():
    network = SecViT(MICRO, 'released', cluster_size=20).double().eval()
    x = torch.randn(3, 3, 75, 110, dtype=torch.float64)
    # No sum in the network has more terms than an image has values.
    rounding = x[0].numel() * torch.finfo(torch.float64).eps
    with torch.no_grad():
        together = network(x)
        for i in range(3):
            for out, alone in zip(together, network(x[i : i + 1]), strict=True):
                assert (out[i] - alone[0]).abs().max() <= rounding * alone.abs().max()


def test_recomputed_blocks_have_the_same_gradients():
    gradients = []
    network = SecViT(MICRO, 'released', cluster_size=20, drop_path_rate=0.0, norm_eval=True)
    recomputing = SecViT(
        MICRO, 'released', cluster_size=20, drop_path_rate=0.0, norm_eval=True, with_cp=True
    )
    x = torch.randn(2, 3, 75, 110)
    for one in (network.train(), with_the_weights_of(network, recomputing)):
        sum(out.sin().mean() for out in one(x)).backward()
        gradients.append([p.grad for p in one.parameters()])
    torch.testing.assert_close(*gradients)


def test_autocast_and_tensors_without_memory():
    network = SecViT(MICRO, 'released', cluster_size=20).eval()
    with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
        assert all(out.isfinite().all() for out in network(torch.randn(1, 3, 75, 110)))
    with torch.device('meta'):
        outs = SecViT(cluster_size=98)(torch.zeros(2, 3, 1000, 70))
    assert outs[0].shape == (2, 64, 250, 18)


BOTH = 'cluster_size and num_clusters exclude each other: set one of them to None, got 98 and '
SIZE = 'cluster_size must be an integer of at least 1, got '


@pytest.mark.parametrize('name', NETWORKS)
def test_bad_sizes_are_named(name):
    number = 2 if name == 'SECFasterViT' else (32, 8, 2, 1)
    with pytest.raises(ValueError, match=BOTH):
        NETWORKS[name](num_clusters=number, cluster_size=98)
    for size in (0, -98, 98.0, '98', (98, 98, 98, 98), True):
        with pytest.raises(ValueError, match=SIZE):
            NETWORKS[name](cluster_size=size)
    assert NETWORKS[name](num_clusters=number, cluster_size=None)
    assert NETWORKS[name](num_clusters=None, cluster_size=98)


# Stage 2 has one cluster in the smallest images and several in the others. The first image is no
# square, since torch would take its height and width for one size.
IMAGES = [(256, 320), (224, 224), (96, 64), (64, 96), (333, 517), (225, 231)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'stages'),
    # Tracing symbolic sizes takes long, and later stages have nothing new, except SEC-FasterViT's:
    # the third has clusters, the last has windows, which are cut for each size.
    [('released', (0, 1)), ('SECFasterViT', (0, 1, 2))],
)
@pytest.mark.usefixtures('forgetful_compiler')
def test_compiles_once_for_all_sizes(name, stages):
    # In float64, no token is within rounding of a cluster's edge.
    network = NETWORKS[name](cluster_size=98, out_indices=stages).double().eval()
    graphs = CompileCounterWithBackend('eager')
    compiled = torch.compile(network, backend=graphs, fullgraph=True, dynamic=True)
    for size in IMAGES:
        x = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), network(x))
    assert graphs.frame_count == 1


@pytest.mark.slow
@pytest.mark.usefixtures('forgetful_compiler')
def test_gradients_of_the_layer_compiled_for_all_sizes():
    layer = SECA(8, num_heads=2, cluster_size=20).double()
    graphs = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(layer, backend=graphs, fullgraph=True, dynamic=True)
    for size in [(15, 14), (16, 20), (5, 6), (19, 23)]:
        x = torch.randn(2, *size, 8, dtype=torch.float64, requires_grad=True)
        gradients = []
        for one in (layer, compiled):
            gradients.append(torch.autograd.grad(one(x).sin().sum(), [x, *layer.parameters()]))
        torch.testing.assert_close(*gradients)
    assert graphs.frame_count == 1


def test_configs_take_it_as_an_option():
    pytest.importorskip('mmpretrain')

    def build(name, **options):
        options = {f'model.backbone.{key}': value for key, value in options.items()}
        cfg = load_config(CONFIGS / name, cfg_options=options)
        with torch.device('meta'), DefaultScope.overwrite_default_scope('mmpretrain'):
            return MODELS.build(cfg.model.backbone)

    for attn in build('secvit_t_in1k.py', cluster_size=98).modules():
        if isinstance(attn, SECA):
            assert (attn.num_clusters, attn.cluster_size) == (None, 98)
    # This config has numbers of its own.
    with pytest.raises(ValueError, match='cluster_size and num_clusters exclude each other'):
        build('secvit_micro_cifar10.py', cluster_size=16)
    assert build('secvit_micro_cifar10.py', cluster_size=16, num_clusters=None)
