"""Annotation files in COCO's format: checked, mended in memory, and with labels as configs say."""

from .faults import find_coco_faults, find_evaluator_faults
from .types import set_coco_types

__all__ = ['find_coco_faults', 'find_evaluator_faults', 'set_coco_types']
