"""Semantic Equitable Clustering: who attends to whom (Section 3.2, Eq. 2-4)."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def semantic_order(k: Tensor) -> Tensor:
    """Order the tokens of each head by their cosine similarity to the mean key (Eq. 2-3).

    The function decides the order in float32, whatever the dtype of ``k``, and under autocast
    too: bfloat16 has so few bits that most tokens would tie. Ties keep raster order, so that one
    input has one result on every device, in every batch and with any strides. No gradient flows
    through it.

    Args:
        k: Keys, (B, heads, L, d), any floating dtype; their squares must fit float32.

    Returns:
        Token indices by rising similarity, (B, heads, L), int64.
    """
    with torch.no_grad(), _without_autocast(k):
        # Sums of other strides run in other orders, and their rounding would break ties. Tokens
        # first, (B, L, heads, d), is how the layers have them: mostly nothing is copied.
        k = k.float().transpose(1, 2).contiguous()
        center = k.mean(dim=1, keepdim=True)
        # Neither the norm of the center nor a common scale of the keys changes the order, so
        # this divides by each key's own norm only. A zero key has similarity 0, as in
        # F.normalize.
        norm = k.norm(dim=-1).clamp_min(torch.finfo(k.dtype).tiny)
        similarity = (k * center).sum(dim=-1) / norm
        return similarity.transpose(1, 2).argsort(dim=-1, stable=True)


def kmeans_order(k: Tensor, num_clusters: int, iterations: int = 10) -> Tensor:
    """Order the tokens of each head by k-means clusters, the alternative of Figure 1.

    The function runs Lloyd's iterations on the cosine similarity to each center, from tokens at
    even distances in raster order. Where the order is cut into equal parts, the surplus of a
    cluster goes to the next one. It decides in float32 and without gradient, as
    :func:`semantic_order` does.

    Args:
        k: Keys, (B, heads, L, d), any floating dtype.
        num_clusters: Number of clusters, at least 1.
        iterations: How often tokens move to the nearest center. Defaults to 10.

    Returns:
        Token indices by cluster, in each cluster in raster order, (B, heads, L), int64.
    """
    length, num_clusters = Partition.of(k.shape[-2], num_clusters)
    seeds = torch.arange(num_clusters, device=k.device) * length // num_clusters
    with torch.no_grad(), _without_autocast(k):
        k = F.normalize(k.float(), dim=-1)
        centers = k[..., seeds, :]
        for _ in range(iterations):
            labels = (k @ centers.transpose(-2, -1)).argmax(dim=-1)
            members = F.one_hot(labels, num_clusters).to(k.dtype)
            centers = F.normalize(members.transpose(-2, -1) @ k, dim=-1)
        return labels.argsort(dim=-1, stable=True)


def count_clusters(length: int, cluster_size: int) -> int:
    """Return the number of clusters of about ``cluster_size`` tokens each.

    It is ``max(1, round(length / cluster_size))``, so that no cluster has more than 3/2 of the
    size. Where a graph is traced for all lengths, it is a symbolic integer.

    Args:
        length: Number of tokens, at least 1.
        cluster_size: Tokens of a cluster, at least 1.

    Example:
        >>> count_clusters(56 * 56, cluster_size=98)
        32
    """
    if isinstance(length, Tensor):  # while torch.jit traces
        length = int(length)
    # In integers, since a symbolic `round` or `max` of Python is decided while a graph is traced.
    # Halves go to the even number, as in `round`: up where the quotient is odd.
    halves_up = length // cluster_size % 2
    rounded = (2 * length + cluster_size - 1 + halves_up) // (2 * cluster_size)
    return torch.sym_max(1, rounded)


def is_static(number: int) -> bool:
    """Return whether a number is known: in a graph for all sizes, some are known when it runs."""
    if not (torch.compiler.is_compiling() or isinstance(number, torch.SymInt)):
        return True
    from torch.fx.experimental import symbolic_shapes

    # torch <= 2.6 has no such function, and compiles anew for another number.
    if not hasattr(symbolic_shapes, 'has_static_value'):
        return True
    return symbolic_shapes.has_static_value(number)


def cluster_bounds(length: int, n: int) -> list[int]:
    """Return the boundaries of clusters whose sizes differ by at most one (Eq. 4, any length).

    Args:
        length: Number of tokens, at least 1.
        n: Number of clusters, at least 1. More clusters than tokens become ``length``
            clusters of one token.

    Returns:
        ``min(n, length) + 1`` rising ranks: cluster ``c`` holds the ranks
        ``[bounds[c], bounds[c + 1])`` of :func:`semantic_order`.

    Raises:
        ValueError: If ``length`` or ``n`` is below 1.

    Example:
        >>> cluster_bounds(10, 4)
        [0, 2, 5, 7, 10]
    """
    if length < 1:
        raise ValueError(f'length must be at least 1, got {length}')
    if n < 1:
        raise ValueError(f'n must be at least 1, got {n}')
    return Partition.of(length, n).bounds()


class Partition(NamedTuple):
    """Cut of ``length`` ordered tokens into clusters whose sizes differ by at most one."""

    length: int
    num_clusters: int

    @classmethod
    def of(cls, length: int, num_clusters: int) -> 'Partition':
        """Make a partition; more clusters than tokens become ``length`` clusters."""
        # A symbolic number comes from `count_clusters` and is no larger.
        return cls(length, min(num_clusters, length) if is_static(num_clusters) else num_clusters)

    @property
    def is_static(self) -> bool:
        """Return whether the number of clusters is known: see :func:`is_static`."""
        return is_static(self.num_clusters)

    @property
    def is_single(self) -> bool:
        """Return whether there is one cluster, as far as is known."""
        return self.is_static and self.num_clusters == 1

    @property
    def size(self) -> int:
        """Return the number of tokens of the smaller clusters."""
        return self.length // self.num_clusters

    @property
    def num_larger(self) -> int:
        """Return the number of clusters that have one token more."""
        return self.length % self.num_clusters

    def bounds(self) -> list[int]:
        """Return the boundaries, as :func:`cluster_bounds` does."""
        return [c * self.length // self.num_clusters for c in range(self.num_clusters + 1)]

    def starts_by_size(self, device: torch.device) -> list[tuple[Tensor, int]]:
        """Return the first ranks of the clusters of each size, and the size.

        Only for partitions with both sizes. The ranks are int64 tensors on ``device``: where a
        graph is compiled for all lengths, the boundaries are not known as numbers.
        """
        num_smaller = self.num_clusters - self.num_larger
        # Cluster c is a larger one where c * num_larger // num_clusters is about to rise.
        smaller = torch.arange(num_smaller, device=device) * self.num_clusters // num_smaller
        larger = torch.arange(1, self.num_larger + 1, device=device) * self.num_clusters - 1
        larger = larger // self.num_larger
        return [
            (clusters * self.length // self.num_clusters, size)
            for clusters, size in ((smaller, self.size), (larger, self.size + 1))
        ]


def invert_order(order: Tensor) -> Tensor:
    """Invert a permutation, by one scatter instead of a second sort.

    Args:
        order: Permutations along the last dimension, (..., L), int64.

    Returns:
        The rank of each token, (..., L), int64.
    """
    ranks = torch.arange(order.shape[-1], device=order.device)
    return torch.zeros_like(order).scatter_(-1, order, ranks.expand_as(order))


def permute_rows(x: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """Bring rows into a given order.

    The gradient is a gather by the inverse permutation: no scatter-add, so it is
    deterministic and free of atomics.

    Args:
        x: Rows, (N, d).
        rows: A permutation, (M,), int64, which may have copies that get no gradient.
        inverse: Where each row of ``x`` is in ``rows``, (N,), as from :func:`invert_order`.

    Returns:
        (M, d): ``x[rows[i]]`` at ``i``.
    """
    return _PermuteRows.apply(x, rows, inverse)  # type: ignore[no-untyped-call]


class _PermuteRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(rows, inverse)
        # Copies whole rows; gather would read one index for each channel.
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        rows, inverse = ctx.saved_tensors
        return permute_rows(grad, inverse, rows), None, None


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Disable autocast for the device of ``x``, where the device knows autocast; meta does not."""
    device = x.device.type
    return nullcontext() if device == 'meta' else torch.autocast(device, enabled=False)
