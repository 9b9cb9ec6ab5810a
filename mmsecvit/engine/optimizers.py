"""Learning rates that decay from the heads of a detector or segmenter to its stem."""

from typing import Any

from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..errors import InputError


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Multiply the learning rate by ``layer_decay_rate`` for each layer below the heads.

    mmpretrain's ``LearningRateDecayOptimWrapperConstructor`` does this for classifiers: it needs
    a model with ``get_layer_depth``. Detectors and segmenters have no such method, and the
    constructors of mmdet and mmseg know only backbones of certain names. This class asks the
    backbone of the model. It takes the options of mmengine's ``DefaultOptimWrapperConstructor``
    in ``paramwise_cfg``, and ``layer_decay_rate``.

    Example:
        >>> optim_wrapper = dict(
        ...     constructor='LayerDecayOptimWrapperConstructor',
        ...     paramwise_cfg=dict(layer_decay_rate=0.8, norm_decay_mult=0.0),
        ... )

    Raises:
        ValueError: If the optimizer's config has no ``lr``, or the backbone of the model has no
            ``get_layer_depth``.
    """

    def add_params(
        self,
        params: list[dict],
        module: nn.Module,
        prefix: str = '',
        is_dcn_module: int | float | None = None,
    ) -> None:
        """Add the parameters of ``module`` to the groups ``params``, one group for each."""
        if self.base_lr is None:
            raise InputError(
                'LayerDecayOptimWrapperConstructor needs optim_wrapper.optimizer.lr in the config, '
                f'got {self.optimizer_cfg}'
            )
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:  # a submodule: its parameters are part of the model's
            return
        backbone: Any = getattr(module, 'backbone', None)
        if not hasattr(backbone, 'get_layer_depth'):
            raise InputError(
                'LayerDecayOptimWrapperConstructor needs a backbone with get_layer_depth, got '
                f'{type(backbone).__name__}'
            )
        decay_rate = self.paramwise_cfg.get('layer_decay_rate', 1.0)
        names = {parameter: name for name, parameter in module.named_parameters()}
        for group in params:
            (parameter,) = group['params']
            depth, num_layers = backbone.get_layer_depth(names[parameter], 'backbone.')
            scale = decay_rate ** (num_layers - 1 - depth)
            group['lr'] = group.get('lr', self.base_lr) * scale
