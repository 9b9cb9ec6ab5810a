"""Compiled, exported and traced backbones return what the backbones return."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from mmsecvit import SECFasterViT, SECSwin, SecViT
from mmsecvit.backbones import sec_fastervit, sec_swin

# Two stages: one has clusters of two sizes, one has a single cluster. Others would add nothing.
MICRO = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(2, 2, 2, 4))
SHORT = dict(arch=MICRO, num_clusters=(32, 1, 1, 1), out_indices=(0, 1))
BACKBONES = {
    'released': lambda: SecViT(variant='released', **SHORT),
    'windows': lambda: SecViT(attention='window', stem='patch', **SHORT),
    'stripes': lambda: SecViT(attention='cswin', **SHORT),
    'kmeans': lambda: SecViT(attention='kmeans', **SHORT),
    'SECSwin': lambda: SECSwin('micro', out_indices=(0, 1)),
    'SECFasterViT': lambda: SECFasterViT('micro'),
}


@pytest.fixture(autouse=True)
def forgetful_compiler():
    """Forget compiled code: torch recompiles `forward`, which all networks share, a few times."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(autouse=True)
def micro_architectures(monkeypatch):
    micro = dict(MICRO, drop_path_rate=0.0)
    monkeypatch.setitem(sec_swin.ARCHITECTURES, 'micro', micro)
    monkeypatch.setitem(sec_fastervit.ARCHITECTURES, 'micro', dict(micro, stem_dims=8))


@pytest.fixture(
    params=[
        name if name == 'released' else pytest.param(name, marks=pytest.mark.slow)
        for name in BACKBONES
    ]
)
def backbone(request):
    return BACKBONES[request.param]().eval()


@pytest.fixture
def images():
    return torch.randn(2, 3, 48, 72)


@torch.no_grad()
def test_compiled_to_one_graph(backbone, images):
    graphs = CompileCounterWithBackend('eager')
    compiled = torch.compile(backbone, backend=graphs, fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(images), backbone(images))
    assert graphs.frame_count == 1


@torch.no_grad()
def test_exported(backbone, images):
    exported = torch.export.export(backbone, (images,)).module()
    torch.testing.assert_close(exported(images), backbone(images))


# Tracing warns about each Python value that it takes as a constant. The sizes are constant here.
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@torch.no_grad()
def test_traced_for_one_size(backbone, images):
    traced = torch.jit.trace(backbone, images, check_trace=False)
    others = torch.randn_like(images)
    torch.testing.assert_close(traced(others), backbone(others))


@pytest.mark.slow
def test_gradients_of_the_compiled_network(images):
    backbone = BACKBONES['released']().train()
    gradients = []
    for network in (backbone, torch.compile(backbone, backend='aot_eager', fullgraph=True)):
        backbone.zero_grad()
        sum(out.sin().mean() for out in network(images)).backward()
        gradients.append([p.grad for p in backbone.parameters()])
    torch.testing.assert_close(gradients[1], gradients[0])
