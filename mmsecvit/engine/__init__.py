"""Training and testing of any detector, segmenter or classifier from a config file."""

from .run import test, train

__all__ = ['test', 'train']
