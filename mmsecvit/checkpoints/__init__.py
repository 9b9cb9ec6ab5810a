"""Read checkpoints as data, check that they fit, and rename the authors' weights.

State dicts are mapped by names and shapes; no backbone is known here.
"""

from .loading import (
    CheckpointError,
    CheckpointReader,
    check_fit,
    check_weights,
    extract_state_dict,
    load_backbone_weights,
    read_checkpoint,
    read_state_dict,
)
from .released import from_released, is_released, to_released

__all__ = [
    'CheckpointError',
    'CheckpointReader',
    'check_fit',
    'check_weights',
    'extract_state_dict',
    'from_released',
    'is_released',
    'load_backbone_weights',
    'read_checkpoint',
    'read_state_dict',
    'to_released',
]
