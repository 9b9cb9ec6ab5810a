"""Triton kernels around the attention, and their launches: rotation and depth-wise convolution.

All tensors here are rows of channels, (N, channels): the channels of a row are adjacent in memory,
rows have any one stride. Row ``n`` is token ``n % L`` of its image. Every sum has a fixed order.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .backends.triton import capability

# Rows and channels of a block, and num_warps.
TILINGS = {
    '_rotate': (4, 128, 1),
    '_convolve': (16, 64, 2),
    '_weight_gradients': (16, 64, 4),
}
# By compute capability, instead of those above: with 2 warps a 5x5 convolution spills there.
TILINGS_BY_CAPABILITY = {('_convolve', (10, 0)): (16, 64, 4)}
# Rows that one program of the weights' gradient sums, at least, if there are as many; and programs,
# at most.
FEWEST_ROWS = 256
MOST_CHUNKS = 256


@triton.jit
def _rows_from(first, length, BLOCK: tl.constexpr):
    """Return the rows of a block, of which ``first`` (int64) is the first, and their tokens."""
    places = tl.arange(0, BLOCK)
    # One division of 64 bits for the block instead of one for each row.
    return first + places, ((first % length).to(tl.int32) + places) % length


@triton.jit
def _rotate(
    x,
    table,
    out,
    num_rows,
    length,
    columns,
    x_stride,
    out_stride,
    DIMS: tl.constexpr,
    BACKWARD: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
):
    rows, tokens = _rows_from(tl.program_id(0).to(tl.int64) * BLOCK, length, BLOCK)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    valid = (rows < num_rows)[:, None] & (column < columns)[None, :]
    pair = tl.program_id(1) * (BLOCK_COLUMNS // 2) + tl.arange(0, BLOCK_COLUMNS // 2)
    valid_pairs = (rows < num_rows)[:, None] & (pair * 2 < columns)[None, :]
    angles = table + tokens[:, None] * DIMS + (pair % (DIMS // 2) * 2)[None, :]
    cos = tl.load(angles, mask=valid_pairs, other=0.0)
    sin = tl.load(angles + 1, mask=valid_pairs, other=0.0)
    if BACKWARD:
        sin = -sin
    values = tl.load(x + rows[:, None] * x_stride + column[None, :], mask=valid, other=0.0)
    values = tl.reshape(values.to(tl.float32), (BLOCK, BLOCK_COLUMNS // 2, 2))
    first, second = tl.split(values)
    turned = tl.join(first * cos - second * sin, first * sin + second * cos)
    turned = tl.reshape(turned, (BLOCK, BLOCK_COLUMNS))
    tl.store(
        out + rows[:, None] * out_stride + column[None, :],
        turned.to(out.dtype.element_ty),
        mask=valid,
    )


@triton.jit
def _convolve(
    x,
    weight,
    bias,
    addend,
    out,
    num_rows,
    height,
    width,
    channels,
    x_stride,
    addend_stride,
    out_stride,
    KERNEL: tl.constexpr,
    RESIDUAL: tl.constexpr,
    BACKWARD: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_ADDEND: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    rows, tokens = _rows_from(tl.program_id(0).to(tl.int64) * BLOCK, height * width, BLOCK)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    in_channels = channel < channels
    valid = (rows < num_rows)[:, None] & in_channels[None, :]
    y, x_place = tokens // width, tokens % width
    total = tl.zeros([BLOCK, BLOCK_CHANNELS], tl.float32)
    if HAS_BIAS:
        total += tl.load(bias + channel, mask=in_channels, other=0.0).to(tl.float32)[None, :]
    if HAS_ADDEND:
        added = tl.load(
            addend + rows[:, None] * addend_stride + channel[None, :], mask=valid, other=0.0
        )
        total += added.to(tl.float32)
    for i in tl.static_range(KERNEL):
        for j in tl.static_range(KERNEL):
            down = i - KERNEL // 2
            right = j - KERNEL // 2
            inside = (y + down >= 0) & (y + down < height)
            inside &= (x_place + right >= 0) & (x_place + right < width)
            neighbors = rows + (down * width + right)
            values = tl.load(
                x + neighbors[:, None] * x_stride + channel[None, :],
                mask=valid & inside[:, None],
                other=0.0,
            )
            tap = i * KERNEL + j
            if BACKWARD:
                tap = KERNEL * KERNEL - 1 - tap
            factor = tl.load(weight + tap * channels + channel, mask=in_channels, other=0.0)
            factor = factor.to(tl.float32)
            if RESIDUAL and (down == 0 and right == 0):
                factor += 1
            total += values.to(tl.float32) * factor[None, :]
    tl.store(
        out + rows[:, None] * out_stride + channel[None, :],
        total.to(out.dtype.element_ty),
        mask=valid,
    )


@triton.jit
def _products(x, grad_rows, neighbors, mask, channel, x_stride):
    values = tl.load(x + neighbors[:, None] * x_stride + channel[None, :], mask=mask, other=0.0)
    return values.to(tl.float32) * grad_rows


@triton.jit
def _weight_gradients(
    x,
    grad_out,
    sums,
    bias_sums,
    num_rows,
    height,
    width,
    channels,
    x_stride,
    grad_stride,
    chunk,
    KERNEL: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """Sum over one chunk of rows, for the 3 or 5 weights of one row of the kernel."""
    i = tl.program_id(0) % KERNEL
    part = (tl.program_id(0) // KERNEL).to(tl.int64)
    channel = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    in_channels = channel < channels
    down = i - KERNEL // 2
    first = tl.zeros([BLOCK, BLOCK_CHANNELS], tl.float32)
    second = tl.zeros([BLOCK, BLOCK_CHANNELS], tl.float32)
    third = tl.zeros([BLOCK, BLOCK_CHANNELS], tl.float32)
    if KERNEL == 5:
        fourth = tl.zeros([BLOCK, BLOCK_CHANNELS], tl.float32)
        fifth = tl.zeros([BLOCK, BLOCK_CHANNELS], tl.float32)
    total = tl.zeros([BLOCK, BLOCK_CHANNELS], tl.float32)
    for step in range(0, chunk, BLOCK):
        rows, tokens = _rows_from(part * chunk + step, height * width, BLOCK)
        valid = (rows < num_rows)[:, None] & in_channels[None, :]
        y, column = tokens // width, tokens % width
        grad_rows = tl.load(
            grad_out + rows[:, None] * grad_stride + channel[None, :], mask=valid, other=0.0
        ).to(tl.float32)
        total += grad_rows
        valid &= ((y + down >= 0) & (y + down < height))[:, None]
        neighbors = rows + (down * width - KERNEL // 2)
        left = column - KERNEL // 2
        inside = valid & ((left >= 0) & (left < width))[:, None]
        first += _products(x, grad_rows, neighbors, inside, channel, x_stride)
        inside = valid & ((left + 1 >= 0) & (left + 1 < width))[:, None]
        second += _products(x, grad_rows, neighbors + 1, inside, channel, x_stride)
        inside = valid & ((left + 2 >= 0) & (left + 2 < width))[:, None]
        third += _products(x, grad_rows, neighbors + 2, inside, channel, x_stride)
        if KERNEL == 5:
            inside = valid & (left + 3 < width)[:, None]
            fourth += _products(x, grad_rows, neighbors + 3, inside, channel, x_stride)
            inside = valid & (left + 4 < width)[:, None]
            fifth += _products(x, grad_rows, neighbors + 4, inside, channel, x_stride)
    out = sums + (part * (KERNEL * KERNEL) + i * KERNEL) * channels + channel
    tl.store(out, tl.sum(first, 0), mask=in_channels)
    tl.store(out + channels, tl.sum(second, 0), mask=in_channels)
    tl.store(out + 2 * channels, tl.sum(third, 0), mask=in_channels)
    if KERNEL == 5:
        tl.store(out + 3 * channels, tl.sum(fourth, 0), mask=in_channels)
        tl.store(out + 4 * channels, tl.sum(fifth, 0), mask=in_channels)
    if i == 0:
        tl.store(bias_sums + part * channels + channel, tl.sum(total, 0), mask=in_channels)


def choose_tiling(kernel: str, channels: int, capability: tuple[int, int]) -> tuple[int, int, int]:
    """Return rows and channels of a block, no more channels than there are, and num_warps.

    Args:
        kernel: A key of ``TILINGS``.
        channels: Channels of the rows.
        capability: Compute capability of the GPU.
    """
    tiling = TILINGS_BY_CAPABILITY.get((kernel, capability), TILINGS[kernel])
    block, block_channels, num_warps = tiling
    return block, min(block_channels, triton.next_power_of_2(channels)), num_warps


def chunk_rows(num_rows: int, block: int) -> int:
    """Return how many rows one program of the weights' gradient sums, a multiple of its block."""
    rows = max(FEWEST_ROWS, triton.cdiv(num_rows, MOST_CHUNKS))
    return triton.cdiv(max(1, min(rows, num_rows)), block) * block


def rotate_rows(
    x: Tensor, table: Tensor, out: Tensor, columns: int, dims: int, *, backward: bool
) -> None:
    """Rotate each pair of channels by its token's angle, or back.

    Args:
        x: (B, L, channels), contiguous.
        table: Cosine and sine of each pair of a head, (L, dims / 2, 2), float32, contiguous.
        out: Result, (B, L, channels), contiguous; may be ``x``.
        columns: Number of channels that turn, the first of ``x`` and ``out``.
        dims: Channels of a head.
        backward: Whether to turn back.
    """
    num_rows = x.shape[0] * x.shape[1]
    block, block_columns, num_warps = choose_tiling('_rotate', columns, capability(x))
    with torch.cuda.device_of(x):
        _rotate[(triton.cdiv(num_rows, block), triton.cdiv(columns, block_columns))](
            x,
            table,
            out,
            num_rows,
            x.shape[1],
            columns,
            x.shape[2],
            out.shape[2],
            DIMS=dims,
            BACKWARD=backward,
            BLOCK=block,
            BLOCK_COLUMNS=block_columns,
            num_warps=num_warps,
        )


def convolve_rows(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    addend: Tensor | None,
    out: Tensor,
    grid: tuple[int, int],
    *,
    residual: bool,
    backward: bool = False,
) -> None:
    """Convolve each channel with its own kernel.

    Args:
        x: (N, channels).
        weight: (K * K, channels), contiguous: as rows, the kernel reads many at once.
        bias: (channels,), or None.
        addend: Added to the result, (N, channels), or None; may be ``out``.
        out: Result, (N, channels).
        grid: Height and width of the map.
        residual: Whether ``x`` is added to the result.
        backward: Whether ``x`` is the gradient of the result and ``out`` that of the input.
    """
    num_rows, channels = x.shape
    block, block_channels, num_warps = choose_tiling('_convolve', channels, capability(x))
    with torch.cuda.device_of(x):
        _convolve[(triton.cdiv(num_rows, block), triton.cdiv(channels, block_channels))](
            x,
            weight,
            bias,
            addend,
            out,
            num_rows,
            *grid,
            channels,
            x.stride(0),
            addend.stride(0) if addend is not None else 0,
            out.stride(0),
            KERNEL=math.isqrt(weight.shape[0]),
            RESIDUAL=residual,
            BACKWARD=backward,
            HAS_BIAS=bias is not None,
            HAS_ADDEND=addend is not None,
            BLOCK=block,
            BLOCK_CHANNELS=block_channels,
            num_warps=num_warps,
        )


def weight_gradients(
    x: Tensor, grad_out: Tensor, weight: Tensor, grid: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the weights and of the bias, in the dtype of ``weight``.

    Args:
        x: Input of the convolution, (N, channels).
        grad_out: Gradient of its result, (N, channels).
        weight: (channels, 1, K, K).
        grid: Height and width of the map.

    Returns:
        Like ``weight``, and (channels,).
    """
    num_rows, channels = x.shape
    kernel = weight.shape[-1]
    block, block_channels, num_warps = choose_tiling('_weight_gradients', channels, capability(x))
    chunk = chunk_rows(num_rows, block)
    num_chunks = triton.cdiv(num_rows, chunk)
    sums = x.new_empty(num_chunks, kernel**2, channels, dtype=torch.float32)
    bias_sums = x.new_empty(num_chunks, channels, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _weight_gradients[(num_chunks * kernel, triton.cdiv(channels, block_channels))](
            x,
            grad_out,
            sums,
            bias_sums,
            num_rows,
            *grid,
            channels,
            x.stride(0),
            grad_out.stride(0),
            chunk,
            KERNEL=kernel,
            BLOCK=block,
            BLOCK_CHANNELS=block_channels,
            num_warps=num_warps,
        )
    # With the strides of the weight, or DDP warns and copies.
    # (K * K, channels) -> (channels, 1, K, K)
    grad_weight = torch.empty_like(weight)
    grad_weight.copy_(sums.sum(0).t().unflatten(1, (1, kernel, kernel)))
    return grad_weight, bias_sums.sum(0).to(weight.dtype)
