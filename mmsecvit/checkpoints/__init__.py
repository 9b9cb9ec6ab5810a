"""Reading checkpoints, and the authors' weights in this package's names.

State dicts are mapped by names and shapes alone; no backbone is known here.
"""

from .loading import load_backbone_weights, read_checkpoints_as_data, read_state_dict
from .released import from_released, is_released

__all__ = [
    'from_released',
    'is_released',
    'load_backbone_weights',
    'read_checkpoints_as_data',
    'read_state_dict',
]
