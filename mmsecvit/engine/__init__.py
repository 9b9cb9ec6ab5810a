"""Hooks, loops and an optimizer constructor for training, in mmengine's registries.

``mmsecvit.engine.strategies`` needs FSDP and is imported by configs that use it.
"""

from .hooks import (
    AtomicCheckpointHook,
    ClusterVisualizationHook,
    InterruptionHook,
    StepSeedHook,
)
from .loops import ResumableEpochLoop
from .optimizers import LayerDecayOptimWrapperConstructor

__all__ = [
    'AtomicCheckpointHook',
    'ClusterVisualizationHook',
    'InterruptionHook',
    'LayerDecayOptimWrapperConstructor',
    'ResumableEpochLoop',
    'StepSeedHook',
]
