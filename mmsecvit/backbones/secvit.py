"""SecViT, the Semantic Equitable Clustering Vision Transformer."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.scale import LayerScale
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn

from ..errors import InputError
from ..layers import (
    FFN,
    SECA,
    DepthwiseConv2d,
    add,
    conv_stem,
    downsampling,
    patch_stem,
    rotary_table,
)
from .base import PyramidBackbone, check_counts, clusters_of_stages, drop_path_rates, find_arch
from .secvit_ablations import check_ablations, other_attention

# Table 8. `layer_scale` says which stages of the released network have it; the paper has none.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    'tiny': dict(
        embed_dims=(64, 128, 256, 512),
        depths=(2, 2, 9, 2),
        num_heads=(2, 4, 8, 16),
        drop_path_rate=0.1,
    ),
    'small': dict(
        embed_dims=(64, 128, 256, 512),
        depths=(3, 4, 18, 4),
        num_heads=(2, 4, 8, 16),
        drop_path_rate=0.15,
    ),
    'base': dict(
        embed_dims=(80, 160, 320, 512),
        depths=(4, 8, 26, 8),
        num_heads=(5, 5, 10, 16),
        drop_path_rate=0.4,
        layer_scale=(False, False, True, True),
    ),
    'large': dict(
        embed_dims=(112, 224, 448, 640),
        depths=(4, 8, 26, 8),
        num_heads=(7, 7, 14, 20),
        drop_path_rate=0.5,
        layer_scale=(False, False, True, True),
    ),
}
ARCH_DEFAULTS = dict(ffn_ratio=3, drop_path_rate=0.0, layer_scale=(False,) * 4)

# The differences between the paper's text and the network that its authors released.
VARIANTS = {
    'paper': dict(rotary=False, ffn_conv=False, stem_final_act=True, layer_scale=False),
    'released': dict(rotary=True, ffn_conv=True, stem_final_act=False, layer_scale=True),
}


class SecViTBlock(BaseModule):
    """Position encoding, attention and feed-forward network (Eq. 1).

    Args:
        embed_dims: Number of channels.
        attn: Attention that maps (B, H, W, C) to (B, H, W, C), such as
            :class:`mmsecvit.layers.SECA`.
        feedforward_channels: Number of hidden channels of the feed-forward network.
        drop_path_rate: Probability to drop a residual branch of a sample in training.
        cpe: Whether the block begins with the convolutional position encoding.
        ffn_conv: Whether the feed-forward network has a depth-wise convolution.
        layer_scale: Whether both branches are multiplied by a learned factor for each channel,
            which starts at 1e-6.
        recompute: Whether the backward pass computes anew what norms, GELU and the convolution
            of the feed-forward network return, which saves 40 % of a block's memory. Not for
            blocks that are recomputed as a whole.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: nn.Module,
        feedforward_channels: int,
        drop_path_rate: float = 0.0,
        cpe: bool = True,
        ffn_conv: bool = False,
        layer_scale: bool = False,
        recompute: bool = True,
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.cpe = DepthwiseConv2d(embed_dims, kernel_size=3) if cpe else None
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ffn = FFN(embed_dims, feedforward_channels, ffn_conv)
        self.scale1 = LayerScale(embed_dims, scale=1e-6) if layer_scale else nn.Identity()
        self.scale2 = LayerScale(embed_dims, scale=1e-6) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C); ``rotary`` as in :class:`SECA`."""
        if self.cpe is not None:
            x = self.cpe.add_to(x)
        if self.recompute:
            x = add(self.drop_path(self.scale1(self.attn(x, rotary, self.norm1))), x)
            return add(self.drop_path(self.scale2(self.ffn(x, self.norm2))), x)
        x = add(self.drop_path(self.scale1(self.attn(self.norm1(x), rotary))), x)
        return add(self.drop_path(self.scale2(self.ffn(self.norm2(x)))), x)


@MODELS.register_module()
class SecViT(PyramidBackbone):
    """SecViT backbone (Section 3, Appendix A and Table 8 of "Semantic Equitable Clustering").

    Args:
        arch: ``tiny``, ``small``, ``base``, ``large`` (or ``t``, ``s``, ``b``, ``l``), or a dict
            with

            - **embed_dims** (Sequence[int]): Channels of the four stages.
            - **depths** (Sequence[int]): Blocks of the four stages.
            - **num_heads** (Sequence[int]): Heads of the four stages.
            - **ffn_ratio** (float): Ratio of the hidden channels of the feed-forward network to
              the channels. Defaults to 3.
            - **drop_path_rate** (float): Used if the argument is None. Defaults to 0.
            - **layer_scale** (Sequence[bool]): Which stages of the released variant have
              LayerScale. Defaults to none.

            Defaults to ``tiny``.
        variant: ``paper``, the network of the paper's text, or ``released``, the network whose
            weights the authors published and measured. It has rotary embedding of queries and
            keys, a convolution in the feed-forward network, no GELU at the end of the stem, and
            LayerScale. Defaults to ``paper``.
        num_clusters: Clusters of the four stages. Defaults to (32, 8, 2, 1), unless
            ``cluster_size`` is given.
        drop_path_rate: Stochastic depth rate of the last block; it rises linearly from 0 at the
            first block. Defaults to the architecture's own (Table 8).
        out_indices: Stages whose maps are returned. Later stages are not built.
            Defaults to (0, 1, 2, 3).
        norm_cfg: Config of the normalization in stem and down-sampling.
            Defaults to ``dict(type='BN')``.
        out_norm: Whether each returned map has a LayerNorm of its own, for dense prediction.
            Defaults to False.
        frozen_stages: Which parts are not trained: -1 none, 0 the stem, i the stem and the first
            i stages with everything that their maps depend on. Defaults to -1.
        norm_eval: Whether batch norms keep their running statistics in training.
            Defaults to False.
        with_cp: Whether to recompute blocks in the backward pass, which costs time and saves
            memory. torch's fused attention is kept, and a forward pass then takes one backward
            pass. Defaults to False.
        attention_backend: Backend of :func:`mmsecvit.ops.sec_attention`. Defaults to ``auto``.
        in_channels: Channels of the images. Defaults to 3.
        attention: How tokens are grouped for attention: ``sec``, semantic clusters; ``kmeans``,
            as many clusters by k-means, made equal in size (Figure 1); ``window``, Swin's 7x7
            windows; ``cswin``, CSWin's cross-shaped windows with stripes of 1, 2, 7 and 7
            (Table 6). The last two have no clusters. Defaults to ``sec``.
        lce: Whether the attention has local context enhancement. Defaults to True.
        cpe: Whether blocks have the convolutional position encoding. Defaults to True.
        stem: ``conv``, the convolutional stem, or ``patch``, a 4x4 patch embedding with 2x2
            down-sampling between stages (Table 6, w/o Conv Stem). Defaults to ``conv``.
        cluster_size: Tokens of a cluster, in place of ``num_clusters``: a stage of L tokens has
            ``max(1, round(L / cluster_size))`` clusters, so that the cost of attention grows with
            the pixels and not with their square. This is ours, not the paper's; 98 is the paper's
            network at 224x224. Defaults to None.
        init_cfg: Config of the initialization. ``dict(type='Pretrained', checkpoint=PATH)``
            loads weights of this package or the authors', and refuses those that do not fit.
            Defaults to None: linear layers start from a truncated normal distribution with a
            standard deviation of 0.02, the other layers as in torch.

    Raises:
        ValueError: If an argument is not among the above, naming it.

    Example:
        >>> import torch
        >>> from mmsecvit import SecViT
        >>> backbone = SecViT(arch='tiny', variant='released').eval()
        >>> for x in backbone(torch.rand(1, 3, 224, 224)):
        ...     print(tuple(x.shape))
        (1, 64, 56, 56)
        (1, 128, 28, 28)
        (1, 256, 14, 14)
        (1, 512, 7, 7)
    """

    def __init__(
        self,
        arch: str | dict = 'tiny',
        variant: str = 'paper',
        num_clusters: Sequence[int] | None = None,
        drop_path_rate: float | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_cfg: dict | None = None,
        out_norm: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        attention_backend: str = 'auto',
        in_channels: int = 3,
        attention: str = 'sec',
        lce: bool = True,
        cpe: bool = True,
        stem: str = 'conv',
        cluster_size: int | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        arch = _parse_arch(arch)
        dims, depths, num_heads = arch['embed_dims'], arch['depths'], arch['num_heads']
        super().__init__(
            dims, depths, out_indices, frozen_stages, norm_eval, with_cp, in_channels, init_cfg
        )
        if variant not in [*VARIANTS]:
            raise InputError(f'variant must be one of {", ".join(VARIANTS)}, got {variant!r}')
        features = VARIANTS[variant]
        clusters = clusters_of_stages(num_clusters, cluster_size)
        check_ablations(attention, stem)
        if drop_path_rate is None:
            drop_path_rate = arch['drop_path_rate']
        rates = drop_path_rates(drop_path_rate, depths)
        norm_cfg = norm_cfg or dict(type='BN')

        self.variant = variant
        head_dims = [c // heads for c, heads in zip(dims, num_heads, strict=True)]
        if features['rotary'] and any(d % 4 for d in head_dims):
            raise InputError(
                "arch must have head dimensions that are multiples of 4 for variant 'released', "
                f'got {head_dims}'
            )
        self.rotary_dims = head_dims if features['rotary'] else []

        def attention_of(i: int) -> nn.Module:
            settings = dims[i], num_heads[i], clusters[i], attention_backend, lce, cluster_size
            if attention != 'sec':
                return other_attention(attention, i, *settings)
            return SECA(*settings)

        if stem == 'conv':
            self.stem = conv_stem(dims[0], norm_cfg, features['stem_final_act'], in_channels)
        else:
            self.stem = patch_stem(dims[0], norm_cfg, in_channels)
        self.downsamples = ModuleList(
            downsampling(dims[i], dims[i + 1], norm_cfg, kernel_size=3 if stem == 'conv' else 2)
            for i in range(self.num_stages - 1)
        )
        self.stages = ModuleList(
            ModuleList(
                SecViTBlock(
                    dims[i],
                    attention_of(i),
                    feedforward_channels=int(dims[i] * arch['ffn_ratio']),
                    drop_path_rate=rate,
                    cpe=cpe,
                    ffn_conv=features['ffn_conv'],
                    layer_scale=features['layer_scale'] and arch['layer_scale'][i],
                    recompute=not with_cp,
                )
                for rate in rates[i]
            )
            for i in range(self.num_stages)
        )
        self.out_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i], eps=1e-6) for i in out_indices if out_norm}
        )
        self._freeze()

    def block_inputs(self, i: int, x: Tensor) -> tuple:
        """Return the rotary table of the grid of ``x``, if the variant has rotary embedding."""
        if not self.rotary_dims:
            return ()
        # Angles grow with the position: half precision would round neighboring tokens to one.
        dtype = torch.promote_types(x.dtype, torch.float32)
        return (rotary_table(x.shape[1], x.shape[2], self.rotary_dims[i], dtype, x.device),)

    def advise(self, weights: dict[str, Tensor]) -> str:
        """Return which arguments to change to load ``weights``, or '' if unknown."""
        # Stages that are not built here say nothing about the weights.
        own, given = (recognize(w, self.num_stages) for w in (self.state_dict(), weights))
        return ' and '.join(
            f"set the backbone's {name} to {value!r} (it is {own[name]!r})"
            for name, value in given.items()
            if value != own[name]
        )


def recognize(weights: dict[str, Tensor], num_stages: int = 4) -> dict[str, Any]:
    """Derive a SecViT's arguments from the names and shapes of its weights.

    Args:
        weights: State dict of a SecViT.
        num_stages: Number of stages to look at.

    Returns:
        ``arch``, a name if it is one of Table 8, or else a dict without ``num_heads``, which no
        shape contains; ``variant``; and, if there is a stem, ``in_channels``. An empty dict if
        the weights are not of a SecViT.
    """
    first_blocks = [f'stages.{i}.0' for i in range(num_stages)]
    if not all(f'{b}.{m}.weight' in weights for b in first_blocks for m in ('norm1', 'ffn.fc1')):
        return {}
    embed_dims = tuple(len(weights[f'{block}.norm1.weight']) for block in first_blocks)
    depths = tuple(
        len({key.split('.')[2] for key in weights if key.startswith(f'stages.{i}.')})
        for i in range(num_stages)
    )
    names = [
        name
        for name, arch in ARCHITECTURES.items()
        if arch['embed_dims'][:num_stages] == embed_dims and arch['depths'][:num_stages] == depths
    ]
    arch = dict(
        embed_dims=embed_dims,
        depths=depths,
        ffn_ratio=len(weights['stages.0.0.ffn.fc1.weight']) / embed_dims[0],
        layer_scale=tuple(f'{block}.scale1.weight' in weights for block in first_blocks),
    )
    variant = 'released' if 'stages.0.0.ffn.conv.weight' in weights else 'paper'
    arguments: dict[str, Any] = dict(arch=names[0] if names else arch, variant=variant)
    for stem in ('stem.0.weight', 'stem.conv.weight'):
        if stem in weights and weights[stem].dim() == 4:
            arguments['in_channels'] = weights[stem].shape[1]
    return arguments


def _parse_arch(arch: str | dict) -> dict:
    if not isinstance(arch, dict):
        return {**ARCH_DEFAULTS, **find_arch(arch, ARCHITECTURES, ' or a dict')}
    essential = {'embed_dims', 'depths', 'num_heads'}
    if not essential <= set(arch) <= essential | set(ARCH_DEFAULTS):
        raise InputError(
            f'arch must have the keys {", ".join(sorted(essential))} and may have '
            f'{", ".join(ARCH_DEFAULTS)}, got {", ".join(arch)}'
        )
    arch = {**ARCH_DEFAULTS, **arch}
    for key in sorted(essential):
        check_counts(f"arch['{key}']", arch[key])
    if any(c % heads for c, heads in zip(arch['embed_dims'], arch['num_heads'], strict=True)):
        raise InputError(
            "arch['embed_dims'] must be multiples of arch['num_heads'], "
            f'got {arch["embed_dims"]} and {arch["num_heads"]}'
        )
    if not isinstance(arch['layer_scale'], Sequence) or len(arch['layer_scale']) != 4:
        raise InputError(f"arch['layer_scale'] must have four entries, got {arch['layer_scale']!r}")
    if not isinstance(arch['ffn_ratio'], Real) or arch['ffn_ratio'] <= 0:
        raise InputError(f"arch['ffn_ratio'] must be a positive number, got {arch['ffn_ratio']!r}")
    return arch
