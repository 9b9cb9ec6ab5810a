"""Operations on channels-last maps that Triton computes in one pass, for CUDA.

Each is an operation of torch with a fake and a gradient. They take tensors for which
:func:`mmsecvit.ops.backends.triton.unsupported_reason` is None. Kernels are imported when they
first run.
"""

from typing import Any

import torch
from torch import Tensor

from .backends.triton import AVAILABLE, compute_order, unproven_reason, unsupported_reason

KERNELS = (3, 5)


def takes(x: Tensor, kernel_size: int) -> bool:
    """Return whether :func:`depthwise_conv2d` should be used for ``x``, (B, H, W, C)."""
    return (
        x.is_cuda
        and kernel_size in KERNELS
        and unsupported_reason(x[..., :1]) is None
        and unproven_reason(x) is None
    )


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor, residual: bool) -> Tensor:
    """Convolve each channel of a channels-last map with its own kernel.

    Sums run in float32, whatever the dtypes of the arguments, and are rounded once.

    Args:
        x: (B, H, W, C).
        weight: (C, 1, K, K), K one of ``KERNELS``.
        bias: (C,).
        residual: Whether ``x`` is added to the result.

    Returns:
        (B, H, W, C), contiguous, dtype of ``x``.
    """
    return _convolution(x, weight, bias, residual)


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
    return _seca(qkv, num_heads, num_clusters, rotary, lce_weight, lce_bias, scale)[0]


def _rows(x: Tensor) -> Tensor:
    """View (B, H, W, C) as (B * H * W, C), or copy where rows have several strides."""
    x = x.flatten(0, 2)
    return x if x.stride(1) == 1 else x.contiguous()


def _convolution(x: Tensor, weight: Tensor, bias: Tensor, residual: bool) -> Tensor:
    from .fused_kernels import convolve_rows

    out = x.new_empty(x.shape)
    convolve_rows(
        _rows(x), weight.contiguous(), bias, None, _rows(out), x.shape[1:3], residual=residual
    )
    return out


def _convolution_backward(
    grad_out: Tensor, x: Tensor, weight: Tensor, residual: bool, with_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from .fused_kernels import convolve_rows, weight_gradients

    grid = x.shape[1:3]
    grad_rows = _rows(grad_out)
    grad_x = x.new_empty(x.shape)
    convolve_rows(
        grad_rows,
        weight.contiguous(),
        None,
        None,
        _rows(grad_x),
        grid,
        residual=residual,
        backward=True,
    )
    if not with_weight:
        return grad_x, weight.new_empty(0), weight.new_empty(0)
    return grad_x, *weight_gradients(_rows(x), grad_rows, weight, grid)


def _empty_convolution(x: Tensor, weight: Tensor, bias: Tensor, residual: bool) -> Tensor:
    return x.new_empty(x.shape)


def _empty_convolution_grads(
    grad_out: Tensor, x: Tensor, weight: Tensor, residual: bool, with_weight: bool
) -> tuple[Tensor, Tensor, Tensor]:
    if not with_weight:
        return x.new_empty(x.shape), weight.new_empty(0), weight.new_empty(0)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), weight.new_empty(len(weight))


def _save_convolution(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, _, ctx.residual = inputs
    ctx.save_for_backward(x, weight)


def _differentiate_convolution(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    with_weight = any(ctx.needs_input_grad[1:3])
    grads = _convolution_backward(grad_out, x, weight, ctx.residual, with_weight)
    return grads[0], *(grads[1:] if with_weight else (None, None)), None


def _split(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, H, W, 3C) into three views (B, H * W, heads, d)."""
    q, k, v = qkv.flatten(1, 2).unflatten(2, (3, num_heads, -1)).unbind(2)
    return q, k, v


def _heads(x: Tensor, num_heads: int) -> Tensor:
    """View (B, H, W, C) as (B, H * W, heads, d)."""
    return x.flatten(1, 2).unflatten(2, (num_heads, -1))


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

    qkv = qkv.contiguous()
    out, attended, turned, order, log_sum = _empty_seca(
        qkv, num_heads, num_clusters, rotary, lce_weight, lce_bias, scale
    )
    q, k, v = _split(qkv, num_heads)
    channels = out.shape[-1]
    if rotary is not None:
        x = _rows(qkv)[:, : 2 * channels]
        rotate_rows(x, rotary, turned.flatten(0, 1), q.shape[-1], backward=False)
        q, k = turned.unflatten(2, (2, num_heads, -1)).unbind(2)
    if num_clusters > 1:
        order = compute_order(k)
    else:
        order.copy_(torch.arange(order.shape[-1], device=order.device))
    attention = out if lce_weight is None else attended
    launch_forward(q, k, v, order, _heads(attention, num_heads), log_sum, num_clusters, scale)
    if lce_weight is not None:
        convolve_rows(
            _rows(qkv)[:, 2 * channels :],
            lce_weight.contiguous(),
            lce_bias,
            _rows(attended),
            _rows(out),
            qkv.shape[1:3],
            residual=False,
        )
    return out, attended, turned, order, log_sum


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
    out = qkv.new_empty(batch, height, width, channels)
    attended = qkv.new_empty(out.shape) if lce_weight is not None else qkv.new_empty(0)
    turned = qkv.new_empty(
        (batch, length, 2 * channels) if rotary is not None else (batch, length, 0)
    )
    order = qkv.new_empty(batch, num_heads, length, dtype=torch.int64)
    log_sum = qkv.new_empty(batch, num_heads, length, dtype=torch.float32)
    return out, attended, turned, order, log_sum


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

    qkv, grad_out = qkv.contiguous(), grad_out.contiguous()
    channels = out.shape[-1]
    q, k, v = _split(qkv, num_heads)
    if rotary is not None:
        q, k = turned.unflatten(2, (2, num_heads, -1)).unbind(2)
    attention = out if lce_weight is None else attended
    grad_qkv = torch.empty_like(qkv)
    launch_backward(
        q,
        k,
        v,
        order,
        _heads(attention, num_heads),
        log_sum,
        _heads(grad_out, num_heads),
        _split(grad_qkv, num_heads),
        num_clusters,
        scale,
    )
    grad_rows, grad_out_rows = _rows(grad_qkv), _rows(grad_out)
    if rotary is not None:
        x = grad_rows[:, : 2 * channels]
        rotate_rows(x, rotary, x, q.shape[-1], backward=True)
    if lce_weight is None:
        return grad_qkv, qkv.new_empty(0), qkv.new_empty(0)
    grad_v = grad_rows[:, 2 * channels :]
    convolve_rows(
        grad_out_rows,
        lce_weight.contiguous(),
        None,
        grad_v,
        grad_v,
        qkv.shape[1:3],
        residual=False,
        backward=True,
    )
    if not with_weight:
        return grad_qkv, qkv.new_empty(0), qkv.new_empty(0)
    values = _rows(qkv)[:, 2 * channels :]
    return grad_qkv, *weight_gradients(values, grad_out_rows, lce_weight, qkv.shape[1:3])


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
    return grad_qkv, lce_weight.new_empty(lce_weight.shape), lce_weight.new_empty(len(lce_weight))


def _save_seca(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, ctx.num_heads, ctx.num_clusters, rotary, lce_weight, _, ctx.scale = inputs
    ctx.save_for_backward(qkv, rotary, lce_weight, *output)
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)


def _differentiate_seca(ctx: Any, grad_out: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    qkv, rotary, lce_weight, *output = ctx.saved_tensors
    with_weight = lce_weight is not None and any(ctx.needs_input_grad[4:6])
    grads = _seca_backward(
        grad_out,
        qkv,
        ctx.num_heads,
        ctx.num_clusters,
        rotary,
        lce_weight,
        ctx.scale,
        *output,
        with_weight,
    )
    of_lce = grads[1:] if with_weight else (None, None)
    return grads[0], None, None, None, *of_lce, None


if AVAILABLE:
    _convolution = torch.library.custom_op(
        'mmsecvit::depthwise_conv2d', _convolution, mutates_args=()
    )
    _convolution.register_fake(_empty_convolution)
    _convolution_backward = torch.library.custom_op(
        'mmsecvit::depthwise_conv2d_backward', _convolution_backward, mutates_args=()
    )
    _convolution_backward.register_fake(_empty_convolution_grads)
    _convolution.register_autograd(_differentiate_convolution, setup_context=_save_convolution)
    # Written out, since torch 2.7 reads no `Tensor | None`.
    _seca = torch.library.custom_op(
        'mmsecvit::seca',
        _seca,
        mutates_args=(),
        schema='(Tensor qkv, int num_heads, int num_clusters, Tensor? rotary, Tensor? lce_weight, '
        'Tensor? lce_bias, float scale) -> (Tensor, Tensor, Tensor, Tensor, Tensor)',
    )
    _seca.register_fake(_empty_seca)
    _seca_backward = torch.library.custom_op(
        'mmsecvit::seca_backward',
        _seca_backward,
        mutates_args=(),
        schema='(Tensor grad_out, Tensor qkv, int num_heads, int num_clusters, Tensor? rotary, '
        'Tensor? lce_weight, float scale, Tensor out, Tensor attended, Tensor turned, '
        'Tensor order, Tensor log_sum, bool with_weight) -> (Tensor, Tensor, Tensor)',
    )
    _seca_backward.register_fake(_empty_seca_grads)
    _seca.register_autograd(_differentiate_seca, setup_context=_save_seca)
