"""What the backbones share: the pyramid, loading weights, freezing."""

from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np
import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..checkpoints import load_backbone_weights


class PyramidBackbone(BaseModule):
    """Four stages, each entered through a stem or a down-sampling.

    A subclass builds ``stem``, ``downsamples``, ``stages`` (a list of blocks each) and
    ``out_norms`` for :attr:`num_stages` stages and then calls :meth:`_freeze`; where it has other
    names, it overrides the methods that look them up.

    Args:
        out_indices: Stages whose maps are returned; later stages are not built.
        frozen_stages: What is not trained: -1 nothing, 0 the stem, i the stem and the first i
            stages with all that their maps depend on.
        norm_eval: Whether batch norms keep their running statistics in training.
        with_cp: Whether blocks are recomputed in the backward pass.
        init_cfg: Config of the initialisation, as in the subclasses.

    Raises:
        ValueError: If ``out_indices`` or ``frozen_stages`` is not among the above.
    """

    def __init__(
        self,
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        with_cp: bool,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg or dict(type='TruncNormal', layer='Linear', std=0.02))
        stages = list(out_indices) if isinstance(out_indices, Sequence) else []
        if not stages or stages != sorted({0, 1, 2, 3} & set(stages)):
            raise ValueError(f'out_indices must be rising stages among 0 to 3, got {out_indices}')
        if frozen_stages not in range(-1, 5):
            raise ValueError(f'frozen_stages must be from -1 to 4, got {frozen_stages}')
        self.out_indices = tuple(out_indices)
        self.num_stages = max(out_indices) + 1
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

    def entry(self, i: int) -> nn.Module:
        """What leads to stage ``i``: a module from and to maps, (B, C, H, W)."""
        return self.stem if i == 0 else self.downsamples[i - 1]

    def blocks(self, i: int) -> nn.ModuleList:
        """The blocks of stage ``i``, from and to tokens on their grid, (B, H, W, C)."""
        return self.stages[i]

    def out_norm(self, i: int) -> nn.Module:
        """What normalises the returned map of stage ``i``, with channels last."""
        return self.out_norms[str(i)] if str(i) in self.out_norms else nn.Identity()

    def block_inputs(self, i: int, x: Tensor) -> tuple:
        """What each block of stage ``i`` is given beside the tokens ``x``."""
        return ()

    def optional_weights(self) -> tuple[str, ...]:
        """Beginnings of the keys that may be missing in this backbone or in a checkpoint."""
        # Pretraining has no output norms, and stages behind out_indices are not built.
        not_built = range(self.num_stages, 4)
        return (
            'out_norms.',
            *(f'stages.{i}.' for i in not_built),
            *(f'downsamples.{i - 1}.' for i in not_built),
        )

    def advise(self, weights: dict[str, Tensor]) -> str:
        """Say which arguments make this the backbone of other weights; empty if unknown."""
        return ''

    def init_weights(self) -> None:
        """Initialise the weights, or load them if ``init_cfg`` is of type ``Pretrained``."""
        init_cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg
        pretrained = [cfg for cfg in init_cfgs if cfg['type'] == 'Pretrained']
        if pretrained:
            if not pretrained[0].get('checkpoint'):
                raise ValueError(f'init_cfg must name a checkpoint, got {pretrained[0]}')
            load_backbone_weights(
                self, pretrained[0]['checkpoint'], self.optional_weights(), self.advise
            )
            self.is_init = True
        else:
            super().init_weights()

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
        x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for i in range(self.num_stages):
            x = self._forward_stage(i, self.entry(i)(x).permute(0, 2, 3, 1))
            if i in self.out_indices:
                outs.append(self.out_norm(i)(x).permute(0, 3, 1, 2).contiguous())
            x = x.permute(0, 3, 1, 2)
        return tuple(outs)

    def _forward_stage(self, i: int, x: Tensor) -> Tensor:
        inputs = self.block_inputs(i, x)
        for block in self.blocks(i):
            if self.with_cp and self.training:
                x = checkpoint(block, x, *inputs, use_reentrant=False)
            else:
                x = block(x, *inputs)
        return x

    def train(self, mode: bool = True) -> 'PyramidBackbone':
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
            frozen.append(self.entry(0))
        for i in range(min(self.frozen_stages, self.num_stages)):
            frozen += [self.entry(i), self.blocks(i), self.out_norm(i)]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


def find_arch(arch: str | int, architectures: dict[str, dict], alternative: str = '') -> dict:
    """Look an architecture up by its name or the first letter of its name.

    Args:
        arch: The name. On a command line ``0`` is a number.
        architectures: Architectures by name.
        alternative: What else the caller takes, for the error.

    Raises:
        ValueError: If there is none of that name.
    """
    short_names = {name[0]: name for name in architectures}
    name = str(arch).lower()
    name = short_names.get(name, name)
    if name not in architectures:
        names = dict.fromkeys([*architectures, *short_names])
        raise ValueError(f'arch must be one of {", ".join(names)}{alternative}, got {arch!r}')
    return architectures[name]


def check_counts(name: str, counts: Sequence[int]) -> None:
    """Raise a ValueError unless ``counts`` are four integers of at least 1, one for each stage."""
    if (
        not isinstance(counts, Sequence)
        or len(counts) != 4
        or not all(isinstance(count, Integral) and count >= 1 for count in counts)
    ):
        raise ValueError(f'{name} must be four integers of at least 1, got {counts!r}')


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Rates of stochastic depth for each block of each stage, rising linearly from 0 to ``rate``.

    Raises:
        ValueError: If ``rate`` is not in [0, 1).
    """
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise ValueError(f'drop_path_rate must be in [0, 1), got {rate!r}')
    rates = iter(np.linspace(0, rate, sum(depths)).tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]
