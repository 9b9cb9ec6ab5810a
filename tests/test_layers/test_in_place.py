"""What is written over an argument: only where gradients are disabled, with the same values."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmsecvit import SecViT
from mmsecvit.layers import FFN, add
from mmsecvit.layers.in_place import GELU

ARCH = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))


@pytest.mark.parametrize('variant', ['paper', 'released'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_maps_are_the_same_with_and_without_gradients(variant, dtype):
    torch.manual_seed(0)
    backbone = SecViT(ARCH, variant, cluster_size=9).eval()
    images = torch.randn(2, 3, 64, 96)
    before = images.clone()
    with torch.autocast('cpu', torch.bfloat16, dtype is torch.bfloat16):
        maps = backbone(images)
        with torch.no_grad():
            overwritten = backbone(images)
    assert torch.equal(images, before)
    for with_gradients, without in zip(maps, overwritten, strict=True):
        assert torch.equal(with_gradients, without)


def test_memory_is_taken_only_without_gradients_and_in_one_dtype():
    branch, x = torch.randn(2, 3, 4)
    total = branch + x
    assert add(branch, x).data_ptr() != branch.data_ptr()
    activated = F.gelu(x)
    with torch.no_grad():
        assert add(branch.bfloat16(), x).dtype is torch.float32
        result = add(branch, x)
        assert result.data_ptr() == branch.data_ptr() and torch.equal(result, total)
        result = GELU()(x)
        assert result.data_ptr() == x.data_ptr() and torch.equal(result, activated)


def test_the_backward_pass_overwrites_nothing_that_it_keeps():
    # The first layer is frozen: what comes into GELU needs no gradient, the convolution after it
    # does, and GELU is computed anew in each backward pass, where gradients are disabled.
    torch.manual_seed(0)
    norm, ffn = nn.LayerNorm(8), FFN(8, 24, with_conv=True).eval()
    for frozen in (norm, ffn.fc1):
        frozen.requires_grad_(False)
    loss = ffn(torch.randn(2, 5, 6, 8), norm).square().sum()
    weights = [ffn.conv.weight, ffn.fc2.weight]
    first = torch.autograd.grad(loss, weights, retain_graph=True)
    second = torch.autograd.grad(loss, weights)
    for gradient, again in zip(first, second, strict=True):
        assert torch.equal(gradient, again)
