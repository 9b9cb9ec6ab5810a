"""Operations on channels-last maps that Triton computes in one pass, for CUDA.

They take tensors for which :func:`mmsecvit.ops.backends.triton.unsupported_reason` is None. Each
pass is an operation of torch with a fake, so that ``torch.compile`` takes it as a whole. Kernels
are imported when they first run.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backends.triton import (
    AVAILABLE,
    compute_order,
    is_eager,
    is_on_gpu,
    unproven_reason,
    unsupported_reason,
)

KERNELS = (3, 5)


def takes(x: Tensor, kernel_size: int) -> bool:
    """Return whether :func:`depthwise_conv2d` should be used for ``x``, (B, H, W, C)."""
    if not is_on_gpu(x) or kernel_size not in KERNELS:
        return False
    channel = x[..., :1]  # how wide heads are does not matter here
    return unsupported_reason(channel) is None and unproven_reason(channel) is None


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    """Convolve each channel of a channels-last map with its own kernel.

    Sums run in float32, whatever the dtypes of the arguments, and are rounded once.

    Args:
        x: (B, H, W, C).
        weight: (C, 1, K, K), K one of ``KERNELS``.
        bias: (C,), or None.
        residual: Whether ``x`` is added to the result.

    Returns:
        (B, H, W, C), contiguous, dtype of ``x``.
    """
    return _Convolution.apply(x, weight, bias, residual)  # type: ignore[no-untyped-call]


def seca(
    qkv: Tensor,
    num_heads: int,
    num_clusters: int,
    rotary: Tensor | None,
    lce_weight: Tensor | None,
    lce_bias: Tensor | None,
    scale: float,
) -> Tensor:
    """Attend inside semantic clusters, and add the local context of the values (Eq. 2-6).

    Args:
        qkv: Projection of a map, (B, H, W, 3C): queries, keys and values, each (heads, d).
        num_heads: Number of heads.
        num_clusters: Number of clusters, at most H * W.
        rotary: Table of :func:`mmsecvit.layers.rotary_table`, (H * W, d / 2, 2), or None.
        lce_weight: Depth-wise kernel over the values, (C, 1, K, K), or None.
        lce_bias: (C,), or None.
        scale: Factor on the product of queries and keys.

    Returns:
        (B, H, W, C).
    """
    arguments = (qkv, num_heads, num_clusters, rotary, lce_weight, lce_bias, scale)
    return _SECA.apply(*arguments)  # type: ignore[no-untyped-call]


# Functions of autograd that call the bodies of the operations: in eager mode, the operations and
# their `register_autograd` take several times as long as all kernels (torch 2.11).
class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.residual = residual
        run = _convolution if is_eager(x) else _convolution_operation
        return run(x, weight, bias, residual)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        with_weight = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        run = _convolution_backward if is_eager(x) else _convolution_backward_operation
        grads = run(grad_out, x, weight, ctx.residual, with_weight)
        of_bias = grads[2] if ctx.needs_input_grad[2] else None
        return grads[0], grads[1] if with_weight else None, of_bias, None


class _SECA(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        num_heads: int,
        num_clusters: int,
        rotary: Tensor | None,
        lce_weight: Tensor | None,
        lce_bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        run = _seca if is_eager(qkv) else _seca_operation
        outputs = run(qkv, num_heads, num_clusters, rotary, lce_weight, lce_bias, scale)
        ctx.save_for_backward(qkv, rotary, lce_weight, *outputs)
        ctx.num_heads, ctx.num_clusters, ctx.scale = num_heads, num_clusters, scale
        return outputs[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        qkv, rotary, lce_weight, *outputs = ctx.saved_tensors
        with_weight = ctx.needs_input_grad[4] or ctx.needs_input_grad[5]
        run = _seca_backward if is_eager(qkv) else _seca_backward_operation
        grads = run(
            grad_out,
            qkv,
            ctx.num_heads,
            ctx.num_clusters,
            rotary,
            lce_weight,
            ctx.scale,
            *outputs,
            with_weight,  # type: ignore[call-arg]
        )
        of_bias = grads[2] if ctx.needs_input_grad[5] else None
        return grads[0], None, None, None, grads[1] if with_weight else None, of_bias, None


def _rows(x: Tensor) -> Tensor:
    """View (B, H, W, C) as (B * H * W, C), or copy where rows have several strides."""
    x = x.flatten(0, 2)
    return x if x.stride(1) == 1 else x.contiguous()


def _taps(weight: Tensor) -> Tensor:
    """Lay out (C, 1, K, K) as (K * K, C)."""
    return weight.flatten(1).t().contiguous()


def _convolution(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    from .fused_kernels import convolve_rows

    rows, grid = _rows(x), (x.shape[1], x.shape[2])
    out = rows.new_empty(rows.shape)
    convolve_rows(rows, _taps(weight), bias, None, out, grid, residual=residual)
    return out.view(x.shape)


def _convolution_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, residual: bool, with_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from .fused_kernels import convolve_rows, weight_gradients

    rows, grid = _rows(grad_out), (x.shape[1], x.shape[2])
    grad_x = rows.new_empty(rows.shape)
    taps = _taps(weight)
    convolve_rows(rows, taps, None, None, grad_x, grid, residual=residual, backward=True)
    of_weight = (weight.new_empty(0), weight.new_empty(0))
    if with_weight:
        of_weight = weight_gradients(_rows(x), rows, weight, grid)
    return grad_x.view(x.shape), *of_weight


def _empty_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool) -> Tensor:
    return x.new_empty(x.shape)


def _empty_convolution_grads(
    grad_out: Tensor, x: Tensor, weight: Tensor, residual: bool, with_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if not with_weight:
        return x.new_empty(x.shape), weight.new_empty(0), weight.new_empty(0)
    return x.new_empty(x.shape), torch.empty_like(weight), weight.new_empty(weight.shape[0])


def _heads(x: Tensor, i: int, channels: int, num_heads: int) -> Tensor:
    """View the ``i``-th ``channels`` of (B, L, parts * channels) as (B, L, heads, d)."""
    batch, length, stride = x.shape
    dims = channels // num_heads
    # One call instead of several views, whose cost in Python is that of a kernel.
    return x.as_strided(
        (batch, length, num_heads, dims),
        (length * stride, stride, dims, 1),
        x.storage_offset() + i * channels,
    )


def _part(x: Tensor, i: int, channels: int) -> Tensor:
    """View the ``i``-th ``channels`` of (B, L, parts * channels) as (B * L, channels)."""
    size = (x.shape[0] * x.shape[1], channels)
    return x.as_strided(size, (x.shape[2], 1), x.storage_offset() + i * channels)


def _seca(
    qkv: Tensor,
    num_heads: int,
    num_clusters: int,
    rotary: Tensor | None,
    lce_weight: Tensor | None,
    lce_bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute the result, and what its gradient needs: attention, turned, order, log_sum."""
    from .backends.triton_kernels import launch_forward
    from .fused_kernels import convolve_rows, rotate_rows

    batch, height, width, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2], qkv.shape[3] // 3
    qkv = qkv.contiguous().view(batch, height * width, 3 * channels)
    turned = qkv.new_empty(0)
    keys = qkv
    if rotary is not None:
        keys = turned = qkv.new_empty(batch, height * width, 2 * channels)
        rotate_rows(qkv, rotary, turned, 2 * channels, channels // num_heads, backward=False)
    q, k = (_heads(keys, i, channels, num_heads) for i in range(2))
    v = _heads(qkv, 2, channels, num_heads)
    if num_clusters > 1:
        order = compute_order(k)
    else:
        ranks = torch.arange(height * width, device=qkv.device)
        order = ranks.expand(batch, num_heads, -1).contiguous()
    attended = q.new_empty(q.shape)
    log_sum = torch.empty(order.shape, dtype=torch.float32, device=qkv.device)
    launch_forward(q, k, v, order, attended, log_sum, num_clusters, scale)
    out = attended.view(batch, height, width, channels)
    if lce_weight is None:
        return out, qkv.new_empty(0), turned, order, log_sum
    attended = attended.view(-1, channels)
    total = attended.new_empty(attended.shape)
    values, taps = _part(qkv, 2, channels), _taps(lce_weight)
    convolve_rows(values, taps, lce_bias, attended, total, (height, width), residual=False)
    return total.view(out.shape), out, turned, order, log_sum


def _empty_seca(
    qkv: Tensor,
    num_heads: int,
    num_clusters: int,
    rotary: Tensor | None,
    lce_weight: Tensor | None,
    lce_bias: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    batch, height, width, channels = qkv.shape[0], qkv.shape[1], qkv.shape[2], qkv.shape[3] // 3
    length = height * width
    return (
        qkv.new_empty(batch, height, width, channels),
        qkv.new_empty(0 if lce_weight is None else (batch, height, width, channels)),
        qkv.new_empty(0 if rotary is None else (batch, length, 2 * channels)),
        qkv.new_empty(batch, num_heads, length, dtype=torch.int64),
        qkv.new_empty(batch, num_heads, length, dtype=torch.float32),
    )


def _seca_backward(
    grad_out: Tensor,
    qkv: Tensor,
    num_heads: int,
    num_clusters: int,
    rotary: Tensor | None,
    lce_weight: Tensor | None,
    scale: float,
    out: Tensor,
    attended: Tensor,
    turned: Tensor,
    order: Tensor,
    log_sum: Tensor,
    with_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from .backends.triton_kernels import launch_backward
    from .fused_kernels import convolve_rows, rotate_rows, weight_gradients

    batch, height, width, channels = out.shape
    grid, length, shape = (height, width), height * width, qkv.shape
    qkv = qkv.contiguous().view(batch, length, 3 * channels)
    grad_out = grad_out.contiguous().view(batch, length, channels)
    attended = (out if lce_weight is None else attended).view(batch, length, channels)
    keys = qkv if rotary is None else turned
    q, k = (_heads(keys, i, channels, num_heads) for i in range(2))
    v = _heads(qkv, 2, channels, num_heads)
    grad_qkv = torch.empty_like(qkv)
    grad_q, grad_k, grad_v = (_heads(grad_qkv, i, channels, num_heads) for i in range(3))
    attended, grad_heads = (_heads(x, 0, channels, num_heads) for x in (attended, grad_out))
    launch_backward(
        q,
        k,
        v,
        order,
        attended,
        log_sum,
        grad_heads,
        (grad_q, grad_k, grad_v),
        num_clusters,
        scale,
    )
    if rotary is not None:
        rotate_rows(grad_qkv, rotary, grad_qkv, 2 * channels, channels // num_heads, backward=True)
    of_weight = (qkv.new_empty(0), qkv.new_empty(0))
    if lce_weight is not None:
        rows, taps = grad_out.view(-1, channels), _taps(lce_weight)
        grad_values = _part(grad_qkv, 2, channels)
        convolve_rows(
            rows, taps, None, grad_values, grad_values, grid, residual=False, backward=True
        )
        if with_weight:
            of_weight = weight_gradients(_part(qkv, 2, channels), rows, lce_weight, grid)
    return grad_qkv.view(shape), *of_weight


def _empty_seca_grads(
    grad_out: Tensor,
    qkv: Tensor,
    num_heads: int,
    num_clusters: int,
    rotary: Tensor | None,
    lce_weight: Tensor | None,
    scale: float,
    out: Tensor,
    attended: Tensor,
    turned: Tensor,
    order: Tensor,
    log_sum: Tensor,
    with_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_qkv = qkv.new_empty(qkv.shape)
    if lce_weight is None or not with_weight:
        return grad_qkv, qkv.new_empty(0), qkv.new_empty(0)
    return grad_qkv, torch.empty_like(lce_weight), lce_weight.new_empty(lce_weight.shape[0])


if AVAILABLE:
    _convolution_operation = torch.library.custom_op(
        'mmsecvit::depthwise_conv2d',
        _convolution,
        mutates_args=(),
        schema='(Tensor x, Tensor weight, Tensor? bias, bool residual) -> Tensor',
    )
    _convolution_operation.register_fake(_empty_convolution)
    _convolution_backward_operation = torch.library.custom_op(
        'mmsecvit::depthwise_conv2d_backward', _convolution_backward, mutates_args=()
    )
    _convolution_backward_operation.register_fake(_empty_convolution_grads)
    # Written out, since torch 2.7 reads no `Tensor | None`.
    _seca_operation = torch.library.custom_op(
        'mmsecvit::seca',
        _seca,
        mutates_args=(),
        schema='(Tensor qkv, int num_heads, SymInt num_clusters, Tensor? rotary, '
        'Tensor? lce_weight, Tensor? lce_bias, float scale) '
        '-> (Tensor, Tensor, Tensor, Tensor, Tensor)',
    )
    _seca_operation.register_fake(_empty_seca)
    _seca_backward_operation = torch.library.custom_op(
        'mmsecvit::seca_backward',
        _seca_backward,
        mutates_args=(),
        schema='(Tensor grad_out, Tensor qkv, int num_heads, SymInt num_clusters, Tensor? rotary, '
        'Tensor? lce_weight, float scale, Tensor out, Tensor attended, Tensor turned, '
        'Tensor order, Tensor log_sum, bool with_weight) -> (Tensor, Tensor, Tensor)',
    )
    _seca_backward_operation.register_fake(_empty_seca_grads)
