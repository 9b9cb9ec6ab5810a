"""Hooks for a config's ``default_hooks`` and ``custom_hooks``."""

from .checkpoint import AtomicCheckpointHook, find_last_checkpoint, list_regular_checkpoints
from .cluster_visualization import ClusterVisualizationHook
from .interruption import InterruptionHook
from .step_seed import StepSeedHook

__all__ = [
    'AtomicCheckpointHook',
    'ClusterVisualizationHook',
    'InterruptionHook',
    'StepSeedHook',
    'find_last_checkpoint',
    'list_regular_checkpoints',
]
