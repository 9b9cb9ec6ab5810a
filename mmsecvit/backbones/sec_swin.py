"""SEC-Swin: Swin Transformer with semantic clusters in place of its windows."""

from collections.abc import Sequence

from mmcv.cnn.bricks.transformer import FFN, PatchEmbed, PatchMerging
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..layers import SECA
from .base import PyramidBackbone, clusters_of_stages, drop_path_rates, find_arch

# Table 8. The paper gives no rates of stochastic depth: these are Swin's.
ARCHITECTURES = {
    'tiny': dict(
        embed_dims=(96, 192, 384, 768),
        depths=(2, 2, 6, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.2,
    ),
    'small': dict(
        embed_dims=(96, 192, 384, 768),
        depths=(2, 2, 18, 2),
        num_heads=(3, 6, 12, 24),
        drop_path_rate=0.3,
    ),
}
FFN_RATIO = 4


class _PatchEmbed(PatchEmbed):
    """Swin's patch embedding, (B, in_channels, H, W) to (B, C, ceil(H / 4), ceil(W / 4))."""

    def forward(self, x: Tensor) -> Tensor:
        x, grid = super().forward(x)
        # (B, H * W, C) -> (B, C, H, W)
        return x.unflatten(1, grid).permute(0, 3, 1, 2)


class _PatchMerging(PatchMerging):
    """Swin's patch merging, (B, C, H, W) to (B, 2C, ceil(H / 2), ceil(W / 2))."""

    def forward(self, x: Tensor) -> Tensor:
        # (B, C, H, W) -> (B, H * W, C), and back
        x, grid = super().forward(x.flatten(2).transpose(1, 2), x.shape[2:])
        return x.unflatten(1, grid).permute(0, 3, 1, 2)


class SECSwinBlock(BaseModule):
    """Swin's block with clusters in place of windows: no shift, no relative position bias.

    Args:
        embed_dims: Number of channels.
        num_heads: Number of heads.
        drop_path_rate: Probability to drop a residual branch of a sample in training.
        attention: Arguments of :class:`mmsecvit.layers.SECA`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        drop_path_rate: float,
        attention: dict,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dims)
        # Swin has these names in the toolboxes, so that its weights load.
        self.attn = nn.ModuleDict(dict(w_msa=SECA(embed_dims, num_heads, lce=False, **attention)))
        self.norm2 = nn.LayerNorm(embed_dims)
        self.ffn = FFN(
            embed_dims,
            FFN_RATIO * embed_dims,
            act_cfg=dict(type='GELU'),
            dropout_layer=dict(type='DropPath', drop_prob=drop_path_rate),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C)."""
        x = x + self.ffn.dropout_layer(self.attn['w_msa'](self.norm1(x)))
        return self.ffn(self.norm2(x), identity=x)


@MODELS.register_module()
class SECSwin(PyramidBackbone):
    """Swin Transformer with Semantic Equitable Clustering (Table 2, Appendix A).

    Only the attention differs from Swin, and the weights have the same names as in the
    toolboxes: a checkpoint of Swin loads, except its relative position bias.

    Args:
        arch: ``tiny`` or ``small`` (or ``t``, ``s``), Table 8. Defaults to ``tiny``.
        num_clusters: Clusters of the four stages. Defaults to (32, 8, 2, 1), unless
            ``cluster_size`` is given.
        drop_path_rate: Stochastic depth rate of the last block; it rises linearly from 0 at the
            first block. Defaults to Swin's own, 0.2 and 0.3.
        out_indices: Stages whose maps are returned, each through a LayerNorm of its own. Later
            stages are not built. Defaults to (0, 1, 2, 3).
        frozen_stages: As in :class:`SecViT`; the stem is the patch embedding. Defaults to -1.
        norm_eval: Whether batch norms keep their running statistics in training. Swin has
            none. Defaults to False.
        with_cp: Whether to recompute blocks in the backward pass. Defaults to False.
        attention_backend: Backend of :func:`mmsecvit.ops.sec_attention`. Defaults to ``auto``.
        in_channels: Channels of the images. Defaults to 3.
        cluster_size: Tokens of a cluster, in place of ``num_clusters``, as in :class:`SecViT`.
            Defaults to None.
        init_cfg: Config of the initialization, as in :class:`SecViT`; ``Pretrained`` takes
            checkpoints of Swin too. Defaults to None.

    Raises:
        ValueError: If an argument is not among the above, naming it.

    Example:
        >>> import torch
        >>> from mmsecvit import SECSwin
        >>> backbone = SECSwin(arch='tiny').eval()
        >>> for x in backbone(torch.rand(1, 3, 224, 224)):
        ...     print(tuple(x.shape))
        (1, 96, 56, 56)
        (1, 192, 28, 28)
        (1, 384, 14, 14)
        (1, 768, 7, 7)
    """

    def __init__(
        self,
        arch: str = 'tiny',
        num_clusters: Sequence[int] | None = None,
        drop_path_rate: float | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
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
        clusters = clusters_of_stages(num_clusters, cluster_size)
        if drop_path_rate is None:
            drop_path_rate = settings['drop_path_rate']
        rates = drop_path_rates(drop_path_rate, depths)

        self.patch_embed = _PatchEmbed(
            in_channels, dims[0], kernel_size=4, stride=4, norm_cfg=dict(type='LN')
        )
        self.stages = ModuleList()
        for i in range(self.num_stages):
            attention = dict(
                num_clusters=clusters[i], cluster_size=cluster_size, backend=attention_backend
            )
            blocks = ModuleList(
                SECSwinBlock(dims[i], num_heads[i], rate, attention) for rate in rates[i]
            )
            stage = nn.ModuleDict(dict(blocks=blocks))
            if i + 1 < self.num_stages:
                stage['downsample'] = _PatchMerging(dims[i], dims[i + 1])
            self.stages.append(stage)
        for i in out_indices:
            self.add_module(f'norm{i}', nn.LayerNorm(dims[i]))
        self._freeze()

    def downsample(self, i: int) -> nn.Module:
        return self.patch_embed if i == 0 else self.stages[i - 1]['downsample']

    def blocks(self, i: int) -> ModuleList:
        return self.stages[i]['blocks']

    def out_norm(self, i: int) -> nn.Module:
        return getattr(self, f'norm{i}', nn.Identity())

    def optional_weights(self) -> tuple[str, ...]:
        not_built = range(self.num_stages, 4)
        blocks = [(i, j) for i in range(self.num_stages) for j in range(len(self.blocks(i)))]
        return (
            *(f'norm{i}.' for i in range(4)),
            *(f'stages.{i}.' for i in not_built),
            *(f'stages.{i - 1}.downsample.' for i in not_built),
            *(f'stages.{i}.blocks.{j}.attn.w_msa.relative_position_' for i, j in blocks),
        )
