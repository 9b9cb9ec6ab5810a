"""Self-attention inside semantic clusters, as a module."""

from einops import rearrange
from torch import Tensor, nn

from ..ops import sec_attention
from ..ops.attention import check_backend
from .convolution import DepthwiseConv2d
from .rotary import rotate


class SECA(nn.Module):
    """Semantic Equitable Clustering based Self-Attention with local context (Eq. 2-6).

    Args:
        embed_dims: Number of channels, a multiple of ``num_heads``.
        num_heads: Number of heads.
        num_clusters: Number of clusters in each head.
        backend: Backend of :func:`mmsecvit.ops.sec_attention`. Defaults to ``auto``.

    Raises:
        ValueError: If ``embed_dims`` is no multiple of ``num_heads``, ``num_clusters`` is below
            1, or ``backend`` is unknown.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, num_clusters: int, backend: str = 'auto'
    ) -> None:
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(
                f'embed_dims must be a multiple of num_heads, got {embed_dims} and {num_heads}'
            )
        if num_clusters < 1:
            raise ValueError(f'num_clusters must be at least 1, got {num_clusters}')
        check_backend(backend)
        self.num_heads = num_heads
        self.num_clusters = num_clusters
        self.backend = backend
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims)
        # Local context enhancement, Eq. 6.
        self.lce = DepthwiseConv2d(embed_dims, kernel_size=5)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Attend within clusters.

        Args:
            x: Tokens on their grid, (B, H, W, C).
            rotary: Tables of :func:`rotary_tables` for this grid, or None for no rotary
                embedding.

        Returns:
            (B, H, W, C).
        """
        qkv = self.qkv(x)
        q, k, v = self.split_heads(qkv, rotary)
        out = sec_attention(q, k, v, self.num_clusters, backend=self.backend)
        out = rearrange(out, 'b heads (h w) d -> b h w (heads d)', h=x.shape[1])
        v_map = qkv[..., -x.shape[-1] :]
        return self.proj(out + self.lce(v_map))

    def split_heads(
        self, qkv: Tensor, rotary: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Split the projection (B, H, W, 3C) into what attends, and turn queries and keys.

        Args:
            qkv: Output of the layer ``qkv``.
            rotary: As in :meth:`forward`.

        Returns:
            Queries, keys and values, each (B, heads, H * W, C / heads).
        """
        q, k, v = rearrange(
            qkv, 'b h w (three heads d) -> three b heads (h w) d', three=3, heads=self.num_heads
        )
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        return q, k, v

    def extra_repr(self) -> str:
        return (
            f'num_heads={self.num_heads}, num_clusters={self.num_clusters}, backend={self.backend}'
        )
