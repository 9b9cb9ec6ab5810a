"""Attention inside clusters as one fused operation on CUDA, by Triton.

The operation is registered with torch, so that ``torch.compile`` takes it as a whole. Its kernels
are imported when they first run: importing this module does not need triton.
"""

import os
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_DIMS = 128
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# torch 2.7 came with the first Triton whose kernels take tuples.
AVAILABLE = torch.__version__ >= (2, 7) and find_spec('triton') is not None  # type: ignore[operator]
# Then Triton interprets its kernels, slowly, on tensors in main memory: for tests without a GPU.
INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'


def triton_obstacle(x: Tensor) -> str | None:
    """What keeps queries, keys and values like ``x`` from this backend; None if nothing does."""
    if not AVAILABLE:
        return 'needs the package triton and torch 2.7 or newer'
    if not (x.is_cuda or INTERPRETED):
        return 'needs CUDA tensors'
    if x.is_cuda and torch.cuda.get_device_properties(x.device).major < 8:
        return 'needs a GPU of compute capability 8.0 or newer'
    if x.dtype not in DTYPES:
        return 'takes float32, float16 and bfloat16'
    if x.shape[-1] > MAX_DIMS:
        return f'takes heads of at most {MAX_DIMS} channels'
    return None


def triton_attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, num_clusters: int, scale: float
) -> Tensor:
    """Attention inside clusters that reads and writes each token's row where it lies.

    Sums run in float32, and products of float32 are exact to float32 (no TF32). There are no
    second derivatives.

    Args:
        q: Queries, (B, heads, L, d), to which :func:`triton_obstacle` has no objection.
        k: Keys, like ``q``.
        v: Values, like ``q``.
        order: Permutation of each head's tokens, (B, heads, L), int64, or None for one
            cluster.
        num_clusters: Number of clusters, at most L.
        scale: Factor on the product of queries and keys.

    Returns:
        (B, heads, L, d), tokens in the order of ``q``; in the memory of (B, L, heads, d), so
        that a map with its channels last needs no copy of it.
    """
    if order is None:
        # Without clusters there is nothing to gather, and torch has kernels for the rest.
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    return _attention(q, k, v, order, num_clusters, scale)[0]


def _attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, num_clusters: int, scale: float
) -> tuple[Tensor, Tensor]:
    from .triton_kernels import launch_forward

    out, log_sum = _empty_outputs(q, k, v, order, num_clusters, scale)
    q, k, v = (_with_neighbouring_channels(x) for x in (q, k, v))
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

    grads = _empty_grads(grad_out, q, k, v, order, out, log_sum, num_clusters, scale)
    grad_out = grad_out.transpose(1, 2).contiguous().transpose(1, 2)
    q, k, v = (_with_neighbouring_channels(x) for x in (q, k, v))
    order = order.contiguous()
    launch_backward(q, k, v, order, out, log_sum, grad_out, grads, num_clusters, scale)
    return grads


def _empty_outputs(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, num_clusters: int, scale: float
) -> tuple[Tensor, Tensor]:
    return _empty_by_token(q), q.new_empty(q.shape[:3], dtype=torch.float32)


def _empty_grads(
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
    return _empty_by_token(q), _empty_by_token(k), _empty_by_token(v)


def _empty_by_token(x: Tensor) -> Tensor:
    """Empty (B, heads, L, d) in the memory of (B, L, heads, d)."""
    batch, heads, length, dims = x.shape
    return x.new_empty(batch, length, heads, dims).transpose(1, 2)


def _with_neighbouring_channels(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _save_for_backward(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.num_clusters, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiate(ctx: Any, grad_out: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    q, k, v, order, out, log_sum = ctx.saved_tensors
    grads = _attention_backward(grad_out, q, k, v, order, out, log_sum, ctx.num_clusters, ctx.scale)
    return *grads, None, None, None


if AVAILABLE:
    _attention = torch.library.custom_op('mmsecvit::sec_attention', _attention, mutates_args=())
    _attention.register_fake(_empty_outputs)
    _attention_backward = torch.library.custom_op(
        'mmsecvit::sec_attention_backward', _attention_backward, mutates_args=()
    )
    _attention_backward.register_fake(_empty_grads)
    _attention.register_autograd(_differentiate, setup_context=_save_for_backward)
