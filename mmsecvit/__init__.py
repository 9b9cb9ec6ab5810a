"""SecViT, a clustered-attention backbone for mmdet, mmseg and mmpretrain."""

from . import dependencies
from .version import __version__

dependencies.check()

from .apis import get_model, list_models  # noqa: E402
from .backbones import SECFasterViT, SECSwin, SecViT  # noqa: E402
from .engine.hooks import ClusterVisualizationHook  # noqa: E402
from .necks import SecViTNeck  # noqa: E402

__all__ = [
    'ClusterVisualizationHook',
    'SECFasterViT',
    'SECSwin',
    'SecViT',
    'SecViTNeck',
    '__version__',
    'get_model',
    'list_models',
]
