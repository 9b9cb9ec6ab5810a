"""Read configs, with the options of a command line."""

import inspect
import os
import warnings
from argparse import ArgumentParser
from difflib import get_close_matches
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner

from ..errors import InputError

TOOLBOXES = ('mmdet', 'mmseg', 'mmpretrain')
# What configs may have in addition to the arguments of mmengine's Runner.
TOP_LEVEL = (
    'activation_checkpointing',
    'compile',
    'custom_imports',
    'detect_anomalous_params',
    'efficient_conv_bn_eval',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'strategy',
    'sync_bn',
    'tta_model',
    'tta_pipeline',
)


class ConfigError(InputError):
    """The settings of a config do not fit each other, or cannot work."""


def add_config_options(parser: ArgumentParser, example: str) -> None:
    """Add ``--cfg-options`` to a command line; :func:`load_config` takes its values.

    Args:
        parser: Parser of the command line.
        example: Example for the help, KEY=VALUE.
    """
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help=f'override values of the config, e.g. {example}',
    )


def add_trust_option(parser: ArgumentParser) -> None:
    """Add ``--trust-checkpoint`` to a command line: the argument ``trust`` of the functions."""
    parser.add_argument(
        '--trust-checkpoint',
        dest='trust',
        action='store_true',
        help='execute code that a checkpoint may hold, if you trust where it is from',
    )


def load_config(
    config: str | Path,
    work_dir: str | None = None,
    launcher: str = 'none',
    cfg_options: dict | None = None,
) -> Config:
    """Read a config file and apply the options that every tool has.

    A config without ``default_scope``, as pure-Python ones may be, gets that of its model.

    Args:
        config: Path of the config file.
        work_dir: Folder for logs and checkpoints. Defaults to the config's ``work_dir``, else to
            ``work_dirs/`` and the config's name.
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        cfg_options: Values by dotted key, as :func:`add_config_options` parses them.

    Returns:
        The config.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If ``custom_imports`` names a module that Python does not find.
    """
    if not Path(config).is_file():
        raise FileNotFoundError(f'config {config} does not exist')
    cfg = _read_config(config)
    cfg.launcher = launcher
    _warn_of_unknown(cfg, cfg_options or {})
    cfg.merge_from_dict(cfg_options or {})
    toolbox = find_toolbox(cfg.get('model') or {})
    if toolbox and cfg.get('default_scope') is None:
        cfg.default_scope = toolbox
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{Path(config).stem}'
    return cfg


def _warn_of_unknown(cfg: Config, options: dict) -> None:
    """Warn of options whose first part is nothing that a config has, such as a misspelled one."""
    known = {*cfg.keys(), *inspect.signature(Runner).parameters, *TOP_LEVEL}
    for option in options:
        first = option.partition('.')[0]
        if first not in known:
            similar = get_close_matches(first, known, 1)
            hint = f'; {similar[0]} may be meant' if similar else ''
            warnings.warn(
                f'cfg_options has {option}, but neither the config nor mmengine has {first}, so '
                f'that it may have no effect{hint}.',
                stacklevel=3,
            )


def _read_config(config: str | Path) -> Config:
    try:
        return Config.fromfile(config)
    except ImportError as error:
        module = str(error.__cause__).removeprefix('Failed to import ')
        missing = getattr(error.__cause__, '__context__', None)
        if not isinstance(missing, ModuleNotFoundError) or not f'{module}.'.startswith(
            f'{missing.name}.'
        ):
            raise  # by the module's own code
        raise InputError(
            f'custom_imports.imports of {config} must be modules that Python finds, but there is '
            f'no {module} in {os.getcwd()} or in a folder of PYTHONPATH'
        ) from None


def find_toolbox(model: ConfigDict) -> str | None:
    """Return which of the toolboxes a model is of, or None."""
    kind = model.get('type')
    bases = kind.__mro__ if isinstance(kind, type) else []
    modules = [base.__module__ for base in bases] or [str(kind)]
    # mmengine writes a scope into what a config inherits from a toolbox.
    packages = [model.get('_scope_'), *(module.partition('.')[0] for module in modules)]
    return next((name for name in packages if name in TOOLBOXES), None)


def check_operators(cfg: Config) -> None:
    """Raise a ValueError if a detector would fail on a GPU because mmcv has no CUDA operators."""
    if cfg.get('default_scope') != 'mmdet' or not torch.cuda.is_available():
        return
    from mmcv.ops import get_compiling_cuda_version

    if get_compiling_cuda_version() == 'not available':
        raise InputError(
            "mmcv's operators were compiled without CUDA: compile mmcv on a machine with a GPU and "
            'nvcc, or set CUDA_VISIBLE_DEVICES=-1 to run on the CPU'
        )
