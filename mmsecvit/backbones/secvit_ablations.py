"""The parts that replace SecViT's own in the paper's ablations (Table 6, Figure 1)."""

from torch import nn

from ..errors import InputError
from ..layers import CrossShapedAttention, KMeansAttention, WindowAttention

ATTENTIONS = ('sec', 'window', 'cswin', 'kmeans')
STEMS = ('conv', 'patch')

# The side of Swin's windows, and the widths of CSWin's stripes in the four stages.
WINDOW = 7
STRIPES = (1, 2, 7, 7)


def check_ablations(attention: str, stem: str) -> None:
    """Raise a ValueError unless both arguments of SecViT are known."""
    if attention not in ATTENTIONS:
        raise InputError(f'attention must be one of {", ".join(ATTENTIONS)}, got {attention!r}')
    if stem not in STEMS:
        raise InputError(f'stem must be conv or patch, got {stem!r}')


def other_attention(
    attention: str,
    stage: int,
    embed_dims: int,
    num_heads: int,
    num_clusters: int | None,
    backend: str,
    lce: bool,
    cluster_size: int | None,
) -> nn.Module:
    """Build the attention that replaces semantic clusters.

    Args:
        attention: One of :data:`ATTENTIONS` except ``sec``.
        stage: Stage of the network, from 0 to 3.
        embed_dims: Number of channels.
        num_heads: Number of heads.
        num_clusters: Number of clusters, for ``kmeans``.
        backend: Backend of :func:`mmsecvit.ops.sec_attention`, for ``kmeans``.
        lce: Whether the attention has local context enhancement.
        cluster_size: Tokens of a cluster in place of ``num_clusters``, for ``kmeans``.
    """
    if attention == 'window':
        return WindowAttention(embed_dims, num_heads, WINDOW, lce)
    if attention == 'cswin':
        return CrossShapedAttention(embed_dims, num_heads, STRIPES[stage], lce)
    return KMeansAttention(embed_dims, num_heads, num_clusters, backend, lce, cluster_size)
