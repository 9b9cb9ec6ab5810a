"""Reading, writing and resuming from checkpoints, and the authors' weights under our names.

State dicts are mapped by names and shapes alone; no backbone is known here.
"""

from .loading import (
    CheckpointError,
    add_trust_option,
    check_fit,
    load_backbone_weights,
    read_checkpoint,
    read_checkpoints_as_data,
    read_state_dict,
    trust_checkpoints,
)
from .released import from_released, is_released, to_released
from .resuming import (
    InterruptionHook,
    ResumableEpochLoop,
    ResumableFSDPStrategy,
    StepSeedHook,
)
from .saving import AtomicCheckpointHook, find_last_checkpoint, list_regular_checkpoints

__all__ = [
    'AtomicCheckpointHook',
    'CheckpointError',
    'InterruptionHook',
    'ResumableEpochLoop',
    'ResumableFSDPStrategy',
    'StepSeedHook',
    'add_trust_option',
    'check_fit',
    'find_last_checkpoint',
    'from_released',
    'is_released',
    'list_regular_checkpoints',
    'load_backbone_weights',
    'read_checkpoint',
    'read_checkpoints_as_data',
    'read_state_dict',
    'to_released',
    'trust_checkpoints',
]
