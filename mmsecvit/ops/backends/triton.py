"""Attention inside clusters as one fused operation on CUDA, by Triton.

The operations are registered with torch, so that ``torch.compile`` takes each as a whole. Their
kernels are imported when they first run: importing this module does not need triton.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..clustering import Partition

MAX_DIMS = 128
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# torch 2.7 came with the first Triton whose kernels take tuples.
AVAILABLE = torch.__version__ >= (2, 7) and find_spec('triton') is not None  # type: ignore[operator]
# With TRITON_INTERPRET=1, Triton runs its kernels in Python on CPU tensors: slow, for tests without
# a GPU.
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
# Compute capabilities of the GPUs on which the tests of the kernels have passed, and the most bytes
# of a head's row there: `auto` chooses this backend for them. docs/gpu_kernels.md says what has run
# on which GPU, and what has changed since.
PROVEN_CAPABILITIES: tuple[tuple[int, int], ...] = ((9, 0),)
PROVEN_ROW_BYTES = 128
# Whether fake tensors stand for tensors on such a GPU: see `fakes_on_gpu`.
_fakes_on_gpu = False


@contextmanager
def fakes_on_gpu() -> Iterator[None]:
    """Take fake tensors in main memory for tensors on a GPU on which the tests have passed.

    For counting what a GPU would do: autograd takes no fake CUDA tensors where no GPU is.
    """
    global _fakes_on_gpu
    before, _fakes_on_gpu = _fakes_on_gpu, True
    try:
        yield
    finally:
        _fakes_on_gpu = before


def is_on_gpu(x: Tensor) -> bool:
    """Return whether a tensor is on a GPU, or stands for one that is."""
    return x.is_cuda or (_fakes_on_gpu and type(x) is not Tensor)


def unsupported_reason(x: Tensor) -> str | None:
    """Return the reason why this backend cannot run on tensors like ``x``, or None if it can."""
    if not AVAILABLE:
        return 'needs the package triton and torch 2.7 or newer'
    if not (is_on_gpu(x) or INTERPRETED):
        return 'needs CUDA tensors'
    if is_on_gpu(x) and capability(x) < (8, 0):
        return 'needs a GPU of compute capability 8.0 or newer'
    if x.dtype not in DTYPES:
        return 'takes float32, float16 and bfloat16'
    if x.shape[-1] > MAX_DIMS:
        return f'takes heads of at most {MAX_DIMS} channels'
    return None


def unproven_reason(x: Tensor) -> str | None:
    """Return the reason why ``auto`` does not choose this backend, or None if it does."""
    if not is_on_gpu(x):
        return 'needs CUDA tensors'
    if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return 'cannot be traced by torch.jit'
    if torch.compiler.is_compiling():
        return 'has not been compiled with a whole network on a GPU'
    if capability(x) not in PROVEN_CAPABILITIES:
        return 'has not passed its tests on a GPU of this compute capability'
    if x.shape[-1] * x.element_size() > PROVEN_ROW_BYTES:
        return f'has not run on a GPU with heads of more than {PROVEN_ROW_BYTES} bytes a token'
    return None


def capability(x: Tensor) -> tuple[int, int]:
    """Return the compute capability of the GPU that ``x`` is on or stands for, else (0, 0)."""
    if not x.is_cuda:
        return PROVEN_CAPABILITIES[0] if is_on_gpu(x) else (0, 0)
    properties = torch.cuda.get_device_properties(x.device)
    return properties.major, properties.minor


def attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, partition: Partition, scale: float
) -> Tensor:
    """Attend inside clusters by kernels that read and write each token's row in place.

    Sums run in float32, and products of float32 are exact to float32 (no TF32). There are no
    second derivatives.

    Args:
        q: Queries, (B, L, heads, d), for which :func:`unsupported_reason` is None.
        k: Keys, like ``q``.
        v: Values, like ``q``.
        order: Permutation of each head's tokens, (B, heads, L), int64.
        partition: Clusters of the ordered tokens.
        scale: Factor on the product of queries and keys.

    Returns:
        (B, L, heads, d), contiguous, tokens in the order of ``q``.
    """
    return _Attention.apply(q, k, v, order, partition.num_clusters, scale)  # type: ignore[no-untyped-call]


def order(k: Tensor) -> Tensor:
    """Order the tokens as :func:`mmsecvit.ops.semantic_order` does, in fewer passes.

    Args:
        k: Keys, (B, L, heads, d).

    Returns:
        Token indices by rising similarity, (B, heads, L), int64.
    """
    run = compute_order if is_eager(k) else _order_operation
    return run(k.detach())


def compute_order(k: Tensor) -> Tensor:
    """Order tokens by their keys, (B, L, heads, d), as the body of an operation."""
    from .triton_kernels import launch_similarity

    k = with_adjacent_channels(k)
    batch, length, heads, _ = k.shape
    center = k.sum(dim=1, dtype=torch.float32)
    similarity = torch.empty(batch, heads, length, dtype=torch.float32, device=k.device)
    launch_similarity(k, center, similarity)
    return similarity.sort(dim=-1, stable=True).indices


def is_eager(x: Tensor) -> bool:
    """Return whether kernels can run on ``x`` now: no graph is traced, and it has memory."""
    return type(x) is Tensor and not torch.compiler.is_compiling()


def with_adjacent_channels(x: Tensor) -> Tensor:
    """Return ``x``, or a copy where the channels of a head are not adjacent in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty_order(k: Tensor) -> Tensor:
    batch, length, heads, _ = k.shape
    return k.new_empty(batch, heads, length, dtype=torch.int64)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, num_clusters: int, scale: float
) -> tuple[Tensor, Tensor]:
    from .triton_kernels import launch_forward

    out, log_sum = _empty_outputs(q, k, v, order, num_clusters, scale)
    q, k, v = (with_adjacent_channels(x) for x in (q, k, v))
    launch_forward(q, k, v, order.contiguous(), out, log_sum, num_clusters, scale)
    return out, log_sum


def _attention_backward(
    grad_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    out: Tensor,
    log_sum: Tensor,
    num_clusters: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    from .triton_kernels import launch_backward

    grads = _empty_grads(grad_out, q, k, v)
    grad_out, q, k, v = (with_adjacent_channels(x) for x in (grad_out, q, k, v))
    order = order.contiguous()
    launch_backward(q, k, v, order, out, log_sum, grad_out, grads, num_clusters, scale)
    return grads


def _empty_outputs(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, num_clusters: int, scale: float
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(order.shape, dtype=torch.float32)


def _empty_grads(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


class _Attention(torch.autograd.Function):
    # Calls the bodies of the operations: in eager mode, the operations and their
    # `register_autograd` take several times as long as all kernels (torch 2.11).
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, order: Tensor, num_clusters: int, scale: float
    ) -> Tensor:
        run = _attention if is_eager(q) else _attention_operation
        out, log_sum = run(q, k, v, order, num_clusters, scale)
        ctx.save_for_backward(q, k, v, order, out, log_sum)
        ctx.num_clusters, ctx.scale = num_clusters, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        run = _attention_backward if is_eager(grad_out) else _attention_backward_operation
        q, k, v, order, out, log_sum = ctx.saved_tensors
        grads = run(grad_out, q, k, v, order, out, log_sum, ctx.num_clusters, ctx.scale)
        return *grads, None, None, None


if AVAILABLE:
    _order_operation = torch.library.custom_op(
        'mmsecvit::semantic_order', compute_order, mutates_args=()
    )
    _order_operation.register_fake(_empty_order)
    _attention_operation = torch.library.custom_op(
        'mmsecvit::sec_attention', _attention, mutates_args=()
    )
    _attention_operation.register_fake(_empty_outputs)
    _attention_backward_operation = torch.library.custom_op(
        'mmsecvit::sec_attention_backward', _attention_backward, mutates_args=()
    )
    _attention_backward_operation.register_fake(_empty_grads)
