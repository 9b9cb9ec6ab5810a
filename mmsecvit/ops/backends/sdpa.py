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
    """Find the rows of d channels of each cluster's tokens in (B, L, heads, d).

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
