"""SecViT, a clustered-attention backbone for mmdet, mmseg and mmpretrain."""

from . import dependencies
from .version import __version__

dependencies.check()

from .backbones import SecViT  # noqa: E402
from .engine import ClusterVisualizationHook  # noqa: E402
from .heads import SecViTNeck  # noqa: E402

__all__ = ['ClusterVisualizationHook', 'SecViT', 'SecViTNeck', '__version__']
