"""Read checkpoints as data, check that they fit, and rename the authors' weights.

State dicts are mapped by names and shapes; no backbone is known here.
"""

from .contents import CheckpointError, extract_state_dict
from .loading import check_fit, check_weights, load_backbone_weights, read_state_dict
from .reading import CheckpointReader, read_checkpoint
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
