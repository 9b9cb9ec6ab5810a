"""The paper's equations line by line: the oracle of every other backend."""

from itertools import pairwise

import torch
from torch import Tensor

from ..clustering import cluster_bounds


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor | None, num_clusters: int, scale: float
) -> Tensor:
    """Attention inside clusters by Eq. 3-5, with every attention matrix written out.

    It rounds as plain attention of the same dtype: float16 overflows where the product of a query
    and a key passes 65504.

    Args:
        q: Queries, (B, heads, L, d).
        k: Keys, like ``q``.
        v: Values, like ``q``.
        order: Permutation of each head's tokens, (B, heads, L), int64, or None for one
            cluster.
        num_clusters: Number of clusters, at most L.
        scale: Factor on the product of queries and keys.

    Returns:
        (B, heads, L, d), tokens in the order of ``q``.
    """
    if order is None:
        return _attend(q, k, v, scale)
    index = order.unsqueeze(-1).expand_as(q)
    q, k, v = q.gather(2, index), k.gather(2, index), v.gather(2, index)
    clusters = [
        _attend(q[:, :, start:end], k[:, :, start:end], v[:, :, start:end], scale)
        for start, end in pairwise(cluster_bounds(q.shape[2], num_clusters))
    ]
    return torch.cat(clusters, dim=2).gather(2, order.argsort(-1).unsqueeze(-1).expand_as(q))


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return torch.softmax(q @ k.transpose(-2, -1) * scale, dim=-1) @ v
