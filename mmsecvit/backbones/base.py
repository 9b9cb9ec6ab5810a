"""The common base of the three backbones: the pyramid, loading weights, freezing, layer depths."""

from collections.abc import Sequence
from functools import cached_property, partial
from numbers import Real
from typing import Any

import numpy as np
import torch
from mmengine.model import BaseModule, PretrainedInit
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import checkpoint as checkpointing

from ..checkpoints import load_backbone_weights
from ..errors import InputError
from ..ops.attention import check_cluster_size, is_count

# What recomputed blocks keep: the attention takes most of the time at large images.
KEPT_OPERATIONS = [
    getattr(torch.ops.aten, f'_scaled_dot_product_{name}').default
    for name in (
        'flash_attention',
        'flash_attention_for_cpu',
        'efficient_attention',
        'cudnn_attention',
    )
    if hasattr(torch.ops.aten, f'_scaled_dot_product_{name}')
]
# Of the four stages, Appendix A: clusters of 98 tokens, and 49 in the last stage, at 224x224.
NUM_CLUSTERS = (32, 8, 2, 1)


class PyramidBackbone(BaseModule):
    """Four stages; a stem comes before the first, a down-sampling before each of the others.

    A subclass builds ``stem``, ``downsamples``, ``stages`` (a list of blocks for each stage) and
    ``out_norms`` for the first :attr:`num_stages` stages, and then calls :meth:`_freeze`. A
    subclass with other names overrides :meth:`downsample`, :meth:`blocks`, :meth:`out_norm` and
    :meth:`optional_weights`.

    Args:
        embed_dims: Channels of the four stages.
        depths: Blocks of the four stages.
        out_indices: Stages whose maps are returned. Later stages are not built.
        frozen_stages: Which parts are not trained: -1 none, 0 the stem, i the stem and the first
            i stages with everything that their maps depend on.
        norm_eval: Whether batch norms keep their running statistics in training.
        with_cp: Whether to recompute blocks in the backward pass.
        in_channels: Channels of the images.
        init_cfg: Config of the initialization, as in the subclasses.

    Raises:
        ValueError: If ``out_indices``, ``frozen_stages`` or ``in_channels`` is not among the above.
    """

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        out_indices: Sequence[int],
        frozen_stages: int,
        norm_eval: bool,
        with_cp: bool,
        in_channels: int,
        init_cfg: dict | list[dict] | None,
    ) -> None:
        super().__init__(init_cfg or dict(type='TruncNormal', layer='Linear', std=0.02))
        stages = list(out_indices) if isinstance(out_indices, Sequence) else []
        if not stages or stages != sorted({0, 1, 2, 3} & set(stages)):
            raise InputError(f'out_indices must be rising stages among 0 to 3, got {out_indices}')
        if frozen_stages not in range(-1, 5):
            raise InputError(f'frozen_stages must be from -1 to 4, got {frozen_stages}')
        if not is_count(in_channels):
            raise InputError(f'in_channels must be an integer of at least 1, got {in_channels!r}')
        self.out_indices = tuple(out_indices)
        self.num_stages = max(out_indices) + 1
        self.depths = list(depths[: self.num_stages])
        #: Channels of each stage that is built, as in mmpretrain's Swin.
        self.num_features = list(embed_dims[: self.num_stages])
        self.in_channels = in_channels
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp

    def downsample(self, i: int) -> nn.Module:
        """Return the layer before stage ``i``, the stem for the first; it takes (B, C, H, W)."""
        return self.stem if i == 0 else self.downsamples[i - 1]

    def blocks(self, i: int) -> nn.ModuleList:
        """Return the blocks of stage ``i``. Each maps (B, H, W, C) to (B, H, W, C)."""
        return self.stages[i]

    def out_norm(self, i: int) -> nn.Module:
        """Return the norm of the map that stage ``i`` returns. It takes (B, H, W, C)."""
        return self.out_norms[str(i)] if str(i) in self.out_norms else nn.Identity()

    def block_inputs(self, i: int, x: Tensor) -> tuple:
        """Return what the blocks of stage ``i`` take in addition to tokens like ``x``."""
        return ()

    def optional_weights(self) -> tuple[str, ...]:
        """Return beginnings of keys that a checkpoint or this backbone may lack."""
        # Pretraining has no output norms, and stages after the last of out_indices are not built.
        not_built = range(self.num_stages, 4)
        return (
            'out_norms.',
            *(f'stages.{i}.' for i in not_built),
            *(f'downsamples.{i - 1}.' for i in not_built),
        )

    def advise(self, weights: dict[str, Tensor]) -> str:
        """Return which arguments to change to load ``weights``, or '' if unknown."""
        return ''

    def init_weights(self) -> None:
        """Initialize the weights, or load them if ``init_cfg`` is of the type ``Pretrained``."""
        init_cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg
        pretrained = [cfg for cfg in init_cfgs if _is_pretrained(cfg['type'])]
        if pretrained:
            if not pretrained[0].get('checkpoint'):
                raise InputError(f'init_cfg must name a checkpoint, got {pretrained[0]}')
            # mmengine adds the scope where a config inherits from another toolbox.
            taken = {'type', 'checkpoint', 'prefix', 'map_location', '_scope_'}
            if unknown := sorted(pretrained[0].keys() - taken):
                raise InputError(
                    f'init_cfg of the type Pretrained takes checkpoint and prefix, got {unknown[0]}'
                )
            load_backbone_weights(
                self,
                pretrained[0]['checkpoint'],
                self.optional_weights(),
                self.advise,
                pretrained[0].get('prefix'),
            )
            self.is_init = True
        else:
            super().init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the stages.

        Args:
            x: Images, (B, in_channels, H, W), floating, with H and W at least 32.

        Returns:
            A map (B, C_i, ceil(H / 2^(i + 2)), ceil(W / 2^(i + 2))) for each of
            ``out_indices``.

        Raises:
            ValueError: If ``x`` has another shape or is not floating.
        """
        channels = self.in_channels
        if (
            x.dim() != 4
            or x.shape[1] != channels
            or min(x.shape[2:]) < 32
            or not x.is_floating_point()
        ):
            raise InputError(
                f'x must be floating images of the shape (B, {channels}, H, W) with H and W at '
                f'least 32, got {x.dtype} of the shape {tuple(x.shape)}'
            )
        # Channels are last in memory throughout: linear layers, layer norms and the gathering of
        # tokens then need no transposes.
        x = x.contiguous(memory_format=torch.channels_last)
        outs = []
        for i in range(self.num_stages):
            x = self._forward_stage(i, self.downsample(i)(x).permute(0, 2, 3, 1))
            if i in self.out_indices:
                outs.append(self.out_norm(i)(x).permute(0, 3, 1, 2).contiguous())
            x = x.permute(0, 3, 1, 2)
        return tuple(outs)

    def _forward_stage(self, i: int, x: Tensor) -> Tensor:
        inputs = self.block_inputs(i, x)
        for block in self.blocks(i):
            if self.with_cp and self.training:
                x = _recompute(block, x, *inputs)
            else:
                x = block(x, *inputs)
        return x

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """Return the depth of a parameter, for learning rates that decay layer by layer.

        As in mmpretrain's Swin, the stem has the depth 0, each block is one layer, a
        down-sampling is in the layer of the block before it, and everything after the blocks,
        heads included, is in the last layer.

        Args:
            param_name: Name of the parameter in the model.
            prefix: Beginning of the names of this backbone's parameters in the model, such as
                ``backbone.``. Defaults to an empty string.

        Returns:
            The depth of the parameter, from 0 to the number of layers - 1, and the number of
            layers.
        """
        last = sum(self.depths) + 1
        if not param_name.startswith(prefix):
            return last, last + 1
        *modules, _ = param_name.removeprefix(prefix).split('.')
        parents = ['.'.join(modules[: i + 1]) for i in range(len(modules))]
        depth = next((self._depths[name] for name in parents if name in self._depths), last)
        return depth, last + 1

    @cached_property
    def _depths(self) -> dict[str, int]:
        """Return the depth of the stem, of each block and of each down-sampling by name."""
        depths: dict[nn.Module, int] = {}
        for i in range(self.num_stages):
            before = sum(self.depths[:i])
            depths[self.downsample(i)] = before
            depths |= {block: before + j for j, block in enumerate(self.blocks(i), start=1)}
        return {name: depths[module] for name, module in self.named_modules() if module in depths}

    def train(self, mode: bool = True) -> 'PyramidBackbone':
        """Set the mode, except that frozen parts, and with ``norm_eval`` batch norms, stay in eval.

        Args:
            mode: Whether to train or to evaluate.

        Returns:
            This module.
        """
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
            frozen.append(self.downsample(0))
        for i in range(min(self.frozen_stages, self.num_stages)):
            frozen += [self.downsample(i), self.blocks(i), self.out_norm(i)]
        for module in frozen:
            module.eval()
            module.requires_grad_(False)


def _recompute(block: nn.Module, *inputs: Tensor) -> Tensor:
    """Run a block, which the backward pass runs again, except torch's fused attention."""
    options: dict[str, Any] = {}
    # torch 2.4 was the first with selective checkpoints; a compiled graph makes its own choice.
    if hasattr(checkpointing, 'create_selective_checkpoint_contexts') and not (
        torch.compiler.is_compiling()
    ):
        contexts = checkpointing.create_selective_checkpoint_contexts
        options['context_fn'] = partial(contexts, KEPT_OPERATIONS)
    return checkpointing.checkpoint(block, *inputs, use_reentrant=False, **options)


def _is_pretrained(kind: str | type) -> bool:
    """Return whether an initialization is mmengine's ``Pretrained``, a class or a name."""
    return kind is PretrainedInit or str(kind).rpartition('.')[2] == 'Pretrained'


def find_backbone(model: nn.Module) -> nn.Module:
    """Return the backbone of a model, also of the detector inside another one.

    Of several, such as a student's and a teacher's, it is the one that is trained, and of these the
    outermost.

    Args:
        model: A model, or a wrapper of it.

    Raises:
        ValueError: If there is none.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, PyramidBackbone) or name.rpartition('.')[2] == 'backbone'
    }
    if not found:
        raise InputError(f'the model must have a backbone, got a {type(model).__name__}')
    trained = {name: any(p.requires_grad for p in m.parameters()) for name, m in found.items()}
    return found[min(found, key=lambda name: (not trained[name], name.count('.')))]


def find_arch(arch: str | int, architectures: dict[str, dict], alternative: str = '') -> dict:
    """Look up an architecture by its name or the first letter of its name.

    Args:
        arch: The name. On a command line, ``0`` is a number.
        architectures: Architectures by name.
        alternative: What else the caller takes, for the error.

    Raises:
        ValueError: If there is no such name.
    """
    short_names = {name[0]: name for name in architectures}
    name = str(arch).lower()
    name = short_names.get(name, name)
    if name not in architectures:
        names = dict.fromkeys([*architectures, *short_names])
        raise InputError(f'arch must be one of {", ".join(names)}{alternative}, got {arch!r}')
    return architectures[name]


def check_counts(name: str, counts: Sequence[int]) -> None:
    """Raise a ValueError unless ``counts`` are four integers of at least 1, one for each stage."""
    if not isinstance(counts, Sequence) or len(counts) != 4 or not all(map(is_count, counts)):
        raise InputError(f'{name} must be four integers of at least 1, got {counts!r}')


def clusters_of_stages(
    num_clusters: Sequence[int] | None, cluster_size: int | None
) -> Sequence[int | None]:
    """Return the number of clusters of each stage, or None where their size decides.

    Raises:
        ValueError: If both are given, or if ``cluster_size`` or a number is no integer or below 1.
    """
    if cluster_size is not None:
        check_cluster_size(cluster_size, num_clusters)
        return (None,) * 4
    if num_clusters is None:
        return NUM_CLUSTERS
    check_counts('num_clusters', num_clusters)
    return num_clusters


def drop_path_rates(rate: float, depths: Sequence[int]) -> list[list[float]]:
    """Return the drop rate of each block of each stage, which rises linearly from 0 to ``rate``.

    Raises:
        ValueError: If ``rate`` is not in [0, 1).
    """
    if not isinstance(rate, Real) or not 0 <= rate < 1:
        raise InputError(f'drop_path_rate must be in [0, 1), got {rate!r}')
    rates = iter(np.linspace(0, rate, sum(depths)).tolist())
    return [[next(rates) for _ in range(depth)] for depth in depths]
