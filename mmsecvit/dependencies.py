"""What the package needs, asked for in words before an import fails in the middle."""

from importlib import import_module

# The oldest that were tested (docs/reliability.md). torch 2.1 brought `scale` to
# scaled_dot_product_attention; 0.10 and 2.0 are OpenMMLab 2.0's API.
MINIMUM_VERSIONS = {'torch': '2.1', 'mmengine': '0.10', 'mmcv': '2.0', 'einops': '0.6'}


def check() -> None:
    """Raise an ImportError that says which package is missing or too old, and what to do."""
    advice = '`make env` builds a complete environment; README.md names the supported versions'
    try:
        from packaging.version import Version
    except ImportError as error:
        raise ImportError(f'mmsecvit needs packaging, which is not installed: {advice}') from error
    for name, minimum in MINIMUM_VERSIONS.items():
        try:
            module = import_module(name)
        except ImportError as error:
            raise ImportError(
                f'mmsecvit needs {name}>={minimum}, which cannot be imported ({error}): {advice}'
            ) from error
        if Version(module.__version__) < Version(minimum):
            raise ImportError(
                f'mmsecvit needs {name}>={minimum}, found {module.__version__}: {advice}'
            )
