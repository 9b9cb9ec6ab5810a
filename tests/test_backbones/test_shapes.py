"""Images of every size, empty batches, and inputs that are no images."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmsecvit import SECFasterViT, SECSwin, SecViT
from mmsecvit.backbones import sec_fastervit, sec_swin

MICRO = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
BACKBONES = {
    'paper': lambda: SecViT(MICRO),
    'released': lambda: SecViT(MICRO, 'released'),
    'windows': lambda: SecViT(MICRO, 'released', attention='window'),
    'stripes': lambda: SecViT(dict(MICRO, num_heads=(2, 2, 2, 4)), attention='cswin'),
    'kmeans': lambda: SecViT(MICRO, 'released', attention='kmeans'),
    'patches': lambda: SecViT(MICRO, 'released', stem='patch'),
    'SECSwin': lambda: SECSwin('micro'),
    'SECFasterViT': lambda: SECFasterViT('micro'),
}


@pytest.fixture(autouse=True)
def micro_architectures(monkeypatch):
    micro = dict(MICRO, drop_path_rate=0.0)
    monkeypatch.setitem(sec_swin.ARCHITECTURES, 'micro', micro)
    monkeypatch.setitem(sec_fastervit.ARCHITECTURES, 'micro', dict(micro, stem_dims=8))


@pytest.fixture(params=BACKBONES)
def backbone(request):
    return BACKBONES[request.param]().eval()


def assert_pyramid(backbone, batch, height, width):
    with torch.no_grad():
        outs = backbone(torch.randn(batch, 3, height, width))
    for i, (out, channels) in enumerate(zip(outs, MICRO['embed_dims'], strict=True)):
        stride = 2 ** (i + 2)
        expected = (batch, channels, -(-height // stride), -(-width // stride))
        assert out.shape == expected, (height, width)
        assert out.isfinite().all(), (height, width)


@given(st.integers(32, 96), st.integers(32, 96))
def test_any_height_and_width(height, width):
    assert_pyramid(SecViT(MICRO, 'released').eval(), 1, height, width)


def test_every_height_from_32_to_96_and_every_width(backbone):
    # 29 and 65 have no common factor, so each height is paired with one width and vice versa.
    for i in range(65):
        assert_pyramid(backbone, 1, 32 + i, 32 + 29 * i % 65)


@pytest.mark.parametrize('size', [(32, 32), (32, 1536), (1536, 32), (33, 1535)])
def test_smallest_and_thinnest_images(backbone, size):
    assert_pyramid(backbone, 2, *size)


def test_no_images(backbone):
    assert_pyramid(backbone, 0, 40, 72)


@pytest.mark.parametrize(
    ('x', 'got'),
    [
        (torch.zeros(1, 3, 31, 64), r'torch.float32 of the shape \(1, 3, 31, 64\)'),
        (torch.zeros(1, 3, 64, 31), r'torch.float32 of the shape \(1, 3, 64, 31\)'),
        (torch.zeros(1, 3, 0, 0), r'torch.float32 of the shape \(1, 3, 0, 0\)'),
        (torch.zeros(3, 64, 64), r'torch.float32 of the shape \(3, 64, 64\)'),
        (torch.zeros(1, 1, 3, 64, 64), r'torch.float32 of the shape \(1, 1, 3, 64, 64\)'),
        (torch.zeros(1, 1, 64, 64), r'torch.float32 of the shape \(1, 1, 64, 64\)'),
        (torch.zeros(1, 4, 64, 64), r'torch.float32 of the shape \(1, 4, 64, 64\)'),
        (torch.zeros(1, 64, 64, 3), r'torch.float32 of the shape \(1, 64, 64, 3\)'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), 'torch.uint8 of the shape'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.int64), 'torch.int64 of the shape'),
        (torch.zeros(1, 3, 64, 64, dtype=torch.bool), 'torch.bool of the shape'),
    ],
)
def test_what_is_no_image_is_refused(backbone, x, got):
    message = (
        r'x must be floating images of the shape \(B, 3, H, W\) with H and W at least 32, got '
    )
    with pytest.raises(ValueError, match=message + got):
        backbone(x)
