"""What the command-line tools do, for any detector, segmenter or classifier of a config file."""

from .conversion import convert_released
from .run import test, train

__all__ = ['convert_released', 'test', 'train']
