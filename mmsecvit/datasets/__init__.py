"""Data sets that come with the package; they need its extra ``demo``."""

from .digit_scenes import make_digit_scenes, split_digits

__all__ = ['make_digit_scenes', 'split_digits']
