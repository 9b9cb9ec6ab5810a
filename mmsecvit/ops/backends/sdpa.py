"""Attention inside clusters on torch's fused attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clustering import invert_order, permute_rows

# Blocks that CUDA takes in the dimension of a grid that torch's fused kernels use for the batch.
LARGEST_CUDA_BATCH = 65535


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, num_clusters: int, scale: float
) -> Tensor:
    """Attention inside clusters by ``scaled_dot_product_attention``.

    Tokens are copied twice, each time by whole rows: into the order of their ranks before the
    fused attention, which wants the members of a cluster side by side, and back after it. What
    lies between are views. Clusters have at most two sizes, and all clusters of one size lie
    together: one fused call for each size, without masks or padding.

    Args:
        q: Queries, (B, heads, L, d).
        k: Keys, like ``q``.
        v: Values, like ``q``.
        order: Permutation of each head's tokens, (B, heads, L), int64, or None for one
            cluster.
        num_clusters: Number of clusters, at most L.
        scale: Factor on the product of queries and keys.

    Returns:
        (B, heads, L, d), tokens in the order of ``q``, laid out in memory as ``q`` is: heads
        before tokens or tokens before heads.
    """
    if order is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    head_dims = q.shape[-1]
    tokens_first = q.stride(1) < q.stride(2)
    groups = _rows_by_cluster_size(order, num_clusters, tokens_first)
    if q.is_cuda:
        groups = [part for group in groups for part in group.split(LARGEST_CUDA_BATCH)]
    rows = torch.cat([group.flatten() for group in groups])
    inverse = invert_order(rows)
    if tokens_first:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    shape = q.shape
    # The permuted copies are not named here, so that they are gone before the last one is made.
    out = _attend_in_groups(
        [permute_rows(x.reshape(-1, head_dims), rows, inverse) for x in (q, k, v)],
        groups,
        scale,
    )
    out = permute_rows(out, inverse, rows).view(shape)
    return out.transpose(1, 2) if tokens_first else out


def _attend_in_groups(qkv: list[Tensor], groups: list[Tensor], scale: float) -> Tensor:
    """Fused attention of clusters that lie one behind the other.

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
    # A head to each cluster: flattening the result, where heads lie inside tokens, copies nothing.
    q, k, v = (x.view(group.shape[0], 1, group.shape[1], x.shape[1]) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).flatten(0, 2)


def _rows_by_cluster_size(order: Tensor, num_clusters: int, tokens_first: bool) -> list[Tensor]:
    """Find where the tokens of each cluster lie in memory.

    Args:
        order: Permutation of each head's tokens, (B, heads, L), int64.
        num_clusters: Number of clusters, at most L.
        tokens_first: Whether rows of d channels lie as (B, L, heads, d) instead of
            (B, heads, L, d).

    Returns:
        Indices of rows, (B * heads * clusters, tokens), for each of the one or two sizes.
    """
    batch, heads, length = order.shape
    image = torch.arange(batch, device=order.device)[:, None, None]
    head = torch.arange(heads, device=order.device)[:, None]
    if tokens_first:
        rows = (image * length + order) * heads + head
    else:
        rows = (image * heads + head) * length + order

    size, num_larger = length // num_clusters, length % num_clusters
    if not num_larger:
        return [rows.reshape(batch * heads * num_clusters, size)]
    num_smaller = num_clusters - num_larger
    # Cluster c is a larger one where c * num_larger // num_clusters is about to rise.
    smaller = torch.arange(num_smaller, device=order.device) * num_clusters // num_smaller
    larger = torch.arange(1, num_larger + 1, device=order.device) * num_clusters - 1
    groups = []
    for clusters, tokens in ((smaller, size), (larger // num_larger, size + 1)):
        starts = clusters * length // num_clusters
        ranks = starts[:, None] + torch.arange(tokens, device=order.device)
        groups.append(rows[:, :, ranks].flatten(0, 2))
    return groups
