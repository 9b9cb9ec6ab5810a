"""Triton kernels of attention inside clusters, and their launches.

A program owns one block of one cluster of one head. It finds the cluster's tokens through the
order, reads their rows in place and writes its results back to them: nothing is permuted in
memory, and since each token is in one cluster, no two programs write the same row. Softmax runs
online over blocks of keys, and again in the backward pass from the logarithm of its sum
(FlashAttention-2, arXiv:2307.08691). Every sum has a fixed order: one input has one result, bit
by bit.

In all launches the tensors of rows (queries, keys, values, the result and the gradients) are
(B, L, heads, d) with the channels of a head next to each other in memory, and otherwise of any
strides; ``order`` is (B, heads, L), int64, contiguous; ``log_sum`` and ``delta`` are float32,
(B, heads, L), contiguous, and follow the order of the clusters, not of the tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton import INTERPRETED, capability

LOG2_E = tl.constexpr(1.4426950408889634)
# The interpreter multiplies the bits of bfloat16 instead of its values.
WIDEN_PRODUCTS = tl.constexpr(INTERPRETED)
SMALLEST_NORM = tl.constexpr(torch.finfo(torch.float32).tiny)


@triton.jit
def _own_block(sizes, BLOCK: tl.constexpr):
    """Return batch, head, first and end rank of the cluster, and the ranks of this program."""
    heads, length, num_clusters, num_blocks = sizes
    block = tl.program_id(0) % num_blocks
    # Products with the length, and offsets into large tensors, need 64 bits.
    rest = (tl.program_id(0) // num_blocks).to(tl.int64)
    cluster = rest % num_clusters
    batch_head = rest // num_clusters
    start = (cluster * length // num_clusters).to(tl.int32)
    end = ((cluster + 1) * length // num_clusters).to(tl.int32)
    ranks = start + block * BLOCK + tl.arange(0, BLOCK)
    return batch_head // heads, batch_head % heads, start, end, ranks


@triton.jit
def _row_pointers(x, batch, head, tokens, strides, DIMS: tl.constexpr):
    """Return pointers to the channels of tokens in a tensor (B, L, heads, d)."""
    rows = x + batch * strides[0] + tokens * strides[1] + head * strides[2]
    return rows[:, None] + tl.arange(0, DIMS)[None, :]


@triton.jit
def _dot(a, b):
    """Multiply matrices, with sums in float32; three products of TF32 are as exact as float32."""
    if WIDEN_PRODUCTS:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision='tf32x3')


@triton.jit
def _forward(
    q,
    k,
    v,
    order,
    out,
    log_sum,
    scale,
    sizes,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    DIMS: tl.constexpr,
    PADDED_DIMS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    batch, head, start, end, ranks = _own_block(sizes, BLOCK)
    by_rank = (batch * sizes[0] + head) * sizes[1]
    in_dims = (tl.arange(0, PADDED_DIMS) < DIMS)[None, :]

    own = ranks < end
    tokens = tl.load(order + by_rank + ranks, mask=own, other=0)
    own_rows = own[:, None] & in_dims
    q_rows = tl.load(
        _row_pointers(q, batch, head, tokens, q_strides, PADDED_DIMS), mask=own_rows, other=0.0
    )
    highest = tl.full([BLOCK], float('-inf'), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    attended = tl.zeros([BLOCK, PADDED_DIMS], tl.float32)
    for step in range(start, end, STEP):
        others = step + tl.arange(0, STEP)
        valid = others < end
        other_tokens = tl.load(order + by_rank + others, mask=valid, other=0)
        rows = valid[:, None] & in_dims
        k_rows = tl.load(
            _row_pointers(k, batch, head, other_tokens, k_strides, PADDED_DIMS),
            mask=rows,
            other=0.0,
        )
        v_rows = tl.load(
            _row_pointers(v, batch, head, other_tokens, v_strides, PADDED_DIMS),
            mask=rows,
            other=0.0,
        )
        logits = _dot(q_rows, tl.trans(k_rows)) * (scale * LOG2_E)
        logits = tl.where(valid[None, :], logits, float('-inf'))
        new_highest = tl.maximum(highest, tl.max(logits, 1))
        weights = tl.exp2(logits - new_highest[:, None])
        shrink = tl.exp2(highest - new_highest)
        total = total * shrink + tl.sum(weights, 1)
        attended *= shrink[:, None]
        attended += _dot(weights.to(v_rows.dtype), v_rows)
        highest = new_highest

    attended /= total[:, None]
    tl.store(
        _row_pointers(out, batch, head, tokens, out_strides, PADDED_DIMS),
        attended.to(out.dtype.element_ty),
        mask=own_rows,
    )
    tl.store(log_sum + by_rank + ranks, highest + tl.log2(total), mask=own)


@triton.jit
def _backward_q(
    q,
    k,
    v,
    order,
    out,
    log_sum,
    grad_out,
    delta,
    grad_q,
    scale,
    sizes,
    q_strides,
    k_strides,
    v_strides,
    out_strides,
    grad_out_strides,
    grad_q_strides,
    DIMS: tl.constexpr,
    PADDED_DIMS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    batch, head, start, end, ranks = _own_block(sizes, BLOCK)
    by_rank = (batch * sizes[0] + head) * sizes[1]
    in_dims = (tl.arange(0, PADDED_DIMS) < DIMS)[None, :]

    own = ranks < end
    tokens = tl.load(order + by_rank + ranks, mask=own, other=0)
    own_rows = own[:, None] & in_dims
    q_rows = tl.load(
        _row_pointers(q, batch, head, tokens, q_strides, PADDED_DIMS), mask=own_rows, other=0.0
    )
    out_rows = tl.load(
        _row_pointers(out, batch, head, tokens, out_strides, PADDED_DIMS), mask=own_rows, other=0.0
    )
    grad_rows = tl.load(
        _row_pointers(grad_out, batch, head, tokens, grad_out_strides, PADDED_DIMS),
        mask=own_rows,
        other=0.0,
    )
    own_delta = tl.sum(out_rows.to(tl.float32) * grad_rows.to(tl.float32), 1)
    tl.store(delta + by_rank + ranks, own_delta, mask=own)
    own_log_sum = tl.load(log_sum + by_rank + ranks, mask=own, other=0.0)

    total = tl.zeros([BLOCK, PADDED_DIMS], tl.float32)
    for step in range(start, end, STEP):
        others = step + tl.arange(0, STEP)
        valid = others < end
        other_tokens = tl.load(order + by_rank + others, mask=valid, other=0)
        rows = valid[:, None] & in_dims
        k_rows = tl.load(
            _row_pointers(k, batch, head, other_tokens, k_strides, PADDED_DIMS),
            mask=rows,
            other=0.0,
        )
        v_rows = tl.load(
            _row_pointers(v, batch, head, other_tokens, v_strides, PADDED_DIMS),
            mask=rows,
            other=0.0,
        )
        logits = _dot(q_rows, tl.trans(k_rows)) * (scale * LOG2_E)
        # The row of a key behind the end is zero, but its weight could be infinite.
        logits = tl.where(valid[None, :], logits, float('-inf'))
        weights = tl.exp2(logits - own_log_sum[:, None])
        grad_weights = _dot(grad_rows, tl.trans(v_rows))
        grad_logits = weights * (grad_weights - own_delta[:, None])
        total += _dot(grad_logits.to(k_rows.dtype), k_rows)
    tl.store(
        _row_pointers(grad_q, batch, head, tokens, grad_q_strides, PADDED_DIMS),
        (total * scale).to(grad_q.dtype.element_ty),
        mask=own_rows,
    )


@triton.jit
def _backward_kv(
    q,
    k,
    v,
    order,
    log_sum,
    grad_out,
    delta,
    grad_k,
    grad_v,
    scale,
    sizes,
    q_strides,
    k_strides,
    v_strides,
    grad_out_strides,
    grad_k_strides,
    grad_v_strides,
    DIMS: tl.constexpr,
    PADDED_DIMS: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
):
    batch, head, start, end, ranks = _own_block(sizes, BLOCK)
    by_rank = (batch * sizes[0] + head) * sizes[1]
    in_dims = (tl.arange(0, PADDED_DIMS) < DIMS)[None, :]

    own = ranks < end
    tokens = tl.load(order + by_rank + ranks, mask=own, other=0)
    own_rows = own[:, None] & in_dims
    k_rows = tl.load(
        _row_pointers(k, batch, head, tokens, k_strides, PADDED_DIMS), mask=own_rows, other=0.0
    )
    v_rows = tl.load(
        _row_pointers(v, batch, head, tokens, v_strides, PADDED_DIMS), mask=own_rows, other=0.0
    )
    total_k = tl.zeros([BLOCK, PADDED_DIMS], tl.float32)
    total_v = tl.zeros([BLOCK, PADDED_DIMS], tl.float32)
    for step in range(start, end, STEP):
        others = step + tl.arange(0, STEP)
        valid = others < end
        other_tokens = tl.load(order + by_rank + others, mask=valid, other=0)
        rows = valid[:, None] & in_dims
        q_rows = tl.load(
            _row_pointers(q, batch, head, other_tokens, q_strides, PADDED_DIMS),
            mask=rows,
            other=0.0,
        )
        grad_rows = tl.load(
            _row_pointers(grad_out, batch, head, other_tokens, grad_out_strides, PADDED_DIMS),
            mask=rows,
            other=0.0,
        )
        # The weights of a query behind the end are 1, but its row and its gradient are zero.
        other_log_sum = tl.load(log_sum + by_rank + others, mask=valid, other=0.0)
        other_delta = tl.load(delta + by_rank + others, mask=valid, other=0.0)
        logits = _dot(k_rows, tl.trans(q_rows)) * (scale * LOG2_E)
        weights = tl.exp2(logits - other_log_sum[None, :])
        total_v += _dot(weights.to(grad_rows.dtype), grad_rows)
        grad_weights = _dot(v_rows, tl.trans(grad_rows))
        grad_logits = weights * (grad_weights - other_delta[None, :])
        total_k += _dot(grad_logits.to(q_rows.dtype), q_rows)
    tl.store(
        _row_pointers(grad_k, batch, head, tokens, grad_k_strides, PADDED_DIMS),
        (total_k * scale).to(grad_k.dtype.element_ty),
        mask=own_rows,
    )
    tl.store(
        _row_pointers(grad_v, batch, head, tokens, grad_v_strides, PADDED_DIMS),
        total_v.to(grad_v.dtype.element_ty),
        mask=own_rows,
    )


@triton.jit
def _similarity(
    k,
    center,
    similarity,
    sizes,
    k_strides,
    DIMS: tl.constexpr,
    PADDED_DIMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    heads, length, num_blocks = sizes
    # Heads first: those of one token are next to each other in memory.
    head = tl.program_id(0) % heads
    tokens = tl.program_id(0) // heads % num_blocks * BLOCK + tl.arange(0, BLOCK)
    batch = (tl.program_id(0) // (heads * num_blocks)).to(tl.int64)
    dims = tl.arange(0, PADDED_DIMS)

    valid = tokens < length
    rows = tl.load(
        _row_pointers(k, batch, head, tokens.to(tl.int64), k_strides, PADDED_DIMS),
        mask=valid[:, None] & (dims < DIMS)[None, :],
        other=0.0,
    ).to(tl.float32)
    total = tl.load(center + (batch * heads + head) * DIMS + dims, mask=dims < DIMS, other=0.0)
    # Neither the norm of the center nor a common scale of the keys changes the order.
    product = tl.sum(rows * (total / length)[None, :], 1)
    norm = tl.sqrt(tl.sum(rows * rows, 1))
    tl.store(
        similarity + (batch * heads + head) * length + tokens,
        product / tl.maximum(norm, SMALLEST_NORM),
        mask=valid,
    )


def launch_similarity(k: Tensor, center: Tensor, similarity: Tensor) -> None:
    """Write the similarity of each key to the mean key, times a factor of each head.

    Args:
        k: Keys, (B, L, heads, d).
        center: Sum of the keys, (B, heads, d), float32, contiguous.
        similarity: Result, (B, heads, L), float32, contiguous.
    """
    batch, length, heads, dims = k.shape
    padded_dims = triton.next_power_of_2(dims)
    block = 4096 // padded_dims
    num_blocks = triton.cdiv(length, block)
    with torch.cuda.device_of(k):
        _similarity[(batch * heads * num_blocks,)](
            k,
            center,
            similarity,
            (heads, length, num_blocks),
            k.stride()[:3],
            DIMS=dims,
            PADDED_DIMS=padded_dims,
            BLOCK=block,
        )


def launch_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    out: Tensor,
    log_sum: Tensor,
    num_clusters: int,
    scale: float,
) -> None:
    """Write attention into ``out``, and the base-2 logarithm of each softmax's sum."""
    tensors = (q, k, v, order, out, log_sum)
    _launch(_forward, tensors, (q, k, v, out), num_clusters, scale)


def launch_backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    order: Tensor,
    out: Tensor,
    log_sum: Tensor,
    grad_out: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    num_clusters: int,
    scale: float,
) -> None:
    """Write the gradients of queries, keys and values into ``grads``."""
    grad_q, grad_k, grad_v = grads
    # Filled by the first kernel, read by the second: the products of out and its gradient.
    delta = torch.empty_like(log_sum)
    tensors = (q, k, v, order, out, log_sum, grad_out, delta, grad_q)
    _launch(_backward_q, tensors, (q, k, v, out, grad_out, grad_q), num_clusters, scale)
    tensors = (q, k, v, order, log_sum, grad_out, delta, grad_k, grad_v)
    _launch(_backward_kv, tensors, (q, k, v, grad_out, grad_k, grad_v), num_clusters, scale)


def _launch(
    kernel: triton.JITFunction,
    tensors: tuple[Tensor, ...],
    strided: tuple[Tensor, ...],
    num_clusters: int,
    scale: float,
) -> None:
    q = strided[0]
    batch, length, heads, dims = q.shape
    largest_cluster = -(-length // num_clusters)
    sizes = largest_cluster, dims, q.element_size()
    tiling = choose_tiling(kernel.__name__, *sizes, capability(q))
    num_blocks = triton.cdiv(largest_cluster, tiling['BLOCK'])
    # Triton launches on the current device, which need not be the tensors'.
    with torch.cuda.device_of(q):
        kernel[(batch * heads * num_clusters * num_blocks,)](
            *tensors,
            scale,
            (heads, length, num_clusters, num_blocks),
            *(x.stride()[:3] for x in strided),
            DIMS=dims,
            **tiling,
        )


# BLOCK, STEP, num_warps and num_stages by kernel and bytes of a padded row, for clusters that have
# as many tokens. They fit the 99 KiB of shared memory that small GPUs have; up to 256 bytes a row
# they spill at most 64 bytes; those of 64 bytes were the fastest of 13 on an H100.
TILINGS = {
    '_forward': {64: (64, 64, 4, 3), 128: (64, 32, 4, 2), 256: (64, 32, 8, 2), 512: (32, 32, 4, 1)},
    '_backward_q': {
        64: (64, 64, 4, 2),
        128: (64, 32, 8, 2),
        256: (32, 32, 4, 2),
        512: (32, 32, 4, 1),
    },
    '_backward_kv': {
        64: (64, 32, 4, 2),
        128: (64, 16, 4, 2),
        256: (32, 16, 4, 2),
        512: (32, 32, 4, 1),
    },
}
# By compute capability, instead of those above: what has run on an H100.
TILINGS_BY_CAPABILITY = {
    ('_forward', 128, (9, 0)): (64, 64, 4, 2),
    ('_backward_q', 128, (9, 0)): (64, 64, 4, 2),
    ('_backward_kv', 128, (9, 0)): (64, 64, 4, 2),
}


def choose_tiling(
    kernel: str, cluster_size: int, dims: int, element_size: int, capability: tuple[int, int]
) -> dict[str, int]:
    """Choose how much of a cluster a program holds.

    Args:
        kernel: A key of ``TILINGS``.
        cluster_size: Tokens of the largest cluster.
        dims: Channels of a head.
        element_size: Bytes of a channel.
        capability: Compute capability of the GPU.

    Returns:
        ``PADDED_DIMS``, channels rounded up to a power of two; ``BLOCK``, tokens that a program
        owns; ``STEP``, tokens that it attends to at a time; ``num_warps`` and ``num_stages`` as
        in Triton.
    """
    padded_dims = max(16, triton.next_power_of_2(dims))
    row_bytes = max(64, padded_dims * element_size)
    own = TILINGS_BY_CAPABILITY.get((kernel, row_bytes, capability))
    block, step, num_warps, num_stages = own or TILINGS[kernel][row_bytes]
    fitting = max(16, triton.next_power_of_2(cluster_size))
    return dict(
        PADDED_DIMS=padded_dims,
        BLOCK=min(fitting, block),
        STEP=min(fitting, step),
        num_warps=num_warps,
        num_stages=num_stages,
    )
