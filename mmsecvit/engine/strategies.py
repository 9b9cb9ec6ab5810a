"""Strategies of mmengine's ``FlexibleRunner``.

``import mmsecvit`` does not import this module, which needs FSDP. A config does so by
``custom_imports = dict(imports=['mmsecvit', 'mmsecvit.engine.strategies'])``.
"""

from typing import Any

from mmengine._strategy import FSDPStrategy
from mmengine.device import get_device
from mmengine.registry import STRATEGIES

from ..compat import full_fsdp_state_without_offload, load_fsdp_optimizer_state


@STRATEGIES.register_module()
class ResumableFSDPStrategy(FSDPStrategy):
    """mmengine's ``FSDPStrategy``, which can also load the optimizer's state, and train on CPUs.

    Args:
        model_wrapper: As in mmengine. On CPUs, ``device_id`` becomes ``cpu``.
        state_dict_cfg: As in mmengine: ``local``, ``full`` or a dict.
        **options: The other arguments of mmengine's class.
    """

    def __init__(
        self,
        *,
        model_wrapper: dict | None = None,
        state_dict_cfg: str | dict = 'local',
        **options: Any,
    ) -> None:
        if get_device() == 'cpu':
            model_wrapper = dict(model_wrapper or {}, device_id='cpu')
            if state_dict_cfg == 'full':
                state_dict_cfg = full_fsdp_state_without_offload()
        super().__init__(model_wrapper=model_wrapper, state_dict_cfg=state_dict_cfg, **options)

    def load_optim_state_dict(self, state_dict: dict) -> None:
        load_fsdp_optimizer_state(self.model, self.optim_wrapper, state_dict)
