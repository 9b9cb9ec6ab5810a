"""SEC-FasterViT: FasterViT with semantic clusters in its third stage."""

from collections.abc import Sequence

from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks import DropPath
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import SECA, WindowAttention, WindowPosition
from ..ops.attention import check_clusters
from .base import NUM_CLUSTERS, PyramidBackbone, drop_path_rates, find_arch
from .secvit import SecViTBlock

# Table 8. `stem_dims`, the channels inside the stem, are those that give the table's number of
# parameters. The first two stages are convolutional and have no heads.
ARCHITECTURES = {
    '0': dict(
        stem_dims=64,
        embed_dims=(64, 128, 256, 512),
        depths=(2, 3, 6, 5),
        num_heads=(None, None, 8, 16),
        drop_path_rate=0.2,
    ),
    '1': dict(
        stem_dims=32,
        embed_dims=(80, 160, 320, 640),
        depths=(1, 3, 8, 5),
        num_heads=(None, None, 8, 16),
        drop_path_rate=0.2,
    ),
}
FFN_RATIO = 4
WINDOW = 7


class ConvBlock(BaseModule):
    """FasterViT's residual block of two 3x3 convolutions.

    Args:
        channels: Number of channels.
        drop_path_rate: Probability to drop the residual branch of a sample in training.
        norm_cfg: Config of the normalization after each convolution.
    """

    def __init__(self, channels: int, drop_path_rate: float, norm_cfg: dict) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm1 = build_norm_layer(norm_cfg, channels)[1]
        self.act = nn.GELU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = build_norm_layer(norm_cfg, channels)[1]
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        y = self.act(self.norm1(self.conv1(x.permute(0, 3, 1, 2))))
        return x + self.drop_path(self.norm2(self.conv2(y)).permute(0, 2, 3, 1))


class WindowBlock(SecViTBlock):
    """FasterViT's own block: attention inside windows, positions from small networks.

    Args:
        embed_dims: Number of channels.
        num_heads: Number of heads.
        feedforward_channels: Number of hidden channels of the feed-forward network.
        drop_path_rate: Probability to drop a residual branch of a sample in training.
    """

    def __init__(
        self, embed_dims: int, num_heads: int, feedforward_channels: int, drop_path_rate: float
    ) -> None:
        attn = WindowAttention(embed_dims, num_heads, WINDOW, lce=False, position_bias=True)
        super().__init__(embed_dims, attn, feedforward_channels, drop_path_rate, cpe=False)
        self.position = WindowPosition(embed_dims, WINDOW)

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        return super().forward(x + self.position(x.shape[1], x.shape[2]), rotary)


class _MapNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _ChannelsLast(nn.Sequential):
    """Apply a layer that takes (B, C, H, W) to (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x.permute(0, 3, 1, 2))  # type: ignore[no-untyped-call]
        return x.permute(0, 2, 3, 1)


@MODELS.register_module()
class SECFasterViT(PyramidBackbone):
    """FasterViT with Semantic Equitable Clustering (Table 2, Appendix A).

    The first two stages are convolutional. The third attends inside semantic clusters. The last
    keeps FasterViT's own block with windows of 7x7, which cover the whole map of a 224x224
    image. There are no carrier tokens.

    Args:
        arch: ``0`` or ``1``, Table 8. Defaults to ``0``.
        num_clusters: Clusters of the third stage. Defaults to 2, unless ``cluster_size`` is given.
        drop_path_rate: Stochastic depth rate of the last block; it rises linearly from 0 at the
            first block. Defaults to 0.2.
        out_indices: Stages whose maps are returned, each through a normalization of its own.
            Later stages are not built. Defaults to (0, 1, 2, 3).
        norm_cfg: Config of the normalization in stem, convolutional blocks and returned maps.
            Defaults to ``dict(type='BN')``.
        frozen_stages: As in :class:`SecViT`. Defaults to -1.
        norm_eval: Whether batch norms keep their running statistics in training.
            Defaults to False.
        with_cp: Whether to recompute blocks in the backward pass. The batch norms of stages 1
            and 2 then count each batch twice in their running statistics. Defaults to False.
        attention_backend: Backend of :func:`mmsecvit.ops.sec_attention`. Defaults to ``auto``.
        in_channels: Channels of the images. Defaults to 3.
        cluster_size: Tokens of a cluster of the third stage, in place of ``num_clusters``, as in
            :class:`SecViT`. Defaults to None.
        init_cfg: Config of the initialization, as in :class:`SecViT`. Defaults to None.

    Raises:
        ValueError: If an argument is not among the above, naming it.

    Example:
        >>> import torch
        >>> from mmsecvit import SECFasterViT
        >>> backbone = SECFasterViT(arch='0').eval()
        >>> for x in backbone(torch.rand(1, 3, 224, 224)):
        ...     print(tuple(x.shape))
        (1, 64, 56, 56)
        (1, 128, 28, 28)
        (1, 256, 14, 14)
        (1, 512, 7, 7)
    """

    def __init__(
        self,
        arch: str | int = '0',
        num_clusters: int | None = None,
        drop_path_rate: float | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_cfg: dict | None = None,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        attention_backend: str = 'auto',
        in_channels: int = 3,
        cluster_size: int | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        settings = find_arch(arch, ARCHITECTURES)
        dims, depths, num_heads = (settings[k] for k in ('embed_dims', 'depths', 'num_heads'))
        super().__init__(
            dims, depths, out_indices, frozen_stages, norm_eval, with_cp, in_channels, init_cfg
        )
        if drop_path_rate is None:
            drop_path_rate = settings['drop_path_rate']
        rates = drop_path_rates(drop_path_rate, depths)
        norm_cfg = norm_cfg or dict(type='BN')
        if num_clusters is None and cluster_size is None:
            num_clusters = NUM_CLUSTERS[2]
        check_clusters(num_clusters, cluster_size)
        clusters = dict(num_clusters=num_clusters, cluster_size=cluster_size)
        stem_dims = settings['stem_dims']

        def block_of(i: int, rate: float) -> BaseModule:
            if i < 2:
                return ConvBlock(dims[i], rate, norm_cfg)
            if i == 2:
                attn = SECA(dims[i], num_heads[i], backend=attention_backend, lce=False, **clusters)
                return SecViTBlock(dims[i], attn, FFN_RATIO * dims[i], rate, cpe=False)
            return WindowBlock(dims[i], num_heads[i], FFN_RATIO * dims[i], rate)

        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, stem_dims, 3, stride=2, padding=1, bias=False),
            build_norm_layer(norm_cfg, stem_dims)[1],
            nn.ReLU(inplace=True),
            nn.Conv2d(stem_dims, dims[0], 3, stride=2, padding=1, bias=False),
            build_norm_layer(norm_cfg, dims[0])[1],
            nn.ReLU(inplace=True),
        )
        self.downsamples = ModuleList(
            nn.Sequential(
                _MapNorm(dims[i], eps=1e-6),
                nn.Conv2d(dims[i], dims[i + 1], 3, stride=2, padding=1, bias=False),
            )
            for i in range(self.num_stages - 1)
        )
        self.stages = ModuleList(
            ModuleList(block_of(i, rate) for rate in rates[i]) for i in range(self.num_stages)
        )
        self.out_norms = nn.ModuleDict(
            {str(i): _ChannelsLast(build_norm_layer(norm_cfg, dims[i])[1]) for i in out_indices}
        )
        self._freeze()
