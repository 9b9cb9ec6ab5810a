"""The backbones on a GPU, with each backend of the attention, against the CPU."""

import pytest
import torch

from mmsecvit import SECSwin, SecViT
from mmsecvit.backbones import sec_swin

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')

SMALL = dict(embed_dims=(32, 64, 64, 128), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))
BACKBONES = {
    'paper': lambda **kwargs: SecViT(SMALL, **kwargs),
    'released': lambda **kwargs: SecViT(SMALL, 'released', **kwargs),
    'SECSwin': lambda **kwargs: SECSwin('small-test', **kwargs),
}
FEW_CLUSTERS = (4, 3, 2, 1)


@pytest.fixture(autouse=True)
def small_architecture(monkeypatch):
    monkeypatch.setitem(sec_swin.ARCHITECTURES, 'small-test', dict(SMALL, drop_path_rate=0.0))


# The longest first: other processes run the rest meanwhile.
@pytest.mark.parametrize('backend', ['sdpa', 'triton'])
def test_compiled_to_one_graph(backend):
    backbone = BACKBONES['released'](num_clusters=FEW_CLUSTERS, attention_backend=backend)
    backbone = backbone.cuda().eval()
    images = torch.randn(8, 3, 64, 96, device='cuda')
    expected = backbone(images)
    outs = torch.compile(backbone, fullgraph=True)(images)
    for out, eager in zip(outs, expected, strict=True):
        errors = (out - eager).abs().amax((1, 2, 3)) / eager.abs().amax((1, 2, 3))
        assert (errors < 1e-3).sum() >= 4
    sum(out.sin().mean() for out in outs).backward()
    assert all(p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize('size', [(64, 64), (70, 90)])
@pytest.mark.parametrize('backend', ['sdpa', 'triton'])
@pytest.mark.parametrize('name', BACKBONES)
def test_maps_are_those_of_the_cpu(name, backend, size):
    # In eval mode no image depends on another. A token at a cluster's edge may fall on either side
    # of it, and changes all later values of its image. With few clusters, most images have no
    # such token.
    backbone = BACKBONES[name](num_clusters=FEW_CLUSTERS, attention_backend='reference')
    backbone = backbone.double().eval()
    images = torch.randn(8, 3, *size, dtype=torch.float64)
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        expected = backbone(images)
        other = BACKBONES[name](num_clusters=FEW_CLUSTERS, attention_backend=backend).eval()
        other.load_state_dict(backbone.state_dict())
        outs = other.cuda()(images.float().cuda())
    for out, exact in zip(outs, expected, strict=True):
        errors = (out.cpu() - exact).abs().amax((1, 2, 3)) / exact.abs().amax((1, 2, 3))
        assert (errors < 1e-4).sum() >= 4


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('backend', ['sdpa', 'triton'])
@pytest.mark.parametrize('name', BACKBONES)
def test_training_is_finite_and_the_same_twice(name, backend, dtype):
    backbone = BACKBONES[name](attention_backend=backend).cuda().train()
    images = torch.randn(2, 3, 70, 90, device='cuda')
    results = []
    for _ in range(2):
        backbone.zero_grad()
        with torch.autocast('cuda', dtype, enabled=dtype != torch.float32):
            outs = backbone(images)
        sum(out.float().sin().mean() for out in outs).backward()
        results.append([*outs, *(p.grad for p in backbone.parameters())])
    for x, again in zip(*results, strict=True):
        assert x.isfinite().all()
        if x.requires_grad:  # cuDNN's gradients of convolutions are not the same twice
            assert torch.equal(x, again)
