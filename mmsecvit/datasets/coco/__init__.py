"""Annotation files in COCO's format: checked, mended in memory, and with labels as configs say."""

from .faults import find_coco_faults, find_evaluator_faults, find_lack_of_objects
from .types import set_coco_types

__all__ = ['find_coco_faults', 'find_evaluator_faults', 'find_lack_of_objects', 'set_coco_types']
