"""SecViT, a clustered-attention backbone for mmdet, mmseg and mmpretrain.

Importing this package registers its backbones, its neck, its file backend, its hooks and its loops
in mmengine's root registries.
"""

from typing import Any

from . import dependencies
from .version import __version__

dependencies.check()

from . import datasets  # noqa: E402, F401
from .backbones import SECFasterViT, SECSwin, SecViT  # noqa: E402
from .engine import ClusterVisualizationHook  # noqa: E402
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


def __getattr__(name: str) -> Any:
    """Import a function of ``mmsecvit.apis`` at its first use, since a backbone needs none."""
    if name in ('get_model', 'list_models'):
        from .apis import models

        return getattr(models, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted(__all__)
