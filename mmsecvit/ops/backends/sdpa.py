"""Attention inside clusters on torch's fused attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clustering import Partition, invert_order, permute_rows

# Largest batch of torch's fused kernels (torch <= 2.11): CUDA allows this many blocks there.
LARGEST_CUDA_BATCH = 65535


def attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, partition: Partition, scale: float
) -> Tensor:
    """Attend inside clusters by ``scaled_dot_product_attention``.

    The function copies tokens twice, each time by whole rows: into the order of their ranks
    before the fused attention, which wants the members of a cluster side by side, and back after
    it. Between the two are views. Clusters have at most two sizes, and the clusters of one size
    follow each other: one fused call for each size, without masks or padding.

    Args:
        q: Queries, (B, L, heads, d).
        k: Keys, like ``q``.
        v: Values, like ``q``.
        order: Permutation of each head's tokens, (B, heads, L), int64.
        partition: Clusters of the ordered tokens.
        scale: Factor on the product of queries and keys.

    Returns:
        (B, L, heads, d), contiguous, tokens in the order of ``q``.
    """
    if not partition.is_static:
        return _attend_padded(q, k, v, order, partition, scale)
    groups = _rows_by_cluster_size(order, partition)
    if q.is_cuda:
        groups = [part for group in groups for part in group.split(LARGEST_CUDA_BATCH)]
    rows = torch.cat([group.flatten() for group in groups])
    inverse = invert_order(rows)
    shape = q.shape
    # Without names here, the permuted copies are freed before the result is permuted back.
    out = _attend_in_groups(
        [permute_rows(x.reshape(-1, shape[-1]), rows, inverse) for x in (q, k, v)],
        groups,
        scale,
    )
    return permute_rows(out, inverse, rows).view(shape)


def _attend_in_groups(qkv: list[Tensor], groups: list[Tensor], scale: float) -> Tensor:
    """Attend inside clusters that follow each other.

    Args:
        qkv: Queries, keys and values, (N, d) each.
        groups: Result of :func:`_rows_by_cluster_size`.
        scale: Factor on the product of queries and keys.

    Returns:
        (N, d).
    """
    sizes = [group.numel() for group in groups]
    parts = zip(*(x.split(sizes) for x in qkv), groups, strict=True)
    outs = [_attend(q, k, v, group, scale) for q, k, v, group in parts]
    return torch.cat(outs) if len(outs) > 1 else outs[0]


def _attend(q: Tensor, k: Tensor, v: Tensor, group: Tensor, scale: float) -> Tensor:
    # A cluster becomes an image with one head: flattening the result copies nothing.
    q, k, v = (x.view(group.shape[0], 1, group.shape[1], x.shape[1]) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).flatten(0, 2)


def _rows_by_cluster_size(order: Tensor, partition: Partition) -> list[Tensor]:
    """Return the rows of each cluster's tokens, where (B, L, heads, d) is (B * L * heads, d).

    Args:
        order: Permutation of each head's tokens, (B, heads, L), int64.
        partition: Clusters of the ordered tokens.

    Returns:
        Indices of rows, (B * heads * clusters, tokens), for each of the one or two sizes.
    """
    batch, heads, length = order.shape
    image = torch.arange(batch, device=order.device)[:, None, None]
    head = torch.arange(heads, device=order.device)[:, None]
    rows = (image * length + order) * heads + head
    if not partition.num_larger:
        return [rows.reshape(batch * heads * partition.num_clusters, partition.size)]
    groups = []
    for starts, size in partition.starts_by_size(order.device):
        ranks = starts[:, None] + torch.arange(size, device=order.device)
        groups.append(rows[:, :, ranks].flatten(0, 2))
    return groups


def _attend_padded(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, partition: Partition, scale: float
) -> Tensor:
    """Attend inside clusters whose number is not known while a graph is traced.

    A traced graph cannot branch on whether the clusters have one size or two. So every cluster gets
    as many places as a larger cluster has tokens, and a mask hides the places that are free.
    Arguments and result are those of :func:`attention`.
    """
    shape = q.shape
    number = shape[0] * shape[2] * partition.num_clusters
    size = (partition.length + partition.num_clusters - 1) // partition.num_clusters
    rows, inverse, taken = _rows_by_place(order, partition, size)
    taken = taken.view(number, 1, 1, size)
    q, k, v = (
        permute_rows(x.reshape(-1, shape[3]), rows, inverse).view(number, 1, size, shape[3])
        for x in (q, k, v)
    )
    out = F.scaled_dot_product_attention(q, k, v, taken, scale=scale)
    # A free place holds a copy of a row, which must not get the row's gradient too.
    out = torch.where(taken.transpose(2, 3), out, 0)
    return permute_rows(out.flatten(0, 2), inverse, rows).view(shape)


def _rows_by_place(order: Tensor, partition: Partition, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the indices that move tokens into clusters padded to ``size`` places, and back.

    Queries, keys and values are seen as rows of d channels: (B, L, heads, d) -> (B * L * heads, d).
    A place that a smaller cluster does not need gets a copy of some row.

    Clusters and places share one dimension, clusters * size, because torch.export adds a branch for
    a dimension whose size may be 1, as the number of clusters may be.

    Args:
        order: Permutation of each head's tokens, (B, heads, L), int64.
        partition: Clusters of the ordered tokens.
        size: Number of tokens of the larger clusters.

    Returns:
        Three tensors: the row in each place, (B * heads * clusters * size,), int64; the place of
        each row, (B * L * heads,), int64; and whether the cluster needs the place,
        (B * heads * clusters * size,), bool.
    """
    batch, heads, length = order.shape
    num_clusters = partition.num_clusters
    place = torch.arange(num_clusters * size, device=order.device)
    cluster = place // size
    # Not `place % size`: ONNX has no remainder of a symbolic integer (onnxscript 0.7).
    rank = cluster * length // num_clusters + place - cluster * size
    taken = rank < (cluster + 1) * length // num_clusters
    head = torch.arange(batch * heads, device=order.device)[:, None]
    token = order.flatten(0, 1).index_select(1, rank.clamp(max=length - 1))
    rows = (head // heads * length + token) * heads + head % heads
    # (clusters * size,) -> (B * heads, clusters * size). Not `expand`: to flatten what it returns
    # adds a branch to the graph.
    taken = taken & (head >= 0)

    rank = invert_order(order)
    cluster = ((rank + 1) * num_clusters - 1) // length
    places = cluster * size + rank - cluster * length // num_clusters
    places = places + (head * (num_clusters * size)).view(batch, heads, 1)
    # (B, heads, L) -> (B * L * heads,)
    places = places.transpose(1, 2).flatten()
    return rows.flatten(), places, taken.flatten()
