"""Checks of the data that a config names."""

from .checks import check_data, find_datasets

__all__ = ['check_data', 'find_datasets']
