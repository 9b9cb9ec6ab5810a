"""Triton kernels of attention inside clusters, and their launches.

A program owns one block of one cluster of one head. It finds the cluster's tokens through the
order, reads their rows where they lie and writes its results back there: nothing is permuted in
memory, and since each token lies in one cluster, no two programs write the same row. Softmax runs
online over blocks of keys, and again in the backward pass from the logarithm of its sum
(FlashAttention-2, arXiv:2307.08691). Every sum has a fixed order: one input has one result, bit
by bit.

In all launches q, k and v are (B, heads, L, d) with neighbouring channels side by side in memory;
what is computed, and its gradient, is (B, heads, L, d) in the memory of (B, L, heads, d);
``order`` is (B, heads, L), int64, contiguous; ``log_sum`` and ``delta`` are float32, (B, heads,
L), contiguous, and follow the order of the clusters, not of the tokens.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from .triton import INTERPRETED

LOG2_E = tl.constexpr(1.4426950408889634)
# The interpreter multiplies the bits of bfloat16 instead of its values.
WIDEN_PRODUCTS = tl.constexpr(INTERPRETED)


@triton.jit
def _own_block(sizes, BLOCK: tl.constexpr):
    """Batch, head, first rank of the cluster and the one behind its last, and own ranks."""
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
    """Pointers to the channels of tokens in a tensor (B, heads, L, d)."""
    rows = x + batch * strides[0] + head * strides[1] + tokens * strides[2]
    return rows[:, None] + tl.arange(0, DIMS)[None, :]


@triton.jit
def _dot(a, b):
    """Matrix product, summed in float32; float32 is not shortened to TF32."""
    if WIDEN_PRODUCTS:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision='ieee')


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
        _row_pointers(grad_out, batch, head, tokens, out_strides, PADDED_DIMS),
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
        _row_pointers(grad_q, batch, head, tokens, out_strides, PADDED_DIMS),
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
            _row_pointers(grad_out, batch, head, other_tokens, out_strides, PADDED_DIMS),
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
        _row_pointers(grad_k, batch, head, tokens, out_strides, PADDED_DIMS),
        (total_k * scale).to(grad_k.dtype.element_ty),
        mask=own_rows,
    )
    tl.store(
        _row_pointers(grad_v, batch, head, tokens, out_strides, PADDED_DIMS),
        total_v.to(grad_v.dtype.element_ty),
        mask=own_rows,
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
    _launch(_forward, (q, k, v, order, out, log_sum), (q, k, v, out), num_clusters, scale)


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
    strided = (q, k, v, out)
    # Filled by the first kernel, read by the second: the products of out and its gradient.
    delta = torch.empty_like(log_sum)
    tensors = (q, k, v, order, out, log_sum, grad_out, delta, grad_q)
    _launch(_backward_q, tensors, strided, num_clusters, scale)
    tensors = (q, k, v, order, log_sum, grad_out, delta, grad_k, grad_v)
    _launch(_backward_kv, tensors, strided, num_clusters, scale)


def _launch(
    kernel: triton.JITFunction,
    tensors: tuple[Tensor, ...],
    strided: tuple[Tensor, ...],
    num_clusters: int,
    scale: float,
) -> None:
    q = strided[0]
    batch, heads, length, dims = q.shape
    largest_cluster = -(-length // num_clusters)
    tiling = choose_tiling(largest_cluster, dims, q.element_size())
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


def choose_tiling(cluster_size: int, dims: int, element_size: int) -> dict[str, int]:
    """Choose how much of a cluster a program holds, so that it fits the 99 KiB of small GPUs.

    Args:
        cluster_size: Tokens of the largest cluster.
        dims: Channels of a head.
        element_size: Bytes of a channel.

    Returns:
        ``PADDED_DIMS``, channels rounded up to a power of two; ``BLOCK``, tokens that a program
        owns; ``STEP``, tokens that it attends to at a time; ``num_warps`` and ``num_stages`` as
        in Triton.
    """
    padded_dims = max(16, triton.next_power_of_2(dims))
    row_bytes = padded_dims * element_size
    fitting = max(16, triton.next_power_of_2(cluster_size))
    return dict(
        PADDED_DIMS=padded_dims,
        BLOCK=min(fitting, 64 if row_bytes <= 256 else 32),
        STEP=min(fitting, 64 if row_bytes <= 128 else 32),
        num_warps=4,
        num_stages=2 if row_bytes <= 256 else 1,
    )
