"""The Triton backend: on a GPU as it is, without one in Triton's interpreter."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch._subclasses.fake_tensor import FakeTensorMode

from mmsecvit.ops import sec_attention, semantic_order
from mmsecvit.ops.attention import choose_backend
from mmsecvit.ops.backends.triton import AVAILABLE, fakes_on_gpu

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = [
    pytest.mark.skipif(
        not AVAILABLE, reason='the Triton backend needs the package triton and torch 2.7 or newer'
    ),
    pytest.mark.skipif(
        DEVICE == 'cpu' and Version(np.__version__) >= Version('2.4'),
        reason='the interpreter of Triton 3.6 turns arrays of one element into numbers, and '
        'NumPy 2.4 no longer does',
    ),
]


def attend(backend, dtype, qkv, order, num_clusters, weights):
    """Output and gradients, all in float64."""
    qkv = [x.to(dtype).requires_grad_() for x in qkv]
    out = sec_attention(*qkv, num_clusters, order=order, backend=backend)
    grads = torch.autograd.grad(out, qkv, weights.to(out))
    assert {x.dtype for x in (out, *grads)} == {dtype}
    return [x.detach().double() for x in (out, *grads)]


def assert_as_exact_as_sdpa(dtype, qkv, order, num_clusters, weights):
    """Compare values and gradients, and those of sdpa, with the reference in float64."""
    length, dims = weights.shape[2:]
    arguments = (qkv, order, num_clusters, weights)
    exact = attend('reference', torch.float64, *arguments)
    plain = attend('sdpa', dtype, *arguments)
    fused = attend('triton', dtype, *arguments)
    # The largest sum of terms of each result: where it cancels to zero, its rounding stays.
    q, k, v, w = (x.abs().max().double() for x in (*qkv, weights))
    size = -(-length // min(num_clusters, length))
    terms = [v, dims**0.5 * w * v * k, dims**0.5 * w * v * q * size, w * size]
    for exact_x, plain_x, fused_x, term in zip(exact, plain, fused, terms, strict=True):
        # One rounding more: the interpreter cuts bfloat16 off where GPUs round it.
        rounding = torch.finfo(dtype).eps * exact_x.abs().max()
        rounding += torch.finfo(torch.float32).eps * term
        assert (fused_x - exact_x).abs().max() <= 2 * (plain_x - exact_x).abs().max() + rounding


# Blocks have up to 64 tokens: clusters of one block and of several, of two sizes, of single
# tokens; heads that fill their padding and that do not.
@pytest.mark.parametrize(
    ('dtype', 'length', 'num_clusters', 'dims'),
    [
        (torch.float32, 66, 4, 16),
        (torch.float32, 139, 2, 24),
        (torch.float32, 5, 9, 8),
        (torch.float32, 35, 2, 128),
        (torch.float16, 139, 2, 32),
        (torch.float16, 50, 3, 72),
        (torch.bfloat16, 139, 2, 32),
        (torch.bfloat16, 50, 3, 40),
    ],
)
def test_values_and_gradients_are_as_exact_as_those_of_sdpa(dtype, length, num_clusters, dims):
    qkv = torch.randn(3, 1, 2, length, dims, device=DEVICE).to(dtype)
    weights = torch.randn(1, 2, length, dims, device=DEVICE).to(dtype)
    arguments = (qkv, semantic_order(qkv[1]), num_clusters, weights)
    assert_as_exact_as_sdpa(dtype, *arguments)


# `auto` takes only heads whose tilings have run on a GPU.
@pytest.mark.parametrize(
    ('dtype', 'dims', 'backend'),
    [
        (torch.float32, 32, 'triton'),
        (torch.float32, 33, 'sdpa'),
        (torch.bfloat16, 64, 'triton'),
        (torch.bfloat16, 72, 'sdpa'),
    ],
)
def test_auto_chooses_only_what_has_run_on_a_gpu(dtype, dims, backend):
    with FakeTensorMode(), fakes_on_gpu():
        assert choose_backend('auto', torch.empty(2, 2, 9, dims, dtype=dtype)) == backend


# Rows of 128 bytes: BLOCK, STEP, num_warps and num_stages.
@pytest.mark.parametrize(
    ('kernel', 'tilings'),
    [
        ('_forward', {(9, 0): (64, 64, 4, 2), (8, 0): (64, 32, 4, 2)}),
        ('_backward_q', {(9, 0): (64, 64, 4, 2), (8, 0): (64, 32, 8, 2)}),
        ('_backward_kv', {(9, 0): (64, 64, 4, 2), (8, 0): (64, 16, 4, 2)}),
    ],
)
@pytest.mark.parametrize(('dims', 'element_size'), [(64, 2), (32, 4)])
def test_an_h100_has_its_own_tilings(kernel, tilings, dims, element_size):
    from mmsecvit.ops.backends.triton_kernels import choose_tiling

    for capability, tiling in tilings.items():
        chosen = choose_tiling(kernel, 10_000, dims, element_size, capability)
        assert tuple(chosen.values()) == (dims, *tiling)


def test_rows_may_lie_anywhere_in_memory():
    # Queries as channels-first maps hold them, keys as sdpa likes them, values inside a qkv map.
    q = torch.randn(2, 2, 16, 20, device=DEVICE).transpose(2, 3)
    k = torch.randn(2, 2, 20, 16, device=DEVICE)
    v = torch.randn(2, 20, 3, 2, 16, device=DEVICE)[:, :, 2].transpose(1, 2)
    weights = torch.randn(2, 2, 16, 20, device=DEVICE).transpose(2, 3)
    order = torch.rand(20, 2, 2, device=DEVICE).argsort(0).permute(1, 2, 0)
    assert_as_exact_as_sdpa(torch.float32, (q, k, v), order, 3, weights)


def test_large_logits_do_not_overflow():
    q, k, v = torch.randn(3, 1, 1, 40, 16, device=DEVICE) * 100
    weights = torch.randn(1, 1, 40, 16, device=DEVICE)
    order = semantic_order(k)
    exact = attend('reference', torch.float64, (q, k, v), order, 3, weights)
    fused = attend('triton', torch.float32, (q, k, v), order, 3, weights)
    assert all(x.isfinite().all() for x in fused)
    # Each query attends to one key: attention and the values' gradient are rows of others.
    for i in (0, 3):
        torch.testing.assert_close(fused[i], exact[i], rtol=1e-2, atol=1e-2)


def test_one_input_has_one_result_bit_by_bit():
    qkv = torch.randn(3, 1, 1, 80, 16, device=DEVICE)
    weights = torch.randn(1, 1, 80, 16, device=DEVICE)
    arguments = (torch.float32, qkv, semantic_order(qkv[1]), 2, weights)
    for x, again in zip(attend('triton', *arguments), attend('triton', *arguments), strict=True):
        assert torch.equal(x, again)


def test_the_operation_is_registered_as_torch_demands():
    q, k, v = torch.randn(3, 1, 10, 2, 8, device=DEVICE)
    arguments = (q, k, v, semantic_order(k.transpose(1, 2)), 2, 0.3)
    torch.library.opcheck(torch.ops.mmsecvit.sec_attention.default, arguments)


def test_compiling_keeps_it_in_one_graph_for_all_lengths():
    compiles = []

    def backend(graph, inputs):
        compiles.append(sum('mmsecvit.sec_attention' in str(n.target) for n in graph.graph.nodes))
        return graph

    @torch.compile(backend=backend, fullgraph=True, dynamic=True)
    def attend(q, k, v):
        return sec_attention(q, k, v, 3, backend='triton')

    for length in (20, 23, 31):
        q, k, v = torch.randn(3, 1, 1, length, 8, device=DEVICE)
        expected = sec_attention(q, k, v, 3, backend='reference')
        torch.testing.assert_close(attend(q, k, v), expected)
    assert compiles == [1]


@pytest.mark.parametrize(
    ('dtype', 'dims', 'message'),
    [
        (torch.float64, 8, "backend 'triton' takes float32, float16 and bfloat16, got torch.float"),
        (torch.float32, 136, "backend 'triton' takes heads of at most 128 channels, got"),
    ],
)
def test_what_it_cannot_take_is_named(dtype, dims, message):
    q, k, v = torch.randn(3, 1, 1, 6, dims, dtype=dtype, device=DEVICE)
    with pytest.raises(ValueError, match=message):
        sec_attention(q, k, v, 2, backend='triton')


WITHOUT = """
import os, sys
{setting}
import torch
from mmsecvit.ops import sec_attention
assert 'triton' not in sys.modules or {setting!r}
sec_attention(*torch.randn(3, 1, 1, 8, 8), 2)
sec_attention(*torch.randn(3, 1, 1, 8, 8), 2, backend='triton')
"""


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ("sys.modules['triton'] = None", 'needs the package triton and torch 2.7 or newer'),
        ("os.environ.pop('TRITON_INTERPRET', None)", 'needs CUDA tensors'),
    ],
)
def test_without_triton_or_a_gpu_auto_works_and_triton_says_what_is_missing(setting, message):
    code = WITHOUT.format(setting=setting)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert f"InputError: backend 'triton' {message}" in done.stderr


def test_second_derivatives_are_refused():
    q, k, v = (torch.randn(1, 2, 10, 8, device=DEVICE, requires_grad=True) for _ in range(3))
    out = sec_attention(q, k, v, 2, backend='triton')
    # The query also enters directly, so that a missing graph of the gradient would not show.
    (grad,) = torch.autograd.grad((out * q).sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match='once_differentiable'):
        grad.sum().backward()
