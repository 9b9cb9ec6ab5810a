"""Check the settings of a config before anything is built."""

from collections.abc import Iterable

from mmengine.config import Config

from ..errors import InputError


class ConfigError(InputError):
    """The settings of a config do not fit each other, or cannot work."""


def check_settings(cfg: Config, splits: Iterable[str]) -> list[str]:
    """Raise a ConfigError if settings are certain to end in a wrong result or a lost run.

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` to check.

    Returns:
        Sentences for the log on what is suspicious, or was changed in the config.
    """
    return []
