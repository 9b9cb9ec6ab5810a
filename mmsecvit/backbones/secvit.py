"""SecViT, the Semantic Equitable Clustering Vision Transformer."""

from collections.abc import Sequence

import torch
from mmcv.cnn.bricks import DropPath
from mmcv.cnn.bricks.scale import LayerScale
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..checkpoints import load_backbone_weights
from ..layers import FFN, SECA, DepthwiseConv2d, conv_stem, downsampling, rotary_tables

# Table 8. `layer_scale`: which stages of the released network have it (the paper has none).
ARCHITECTURES = {
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
SHORT_NAMES = dict(t='tiny', s='small', b='base', l='large')
ARCH_DEFAULTS = dict(ffn_ratio=3, drop_path_rate=0.0, layer_scale=(False,) * 4)

# Where the paper's text and the network that its authors released differ.
VARIANTS = {
    'paper': dict(rotary=False, ffn_conv=False, stem_final_act=True, layer_scale=False),
    'released': dict(rotary=True, ffn_conv=True, stem_final_act=False, layer_scale=True),
}


class SecViTBlock(BaseModule):
    """Position encoding, clustered attention and feed-forward network (Eq. 1).

    Args:
        embed_dims: Number of channels.
        num_heads: Number of heads.
        num_clusters: Number of clusters in each head.
        feedforward_channels: Number of hidden channels of the feed-forward network.
        drop_path_rate: Probability to drop a residual branch of a sample in training.
        ffn_conv: Whether the feed-forward network has a depth-wise convolution.
        layer_scale: Whether a learnt factor for each channel, 1e-6 at first, is on both
            branches.
        attention_backend: Backend of :func:`mmsecvit.ops.sec_attention`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        num_clusters: int,
        feedforward_channels: int,
        drop_path_rate: float = 0.0,
        ffn_conv: bool = False,
        layer_scale: bool = False,
        attention_backend: str = 'auto',
    ) -> None:
        super().__init__()
        self.cpe = DepthwiseConv2d(embed_dims, kernel_size=3)
        self.norm1 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.attn = SECA(embed_dims, num_heads, num_clusters, attention_backend)
        self.norm2 = nn.LayerNorm(embed_dims, eps=1e-6)
        self.ffn = FFN(embed_dims, feedforward_channels, ffn_conv)
        self.scale1 = LayerScale(embed_dims, scale=1e-6) if layer_scale else nn.Identity()
        self.scale2 = LayerScale(embed_dims, scale=1e-6) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Map (B, H, W, C) to (B, H, W, C); ``rotary`` as in :class:`SECA`."""
        x = x + self.cpe(x)
        x = x + self.drop_path(self.scale1(self.attn(self.norm1(x), rotary)))
        return x + self.drop_path(self.scale2(self.ffn(self.norm2(x))))


@MODELS.register_module()
class SecViT(BaseModule):
    """SecViT backbone (Section 3, Appendix A and Table 8 of "Semantic Equitable Clustering").

    Args:
        arch: ``tiny``, ``small``, ``base``, ``large`` (or ``t``, ``s``, ``b``, ``l``), or a dict
            with

            - **embed_dims** (Sequence[int]): Channels of the four stages.
            - **depths** (Sequence[int]): Blocks of the four stages.
            - **num_heads** (Sequence[int]): Heads of the four stages.
            - **ffn_ratio** (float): Hidden channels of the feed-forward network over channels.
              Defaults to 3.
            - **drop_path_rate** (float): Used where the argument is None. Defaults to 0.
            - **layer_scale** (Sequence[bool]): Which stages of the released variant have
              LayerScale. Defaults to none.

            Defaults to ``tiny``.
        variant: ``paper``, the network of the paper's text, or ``released``, the one whose
            weights the authors published and measured: rotary embedding on queries and keys, a
            convolution in the feed-forward network, no GELU at the end of the stem, LayerScale.
            Defaults to ``paper``.
        num_clusters: Clusters of the four stages. Defaults to (32, 8, 2, 1).
        drop_path_rate: Stochastic depth of the last block; it rises linearly from 0 at the
            first. Defaults to the architecture's own (Table 8).
        out_indices: Stages whose maps are returned; later stages are not built.
            Defaults to (0, 1, 2, 3).
        norm_cfg: Config of the normalisation in stem and down-sampling.
            Defaults to ``dict(type='BN')``.
        out_norm: Whether each returned map goes through a LayerNorm of its own, for dense
            prediction. Defaults to False.
        frozen_stages: What is not trained: -1 nothing, 0 the stem, i the stem and the first i
            stages with all that their maps depend on. Defaults to -1.
        norm_eval: Whether batch norms keep their running statistics in training.
            Defaults to False.
        with_cp: Whether blocks are recomputed in the backward pass, which costs time and saves
            memory. Defaults to False.
        attention_backend: Backend of :func:`mmsecvit.ops.sec_attention`. Defaults to ``auto``.
        init_cfg: Config of the initialisation. ``dict(type='Pretrained', checkpoint=PATH)``
            loads weights of this package or the authors', and refuses those that do not fit.
            Defaults to None: linear layers from a truncated normal of std 0.02, the others as
            torch does.

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
        num_clusters: Sequence[int] = (32, 8, 2, 1),
        drop_path_rate: float | None = None,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        norm_cfg: dict | None = None,
        out_norm: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        attention_backend: str = 'auto',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg or dict(type='TruncNormal', layer='Linear', std=0.02))
        arch = _parse_arch(arch)
        if variant not in VARIANTS:
            raise ValueError(f'variant must be one of {", ".join(VARIANTS)}, got {variant!r}')
        features = VARIANTS[variant]
        if not isinstance(num_clusters, Sequence) or len(num_clusters) != 4:
            raise ValueError(f'num_clusters must have four entries, got {num_clusters}')
        if not out_indices or list(out_indices) != sorted({0, 1, 2, 3} & set(out_indices)):
            raise ValueError(f'out_indices must be rising stages among 0 to 3, got {out_indices}')
        if frozen_stages not in range(-1, 5):
            raise ValueError(f'frozen_stages must be from -1 to 4, got {frozen_stages}')
        if drop_path_rate is None:
            drop_path_rate = arch['drop_path_rate']
        if not 0 <= drop_path_rate < 1:
            raise ValueError(f'drop_path_rate must be in [0, 1), got {drop_path_rate}')
        norm_cfg = norm_cfg or dict(type='BN')

        self.variant = variant
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        dims, depths = arch['embed_dims'], arch['depths']
        head_dims = [c // heads for c, heads in zip(dims, arch['num_heads'], strict=True)]
        if features['rotary'] and any(d % 4 for d in head_dims):
            raise ValueError(
                "arch must have head dimensions that are multiples of 4 for variant 'released', "
                f'got {head_dims}'
            )
        self.rotary_dims = head_dims if features['rotary'] else None

        drop_path_rates = torch.linspace(0, drop_path_rate, sum(depths)).split(list(depths))
        num_stages = max(out_indices) + 1
        self.stem = conv_stem(dims[0], norm_cfg, features['stem_final_act'])
        self.downsamples = ModuleList(
            downsampling(dims[i], dims[i + 1], norm_cfg) for i in range(num_stages - 1)
        )
        self.stages = ModuleList(
            ModuleList(
                SecViTBlock(
                    dims[i],
                    arch['num_heads'][i],
                    num_clusters[i],
                    feedforward_channels=int(dims[i] * arch['ffn_ratio']),
                    drop_path_rate=rate.item(),
                    ffn_conv=features['ffn_conv'],
                    layer_scale=features['layer_scale'] and arch['layer_scale'][i],
                    attention_backend=attention_backend,
                )
                for rate in drop_path_rates[i]
            )
            for i in range(num_stages)
        )
        self.out_norms = nn.ModuleDict(
            {str(i): nn.LayerNorm(dims[i], eps=1e-6) for i in out_indices if out_norm}
        )
        self._freeze()

    def init_weights(self) -> None:
        """Initialise the weights, or load them if ``init_cfg`` is of type ``Pretrained``."""
        init_cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg
        pretrained = [cfg for cfg in init_cfgs if cfg['type'] == 'Pretrained']
        if pretrained:
            if not pretrained[0].get('checkpoint'):
                raise ValueError(f'init_cfg must name a checkpoint, got {pretrained[0]}')
            # Pretraining has no output norms, and stages behind out_indices are not built.
            not_built = range(len(self.stages), 4)
            optional = (
                'out_norms.',
                *(f'stages.{i}.' for i in not_built),
                *(f'downsamples.{i - 1}.' for i in not_built),
            )
            load_backbone_weights(self, pretrained[0]['checkpoint'], optional, self._advise)
            self.is_init = True
        else:
            super().init_weights()

    def _advise(self, weights: dict[str, Tensor]) -> str:
        """Say which arguments make this the backbone of other weights, if any do."""
        # Stages behind out_indices are not built, and tell nothing of the file's.
        own, given = (recognize(w, len(self.stages)) for w in (self.state_dict(), weights))
        return ' and '.join(
            f"set the backbone's {name} to {value!r} (it is {own[name]!r})"
            for name, value in given.items()
            if value != own[name]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the pyramid.

        Args:
            x: Images, (B, 3, H, W), floating, H and W at least 32 and otherwise any.

        Returns:
            A map (B, C_i, ceil(H / 2^(i + 2)), ceil(W / 2^(i + 2))) for each of
            ``out_indices``.

        Raises:
            ValueError: If ``x`` has another shape or is not floating.
        """
        if x.dim() != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 32 or not x.is_floating_point():
            raise ValueError(
                'x must be floating images of the shape (B, 3, H, W) with H and W at least 32, '
                f'got {x.dtype} of the shape {tuple(x.shape)}'
            )
        # Channels lie last throughout: then linear layers, layer norms and the gathering of
        # tokens need no transposes.
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        outs = []
        for i, blocks in enumerate(self.stages):
            if i > 0:
                x = self.downsamples[i - 1](x)
            x = self._forward_stage(i, blocks, x.permute(0, 2, 3, 1))
            if i in self.out_indices:
                out = self.out_norms[str(i)](x) if self.out_norms else x
                outs.append(out.permute(0, 3, 1, 2).contiguous())
            x = x.permute(0, 3, 1, 2)
        return tuple(outs)

    def _forward_stage(self, i: int, blocks: ModuleList, x: Tensor) -> Tensor:
        rotary = None
        if self.rotary_dims is not None:
            # Angles grow with the position: half precision would blur neighbouring tokens.
            dtype = torch.promote_types(x.dtype, torch.float32)
            rotary = rotary_tables(x.shape[1], x.shape[2], self.rotary_dims[i], dtype, x.device)
        for block in blocks:
            if self.with_cp and self.training:
                x = checkpoint(block, x, rotary, use_reentrant=False)
            else:
                x = block(x, rotary)
        return x

    def train(self, mode: bool = True) -> 'SecViT':
        """Set the mode, but keep what is frozen, and with ``norm_eval`` batch norms, in eval."""
        super().train(mode)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        frozen: list[nn.Module] = []
        if self.frozen_stages >= 0:
            frozen.append(self.stem)
        for i in range(min(self.frozen_stages, len(self.stages))):
            frozen.append(self.stages[i])
            if i > 0:
                frozen.append(self.downsamples[i - 1])
            if str(i) in self.out_norms:
                frozen.append(self.out_norms[str(i)])
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


def recognize(weights: dict[str, Tensor], num_stages: int = 4) -> dict[str, str | dict]:
    """Tell a SecViT's arguments from the names and shapes of its weights.

    Args:
        weights: State dict of a SecViT.
        num_stages: How many stages to look at.

    Returns:
        ``arch``, a name where it is one of Table 8 and else a dict without the number of heads,
        which no shape tells; and ``variant``. An empty dict if these are no such weights.
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
    return dict(arch=names[0] if names else arch, variant=variant)


def _parse_arch(arch: str | dict) -> dict:
    if isinstance(arch, str):
        name = SHORT_NAMES.get(arch.lower(), arch.lower())
        if name not in ARCHITECTURES:
            raise ValueError(
                f'arch must be one of {", ".join([*ARCHITECTURES, *SHORT_NAMES])} or a dict, '
                f'got {arch!r}'
            )
        return {**ARCH_DEFAULTS, **ARCHITECTURES[name]}
    essential = {'embed_dims', 'depths', 'num_heads'}
    if not essential <= set(arch) <= essential | set(ARCH_DEFAULTS):
        raise ValueError(
            f'arch must have the keys {", ".join(sorted(essential))} and may have '
            f'{", ".join(ARCH_DEFAULTS)}, got {", ".join(arch)}'
        )
    arch = {**ARCH_DEFAULTS, **arch}
    for key in (*sorted(essential), 'layer_scale'):
        if len(arch[key]) != 4:
            raise ValueError(f'arch must have four entries in {key}, got {arch[key]}')
        if key in essential and min(arch[key]) < 1:
            raise ValueError(f'arch must have positive numbers in {key}, got {arch[key]}')
    return arch
