"""Checks of users' data, and a file backend that names a broken image."""

from .checks import check_data
from .coco import set_coco_types
from .file_backend import (
    CheckedImageBackend,
    DamagedImageError,
    MissingImageError,
    set_image_backend,
)
from .findings import DataError, Finding, report
from .nodes import find_datasets, type_name

__all__ = [
    'CheckedImageBackend',
    'DamagedImageError',
    'DataError',
    'Finding',
    'MissingImageError',
    'check_data',
    'find_datasets',
    'report',
    'set_coco_types',
    'set_image_backend',
    'type_name',
]
