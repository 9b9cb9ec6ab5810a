"""One function for each command-line tool; they take any detector, segmenter or classifier."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster_picture import visualize_clusters
    from .command_line import command
    from .config import ConfigError, add_config_options, add_trust_option
    from .conversion import convert_released
    from .deployment import export
    from .inference import infer
    from .models import get_model, list_models
    from .testing import test
    from .training import train
    from .verification import verify_dataset

__all__ = [
    'ConfigError',
    'add_config_options',
    'add_trust_option',
    'command',
    'convert_released',
    'export',
    'get_model',
    'infer',
    'list_models',
    'test',
    'train',
    'verify_dataset',
    'visualize_clusters',
]

# No module has the name of a function: importing the module would hide the function.
_MODULES = {
    'ConfigError': 'config',
    'add_config_options': 'config',
    'add_trust_option': 'config',
    'command': 'command_line',
    'convert_released': 'conversion',
    'export': 'deployment',
    'get_model': 'models',
    'infer': 'inference',
    'list_models': 'models',
    'test': 'testing',
    'train': 'training',
    'verify_dataset': 'verification',
    'visualize_clusters': 'cluster_picture',
}


def __getattr__(name: str) -> Any:
    """Import a function at its first use, since each needs other packages."""
    if name in _MODULES:
        return getattr(import_module(f'.{_MODULES[name]}', __name__), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted(__all__)
