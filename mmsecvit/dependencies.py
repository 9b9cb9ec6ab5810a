"""Check the package's dependencies before an import of one of them fails halfway."""

from importlib import import_module

# The oldest versions that were tested (docs/reliability.md). torch 2.1 added `scale` to
# scaled_dot_product_attention; mmengine 0.10 and mmcv 2.0 have OpenMMLab 2.0's API.
MINIMUM_VERSIONS = {'torch': '2.1', 'mmengine': '0.10', 'mmcv': '2.0', 'einops': '0.6'}


def check() -> None:
    """Raise an ImportError unless each package is installed and new enough."""
    advice = '`make env` builds a complete environment; docs/get_started.md has the versions'
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
