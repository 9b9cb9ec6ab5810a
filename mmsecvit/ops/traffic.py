"""Count what the kernels of each custom operation read, write and compute.

Torch sees a custom operation as a whole. :mod:`mmsecvit.analysis.traffic` asks here for the kernels
inside it, those of Triton and of torch, in their order: whoever changes the body of an operation
changes its kernels here. Tensors are contiguous, or parts of a contiguous projection, as in the
layers.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from .clustering import Partition

# Bytes of a number.
FLOAT32, INT64 = 4, 8


class Kernel(NamedTuple):
    """One launch of a kernel.

    Attributes:
        name: Name of the Triton kernel, or of torch's operator.
        bytes: Bytes of the tensors that it reads and writes, each counted once.
        flops: Multiplications and additions of its products, 0 for all else.
    """

    name: str
    bytes: int
    flops: int = 0


class _Rows(NamedTuple):
    """Queries, or a tensor like them: (batch, length, heads, dims)."""

    batch: int
    length: int
    heads: int
    dims: int
    element_size: int

    @classmethod
    def of(cls, q: Tensor) -> '_Rows':
        batch, length, heads, dims = q.shape
        return cls(batch, length, heads, dims, q.element_size())

    @property
    def numel(self) -> int:
        return self.batch * self.length * self.heads * self.dims

    @property
    def nbytes(self) -> int:
        return self.numel * self.element_size

    def per_token(self, element_size: int) -> int:
        """Return the bytes of one number for each token of each head."""
        return self.batch * self.heads * self.length * element_size

    def pairs(self, num_clusters: int) -> int:
        """Return the number of pairs of a query and a key of one cluster."""
        partition = Partition.of(self.length, num_clusters)
        num_smaller = partition.num_clusters - partition.num_larger
        pairs = num_smaller * partition.size**2 + partition.num_larger * (partition.size + 1) ** 2
        return self.batch * self.heads * pairs


def kernels_of(operation: str, arguments: dict[str, Any]) -> Iterator[Kernel]:
    """List the kernels of one call of an operation.

    Args:
        operation: Name of the operation in torch, without ``mmsecvit::``.
        arguments: All its arguments by name, as its body takes them.
    """
    return _KERNELS[operation](**arguments)


def _depthwise_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: bool
) -> Iterator[Kernel]:
    yield from _convolve(x.numel(), x.element_size(), 2, weight, bias)


def _depthwise_conv2d_backward(
    x: Tensor, weight: Tensor, with_weight: bool, **_: Any
) -> Iterator[Kernel]:
    yield from _convolve(x.numel(), x.element_size(), 2, weight)
    if with_weight:
        yield from _weight_gradients(x.numel(), x.element_size(), weight)


def _seca(
    qkv: Tensor,
    num_heads: int,
    num_clusters: int,
    rotary: Tensor | None,
    lce_weight: Tensor | None,
    lce_bias: Tensor | None,
    scale: float,
) -> Iterator[Kernel]:
    rows = _queries(qkv, num_heads)
    if rotary is not None:
        yield Kernel('_rotate', 4 * rows.nbytes + rotary.nbytes)
    if num_clusters > 1:
        yield from _order(rows)
    else:
        ranks = rows.length * INT64
        yield Kernel('arange', ranks)
        yield Kernel('clone', ranks + rows.per_token(INT64))
    yield from _attention(rows, num_clusters)
    if lce_weight is not None:
        # Values and the attention's result in, their sum out.
        yield from _convolve(rows.numel, rows.element_size, 3, lce_weight, lce_bias)


def _seca_backward(
    qkv: Tensor,
    num_heads: int,
    num_clusters: int,
    rotary: Tensor | None,
    lce_weight: Tensor | None,
    with_weight: bool,
    **_: Any,
) -> Iterator[Kernel]:
    rows = _queries(qkv, num_heads)
    yield from _attention_backward(rows, num_clusters)
    if rotary is not None:
        yield Kernel('_rotate', 4 * rows.nbytes + rotary.nbytes)
    if lce_weight is not None:
        yield from _convolve(rows.numel, rows.element_size, 3, lce_weight)
        if with_weight:
            yield from _weight_gradients(rows.numel, rows.element_size, lce_weight)


def _queries(qkv: Tensor, num_heads: int) -> _Rows:
    batch, height, width, channels = qkv.shape
    dims = channels // 3 // num_heads
    return _Rows(batch, height * width, num_heads, dims, qkv.element_size())


def _order(k: _Rows) -> Iterator[Kernel]:
    center = k.batch * k.heads * k.dims * FLOAT32
    similarity = k.per_token(FLOAT32)
    yield Kernel('sum', k.nbytes + center)
    yield Kernel('_similarity', k.nbytes + center + similarity)
    # Similarities in; out come the sorted ones and their indices.
    yield Kernel('sort', 2 * similarity + k.per_token(INT64))


def _attention(q: _Rows, num_clusters: int) -> Iterator[Kernel]:
    order, log_sum = q.per_token(INT64), q.per_token(FLOAT32)
    # Queries, keys and values in, the result out; two products.
    flops = 2 * 2 * q.pairs(num_clusters) * q.dims
    yield Kernel('_forward', 4 * q.nbytes + order + log_sum, flops)


def _attention_backward(q: _Rows, num_clusters: int) -> Iterator[Kernel]:
    # The order and log_sum in, delta out of the first kernel and into the second.
    by_rank = q.per_token(INT64) + 2 * q.per_token(FLOAT32)
    flops = 2 * q.pairs(num_clusters) * q.dims
    # Queries, keys, values, the result and its gradient in, the gradient of queries out.
    yield Kernel('_backward_q', 6 * q.nbytes + by_rank, 3 * flops)
    # Queries, keys, values and the gradient in, those of keys and values out.
    yield Kernel('_backward_kv', 6 * q.nbytes + by_rank, 4 * flops)


def _convolve(
    numel: int, element_size: int, num_maps: int, weight: Tensor, bias: Tensor | None = None
) -> Iterator[Kernel]:
    """Lay out the taps, and convolve one of ``num_maps`` maps in and out, all of one size."""
    yield Kernel('clone', 2 * weight.nbytes)
    constants = weight.nbytes + (0 if bias is None else bias.nbytes)
    flops = 2 * weight[0].numel() * numel
    yield Kernel('_convolve', num_maps * numel * element_size + constants, flops)


def _weight_gradients(numel: int, element_size: int, weight: Tensor) -> Iterator[Kernel]:
    """Sum over chunks of the rows of a map and its gradient, and add up the sums."""
    from .backends.triton import capability
    from .fused_kernels import choose_tiling, chunk_rows

    channels = weight.shape[0]
    num_rows = numel // channels
    block, *_ = choose_tiling('_weight_gradients', channels, capability(weight))
    num_chunks = -(-num_rows // chunk_rows(num_rows, block))
    of_weight, of_bias = weight.numel() * FLOAT32, channels * FLOAT32
    flops = 2 * weight[0].numel() * numel
    sums = num_chunks * (of_weight + of_bias)
    yield Kernel('_weight_gradients', 2 * numel * element_size + sums, flops)
    yield Kernel('sum', (num_chunks + 1) * of_weight)
    yield Kernel('copy_', of_weight + weight.nbytes)
    yield Kernel('sum', (num_chunks + 1) * of_bias)
    if weight.element_size() != FLOAT32:
        yield Kernel('_to_copy', of_bias + channels * weight.element_size())


_KERNELS: dict[str, Callable[..., Iterator[Kernel]]] = {
    'semantic_order': lambda k: _order(_Rows.of(k)),
    'sec_attention': lambda q, num_clusters, **_: _attention(_Rows.of(q), num_clusters),
    'sec_attention_backward': lambda q, num_clusters, **_: _attention_backward(
        _Rows.of(q), num_clusters
    ),
    'depthwise_conv2d': _depthwise_conv2d,
    'depthwise_conv2d_backward': _depthwise_conv2d_backward,
    'seca': _seca,
    'seca_backward': _seca_backward,
}
