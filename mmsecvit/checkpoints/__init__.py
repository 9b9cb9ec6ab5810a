"""Read checkpoints as data, check that they fit, and rename the authors' weights.

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

__all__ = [
    'CheckpointError',
    'add_trust_option',
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
