"""Self-attention inside groups of tokens, as modules: semantic clusters and alternatives."""

import torch
from einops import rearrange
from torch import Tensor, nn

from ..errors import InputError
from ..ops import count_clusters, kmeans_order, sec_attention, semantic_order, window_attention
from ..ops.attention import check_backend, check_clusters, choose_backend
from ..ops.clustering import Partition
from ..ops.fused import seca
from .convolution import DepthwiseConv2d
from .in_place import add
from .position import WindowBias
from .recompute import apply_recomputed
from .rotary import rotate


class GroupedAttention(nn.Module):
    """Base class: projections, rotary embedding and local context (Eq. 6).

    Args:
        embed_dims: Number of channels, a multiple of ``num_heads``.
        num_heads: Number of heads.
        lce: Whether local context enhancement, a depth-wise convolution of the values, is added.

    Raises:
        ValueError: If ``embed_dims`` is no multiple of ``num_heads``.
    """

    def __init__(self, embed_dims: int, num_heads: int, lce: bool = True) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise InputError(
                f'embed_dims must be a multiple of num_heads, got {embed_dims} and {num_heads}'
            )
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        self.lce = DepthwiseConv2d(embed_dims, kernel_size=5) if lce else None
        self.proj = nn.Linear(embed_dims, embed_dims)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attend within groups: (B, heads, H * W, d) three times to (B, heads, H * W, d)."""
        raise NotImplementedError

    def forward(
        self, x: Tensor, rotary: Tensor | None = None, norm: nn.Module | None = None
    ) -> Tensor:
        """Attend within groups.

        Args:
            x: Tokens on their grid, (B, H, W, C).
            rotary: Table of :func:`rotary_table` for this grid, or None for no rotary
                embedding.
            norm: Norm of the tokens before all else, whose result the backward pass computes
                anew. Defaults to None.

        Returns:
            (B, H, W, C).
        """
        qkv = self.qkv(x) if norm is None else apply_recomputed(self.qkv, norm, x)
        return self.proj(self.mix(qkv, rotary))

    def mix(self, qkv: Tensor, rotary: Tensor | None) -> Tensor:
        """Compute attention and local context between the projections.

        Args:
            qkv: Output of the layer ``qkv``, (B, H, W, 3C).
            rotary: As in :meth:`forward`.

        Returns:
            (B, H, W, C).
        """
        q, k, v = self.split_heads(qkv, rotary)
        out = self.attend(q, k, v, (qkv.shape[1], qkv.shape[2]))
        merge = 'b heads (h w) d -> b h w (heads d)'
        out = rearrange(out, merge, h=qkv.shape[1])
        if self.lce is not None:
            out = add(out, self.lce(rearrange(v, merge, h=qkv.shape[1])))
        return out

    def split_heads(
        self, qkv: Tensor, rotary: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split the projection into queries, keys and values, and rotate queries and keys.

        Args:
            qkv: Output of the layer ``qkv``, (B, H, W, 3C).
            rotary: As in :meth:`forward`.

        Returns:
            Queries, keys and values, each (B, heads, H * W, C / heads).
        """
        q, k, v = rearrange(
            qkv, 'b h w (three heads d) -> three b heads (h w) d', three=3, heads=self.num_heads
        )
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        # The values are read twice: as tokens and as a map.
        v = v.transpose(1, 2).contiguous().transpose(1, 2)
        return q, k, v


class SECA(GroupedAttention):
    """Semantic Equitable Clustering based Self-Attention with local context (Eq. 2-6).

    Args:
        embed_dims: Number of channels, a multiple of ``num_heads``.
        num_heads: Number of heads.
        num_clusters: Number of clusters in each head. Defaults to None: ``cluster_size`` decides.
        backend: Backend of :func:`mmsecvit.ops.sec_attention`. With ``triton``, rotary embedding
            and local context are fused into the operation. Defaults to ``auto``.
        lce: Whether local context enhancement is added. Defaults to True.
        cluster_size: Tokens of a cluster, in place of ``num_clusters``: there are as many
            clusters as :func:`mmsecvit.ops.count_clusters` counts. Defaults to None.

    Raises:
        ValueError: If ``embed_dims`` is no multiple of ``num_heads``, ``backend`` is unknown, or
            not exactly one of ``num_clusters`` and ``cluster_size`` is an integer of at least 1
            and the other one None.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_clusters: int | None = None,
        backend: str = 'auto',
        lce: bool = True,
        cluster_size: int | None = None,
    ) -> None:
        super().__init__(embed_dims, num_heads, lce)
        check_clusters(num_clusters, cluster_size)
        check_backend(backend)
        self.num_clusters = num_clusters
        self.cluster_size = cluster_size
        self.backend = backend

    def num_clusters_of(self, length: int) -> int:
        """Return the number of clusters for ``length`` tokens; a fixed number may be larger."""
        if self.num_clusters is not None:
            return self.num_clusters
        return count_clusters(length, self.cluster_size)  # type: ignore[arg-type]

    def mix(self, qkv: Tensor, rotary: Tensor | None) -> Tensor:
        head_dims = self.proj.in_features // self.num_heads
        # The fused operation has its own order, so subclasses with another order do not take it.
        has_own_order = type(self).order is not SECA.order
        if has_own_order or choose_backend(self.backend, qkv[..., :head_dims]) != 'triton':
            return super().mix(qkv, rotary)
        length = qkv.shape[1] * qkv.shape[2]
        return seca(
            qkv,
            self.num_heads,
            Partition.of(length, self.num_clusters_of(length)).num_clusters,
            rotary,
            self.lce.weight if self.lce is not None else None,
            self.lce.bias if self.lce is not None else None,
            head_dims**-0.5,
        )

    def order(self, k: Tensor) -> Tensor:
        """Order each head's tokens by their keys, (B, heads, L, d) to (B, heads, L), int64."""
        return semantic_order(k)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        num_clusters = self.num_clusters_of(k.shape[2])
        # An order for one cluster would be computed in vain.
        is_single = Partition.of(k.shape[2], num_clusters).is_single
        order = None if is_single else self.order(k)
        return sec_attention(q, k, v, num_clusters, order=order, backend=self.backend)

    def extra_repr(self) -> str:
        name = 'num_clusters' if self.cluster_size is None else 'cluster_size'
        clusters = f'{name}={getattr(self, name)}'
        return f'num_heads={self.num_heads}, {clusters}, backend={self.backend}'


class KMeansAttention(SECA):
    """SECA whose clusters come from k-means, made equal in size (Figure 1); same arguments."""

    def order(self, k: Tensor) -> Tensor:
        return kmeans_order(k, self.num_clusters_of(k.shape[2]))


class WindowAttention(GroupedAttention):
    """Self-attention inside square windows of the grid, as in Swin but without shift.

    Args:
        embed_dims: Number of channels, a multiple of ``num_heads``.
        num_heads: Number of heads.
        window: Largest side of a window. Defaults to 7.
        lce: Whether local context enhancement is added. Defaults to True.
        position_bias: Whether a :class:`WindowBias` is added to the products of queries and
            keys. Defaults to False.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        window: int = 7,
        lce: bool = True,
        position_bias: bool = False,
    ) -> None:
        super().__init__(embed_dims, num_heads, lce)
        self.window = window
        self.position_bias = WindowBias(num_heads, window) if position_bias else None

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        bias = self.position_bias() if self.position_bias is not None else None
        return window_attention(q, k, v, grid, (self.window, self.window), bias=bias)


class CrossShapedAttention(GroupedAttention):
    """Self-attention inside stripes: CSWin's cross-shaped windows (Table 6, CSWSA).

    Half of the heads attend inside horizontal stripes, the other half inside vertical ones.

    Args:
        embed_dims: Number of channels, a multiple of ``num_heads``.
        num_heads: Number of heads, even.
        stripe: Largest width of a stripe.
        lce: Whether local context enhancement is added. Defaults to True.

    Raises:
        ValueError: If ``num_heads`` is odd.
    """

    def __init__(self, embed_dims: int, num_heads: int, stripe: int, lce: bool = True) -> None:
        super().__init__(embed_dims, num_heads, lce)
        if num_heads % 2:
            raise InputError(f'num_heads must be even for cross-shaped windows, got {num_heads}')
        self.stripe = stripe

    def attend(self, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        stripes = ((self.stripe, grid[1]), (grid[0], self.stripe))
        halves = zip(q.chunk(2, dim=1), k.chunk(2, dim=1), v.chunk(2, dim=1), stripes, strict=True)
        return torch.cat(
            [window_attention(q, k, v, grid, stripe) for q, k, v, stripe in halves], dim=1
        )
