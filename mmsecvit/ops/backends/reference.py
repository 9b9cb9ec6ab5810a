"""The paper's equations line by line: the oracle of every other backend."""

from itertools import pairwise

import torch
from torch import Tensor

from ..clustering import Partition


def attention(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, partition: Partition, scale: float
) -> Tensor:
    """Attend inside clusters by Eq. 3-5, with every attention matrix written out.

    It rounds as plain attention of the same dtype: float16 overflows where the product of a query
    and a key passes 65504.

    Args:
        q: Queries, (B, L, heads, d).
        k: Keys, like ``q``.
        v: Values, like ``q``.
        order: Permutation of each head's tokens, (B, heads, L), int64.
        partition: Clusters of the ordered tokens.
        scale: Factor on the product of queries and keys.

    Returns:
        (B, L, heads, d), tokens in the order of ``q``.
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    index = order.unsqueeze(-1).expand_as(q)
    q, k, v = q.gather(2, index), k.gather(2, index), v.gather(2, index)
    clusters = [
        plain_attention(q[:, :, start:end], k[:, :, start:end], v[:, :, start:end], scale)
        for start, end in pairwise(partition.bounds())
    ]
    inverse = order.argsort(-1).unsqueeze(-1).expand_as(q)
    return torch.cat(clusters, dim=2).gather(2, inverse).transpose(1, 2)


def plain_attention(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Attend to all tokens: (B, heads, L, d) three times to (B, heads, L, d)."""
    return torch.softmax(q @ k.transpose(-2, -1) * scale, dim=-1) @ v
