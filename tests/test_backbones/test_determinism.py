"""One seed has one result, bit by bit."""

import pytest
import torch

from mmsecvit import SECFasterViT, SECSwin, SecViT
from mmsecvit.backbones import sec_fastervit, sec_swin

MICRO = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
BACKBONES = {
    'paper': lambda: SecViT(MICRO, drop_path_rate=0.5),
    'released': lambda: SecViT(MICRO, 'released', drop_path_rate=0.5),
    'kmeans': lambda: SecViT(MICRO, 'released', attention='kmeans', drop_path_rate=0.5),
    'recomputing': lambda: SecViT(MICRO, 'released', with_cp=True, drop_path_rate=0.5),
    'SECSwin': lambda: SECSwin('micro', drop_path_rate=0.5),
    'SECFasterViT': lambda: SECFasterViT('micro', drop_path_rate=0.5),
}


@pytest.fixture(autouse=True)
def micro_architectures(monkeypatch):
    monkeypatch.setitem(sec_swin.ARCHITECTURES, 'micro', MICRO)
    monkeypatch.setitem(sec_fastervit.ARCHITECTURES, 'micro', dict(MICRO, stem_dims=8))


@pytest.fixture(params=[False, True], ids=['default', 'deterministic'])
def deterministic_algorithms(request):
    torch.use_deterministic_algorithms(request.param)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(params=BACKBONES)
def build(request):
    return BACKBONES[request.param]


def train_three_steps(build):
    torch.manual_seed(3)
    backbone = build().train()
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
    for _ in range(3):
        outs = backbone(torch.randn(4, 3, 50, 70))
        optimizer.zero_grad()
        sum(out.square().mean() for out in outs).backward()
        optimizer.step()
    return *outs, *backbone.state_dict().values(), *(p.grad for p in backbone.parameters())


@pytest.mark.usefixtures('deterministic_algorithms')
def test_two_trainings_with_one_seed_are_equal(build):
    first, second = train_three_steps(build), train_three_steps(build)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.parametrize('image', [torch.zeros, torch.ones, torch.randn])
def test_every_place_in_the_batch_has_the_same_result(build, image):
    # Most tokens of black and white images tie. Results are not equal bit by bit: the rounding of
    # convolutions depends on the position in the batch.
    backbone = build().double().eval()
    x = image(1, 3, 70, 50, dtype=torch.float64)
    others = torch.randn(2, 3, 70, 50, dtype=torch.float64)
    # No sum in the network has more terms than the image has values.
    rounding = x.numel() * torch.finfo(torch.float64).eps
    with torch.no_grad():
        alone = backbone(x)
        for i in range(3):
            outs = backbone(torch.cat([others[:i], x, others[i:]]))
            for out, expected in zip(outs, alone, strict=True):
                assert (out[i] - expected[0]).abs().max() <= rounding * expected.abs().max()
