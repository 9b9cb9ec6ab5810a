"""What the backward pass computes anew: the same values, less memory."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from mmsecvit import SecViT
from mmsecvit.backbones.base import KEPT_OPERATIONS
from mmsecvit.backbones.secvit import SecViTBlock
from mmsecvit.layers import SECA, rotary_table
from mmsecvit.layers.recompute import apply_recomputed

MICRO = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))


def block(recompute, layer_scale=False):
    torch.manual_seed(0)
    attn = SECA(16, num_heads=2, num_clusters=3)
    return SecViTBlock(
        16, attn, 48, ffn_conv=True, layer_scale=layer_scale, recompute=recompute
    )  # fmt: skip


@pytest.mark.parametrize('autocast', [False, True])
def test_a_block_has_the_same_values_and_gradients_bit_by_bit(autocast):
    x = torch.randn(2, 6, 7, 16)
    table = rotary_table(6, 7, 8, torch.float32, 'cpu')
    results = []
    for recompute in (False, True):
        module, leaf = block(recompute), x.clone().requires_grad_()
        with torch.autocast('cpu', torch.bfloat16, autocast):
            out = module(leaf, table)
        out.float().square().sum().backward()
        results.append([out, leaf.grad, *(p.grad for p in module.parameters())])
    for plain, saving in zip(*results, strict=True):
        assert torch.equal(plain, saving)


@pytest.mark.parametrize('recompute', [False, True])
def test_norms_gelu_and_convolution_leave_nothing_in_memory(recompute):
    module = block(recompute)
    kept = {}

    def remember(name, module, inputs, output):
        kept[name] = StorageWeakRef(output.untyped_storage())

    for name in ('norm1', 'norm2', 'ffn.act', 'ffn.conv'):
        module.get_submodule(name).register_forward_hook(partial(remember, name))
    out = module(torch.randn(2, 6, 7, 16, requires_grad=True))
    assert {name for name, storage in kept.items() if not storage.expired()} == (
        set() if recompute else {*kept}
    )
    out.sum().backward()


def test_an_outer_checkpoint_keeps_nothing_else_of_a_block():
    module, kept = block(recompute=True), []
    x = torch.randn(2, 6, 7, 16, requires_grad=True)
    act = module.get_submodule('ffn.act')
    act.register_forward_hook(
        lambda module, inputs, output: kept.append(StorageWeakRef(inputs[0].untyped_storage()))
    )
    out = checkpoint(module, x, use_reentrant=False)
    assert kept[0].expired()
    out.sum().backward()
    gradient, x.grad = x.grad, None
    module(x).sum().backward()
    assert torch.equal(x.grad, gradient)


def test_traces_and_function_transforms_are_taken():
    module, x = block(recompute=True), torch.randn(2, 6, 7, 16)
    torch.testing.assert_close(torch.jit.trace(module, x)(x), module(x))

    norm, linear, x = nn.LayerNorm(4), nn.Linear(4, 3), torch.randn(2, 4, requires_grad=True)
    (gradient,) = torch.autograd.grad(linear(norm(x)).sum(), x)
    transformed = torch.func.grad(lambda x: apply_recomputed(linear, norm, x).sum())
    assert torch.equal(transformed(x.detach()), gradient)


def test_second_derivatives_are_right():
    norm, linear = nn.LayerNorm(4).double(), nn.Linear(4, 3).double()

    def function(x):
        return apply_recomputed(linear, norm, x)

    x = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(function, [x]) and gradgradcheck(function, [x])


def test_attention_is_not_computed_again_in_recomputed_blocks():
    class Count(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls += function in KEPT_OPERATIONS
            return function(*args, **(kwargs or {}))

    calls = []
    for with_cp in (False, True):
        backbone = SecViT(MICRO, 'released', with_cp=with_cp).train()
        with Count() as count:
            outs = backbone(torch.randn(2, 3, 64, 64))
            sum(out.sum() for out in outs).backward()
        calls.append(count.calls)
    assert calls[0] == calls[1] >= 5
