"""Attention inside clusters on torch's fused attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..clustering import invert_order, permute_tokens


def sdpa_attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, bounds: list[int], scale: float
) -> Tensor:
    """Attention inside clusters by ``scaled_dot_product_attention``.

    Clusters have at most two sizes, so tokens are brought into an order in which all clusters
    of one size lie together: one fused call for each size, without masks or padding.

    Args:
        q: Queries, (B, heads, L, d).
        k: Keys, like ``q``.
        v: Values, like ``q``.
        order: Permutation of each head's tokens, (B, heads, L), int64, or None for one
            cluster.
        bounds: Boundaries of the clusters, as from ``cluster_bounds``.
        scale: Factor on the product of queries and keys.

    Returns:
        (B, heads, L, d), tokens in the order of ``q``.
    """
    if order is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)

    length, num_clusters = bounds[-1], len(bounds) - 1
    size, num_larger = length // num_clusters, length % num_clusters
    if num_larger:
        order = order[..., _smaller_clusters_first(length, num_clusters, order.device)]

    inverse = invert_order(order)
    q, k, v = (permute_tokens(x, order, inverse) for x in (q, k, v))
    if num_larger:
        num_smaller = num_clusters - num_larger
        lengths = [num_smaller * size, num_larger * (size + 1)]
        smaller, larger = zip(*(x.split(lengths, dim=2) for x in (q, k, v)), strict=True)
        out = torch.cat(
            [
                _attend_in_equal_clusters(*smaller, num_smaller, scale),
                _attend_in_equal_clusters(*larger, num_larger, scale),
            ],
            dim=2,
        )
    else:
        out = _attend_in_equal_clusters(q, k, v, num_clusters, scale)
    return permute_tokens(out, inverse, order)


def _attend_in_equal_clusters(
    q: Tensor, k: Tensor, v: Tensor, num_clusters: int, scale: float
) -> Tensor:
    """Fused attention of equal clusters that lie one behind the other, (B, heads, L, d)."""
    # The fused kernels want four dimensions: the clusters take the place of the heads.
    grouped = (x.unflatten(2, (num_clusters, -1)).flatten(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(*grouped, scale=scale).reshape(q.shape)


def _smaller_clusters_first(length: int, num_clusters: int, device: torch.device) -> Tensor:
    """All ranks, (L,), those of the smaller clusters before those of the larger ones."""
    size, num_larger = length // num_clusters, length % num_clusters
    num_smaller = num_clusters - num_larger
    # Cluster c is a larger one where c * num_larger // num_clusters is about to rise.
    smaller = torch.arange(num_smaller, device=device) * num_clusters // num_smaller
    larger = (torch.arange(1, num_larger + 1, device=device) * num_clusters - 1) // num_larger
    return torch.cat(
        [
            (
                (clusters * length // num_clusters)[:, None] + torch.arange(tokens, device=device)
            ).flatten()
            for clusters, tokens in ((smaller, size), (larger, size + 1))
        ]
    )
