"""Checks of users' data, and a file backend that names a broken image."""

from .checks import DataError, check_data, find_datasets, type_name
from .file_backend import (
    CheckedImageBackend,
    DamagedImageError,
    MissingImageError,
    set_image_backend,
)
from .images import find_damaged_images

__all__ = [
    'CheckedImageBackend',
    'DamagedImageError',
    'DataError',
    'MissingImageError',
    'check_data',
    'find_damaged_images',
    'find_datasets',
    'set_image_backend',
    'type_name',
]
