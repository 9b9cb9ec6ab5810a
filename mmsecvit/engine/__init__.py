"""Hooks and loops that run inside a training process, in mmengine's registries.

``mmsecvit.engine.strategies`` needs FSDP and is imported by configs that use it.
"""

from .hooks import (
    AtomicCheckpointHook,
    ClusterVisualizationHook,
    InterruptionHook,
    StepSeedHook,
)
from .loops import ResumableEpochLoop

__all__ = [
    'AtomicCheckpointHook',
    'ClusterVisualizationHook',
    'InterruptionHook',
    'ResumableEpochLoop',
    'StepSeedHook',
]
