"""Reading checkpoints, and the authors' weights in this package's names.

State dicts are mapped by names and shapes alone; no backbone is known here.
"""

from .loading import (
    CheckpointError,
    check_fit,
    load_backbone_weights,
    read_checkpoint,
    read_checkpoints_as_data,
    read_state_dict,
    trust_checkpoints,
)
from .released import from_released, is_released, to_released

__all__ = [
    'CheckpointError',
    'check_fit',
    'from_released',
    'is_released',
    'load_backbone_weights',
    'read_checkpoint',
    'read_checkpoints_as_data',
    'read_state_dict',
    'to_released',
    'trust_checkpoints',
]
