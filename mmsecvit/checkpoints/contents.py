"""Find the weights in what a checkpoint holds, and name them as in the module that was saved."""

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import InputError

# Where programs keep the weights of a model; of several of these, the first is taken. `module` is
# DeepSpeed's.
CONTAINERS = ('state_dict', 'model', 'module', 'model_state_dict')
# torch.compile, FSDP and activation checkpointing put these before the names of what they wrap.
_WRAPPERS = re.compile(
    r'(?<![^.])(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.',
)
# Steps that torch's and mmengine's moving averages count next to the weights.
_COUNTERS = {'n_averaged', 'steps'}


class CheckpointError(InputError):
    """A checkpoint cannot be read, holds code, or does not belong to the model."""


def extract_state_dict(checkpoint: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the weights of a model that a checkpoint holds.

    They may be under ``state_dict``, ``model``, ``module`` or any other one name, and their names
    may contain what torch.compile, DDP, FSDP and moving averages put before them.

    Args:
        checkpoint: Content of a file, as :func:`read_checkpoint` returns it.
        path: The file, for errors.

    Raises:
        CheckpointError: If there is no state dict, or there are several, none of which is under
            one of the usual names.
    """
    weights = checkpoint.state_dict() if isinstance(checkpoint, nn.Module) else checkpoint
    if isinstance(weights, dict) and not _is_state_dict(weights):
        for name in CONTAINERS:
            inner = weights.get(name)
            if isinstance(inner, nn.Module) or (isinstance(inner, dict) and inner):
                return extract_state_dict(inner, path)
        names = list_state_dicts(weights)
        if len(names) == 1:
            return extract_state_dict(weights[names[0]], path)
        if names:
            raise CheckpointError(
                f'checkpoint {path} holds several sets of weights ({", ".join(names)}): choose one '
                f"in the config, with init_cfg=dict(type='Pretrained', checkpoint={str(path)!r}, "
                f"prefix='{names[0]}.')"
            )
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f'checkpoint {path} holds no state dict')
    for key, value in weights.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f'checkpoint {path} holds no state dict: {key!r} is no tensor')
    metadata = getattr(weights, '_metadata', None)
    averaged = [key for key in weights if key.startswith('module.')]
    if averaged and weights.keys() - averaged <= _COUNTERS:
        weights = {key: weights[key] for key in averaged}
    plain: Any = OrderedDict((plain_name(key), value) for key, value in weights.items())
    if isinstance(metadata, dict):  # versions of modules, by which torch loads older weights
        plain._metadata = OrderedDict(
            (plain_name(f'{key}.').removesuffix('.'), value) for key, value in metadata.items()
        )
    return plain


def with_plain_weights(checkpoint: Any) -> Any:
    """Return a checkpoint with its weights under ``state_dict``, as mmengine expects them.

    Args:
        checkpoint: Content of a file.

    Returns:
        A copy, in which the weights have the names of :func:`extract_state_dict`. The checkpoint
        itself if it holds no weights, or several sets of them.
    """
    try:
        weights = extract_state_dict(checkpoint, '')
    except CheckpointError:
        return checkpoint
    is_bare = not isinstance(checkpoint, dict) or _is_state_dict(checkpoint)
    return {**({} if is_bare else checkpoint), 'state_dict': weights}


def select_weights(checkpoint: Any, path: str | Path, prefix: str | None) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, without it.

    Args:
        checkpoint: Content of a file.
        path: The file, for errors.
        prefix: Beginning of the names, as in mmengine's ``PretrainedInit``, with or without the dot
            at its end. It may be, or begin with, the name under which the file keeps a set of
            weights, such as ``model_ema``. Defaults to all weights, if None.

    Raises:
        CheckpointError: If there are no such weights.
    """
    if not prefix:
        return extract_state_dict(checkpoint, path)
    start = plain_name(prefix.rstrip('.') + '.')
    container, _, rest = start.partition('.')
    sets = list_state_dicts(checkpoint)
    try:
        weights = extract_state_dict(checkpoint, path)
    except CheckpointError:
        if not sets:
            raise
        weights = {}  # several sets, of which the prefix names one
    if selected := below(weights, start):
        return selected
    if container in sets:
        return select_weights(checkpoint[container], path, rest)
    names = dict.fromkeys(name.partition('.')[0] for name in weights) or sets
    raise CheckpointError(
        f'checkpoint {path} has no weights under init_cfg.prefix {prefix!r}: their names begin '
        f'with {", ".join([*names][:5])}'
    )


def below(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): w for k, w in weights.items() if k.startswith(prefix)}


def find_prefixes(weights: dict[str, Tensor], name: str) -> list[str]:
    """Return what stands before a name, wherever a part of a model has a weight of this name."""
    return [key.removesuffix(name) for key in weights if f'.{key}'.endswith(f'.{name}')]


def plain_name(name: str) -> str:
    """Return a weight's name, or the beginning of one, without what wrappers of a module add."""
    return _WRAPPERS.sub('', name).removeprefix('module.')


def list_state_dicts(checkpoint: Any) -> list[str]:
    """Return the names under which a checkpoint keeps sets of weights."""
    items = checkpoint.items() if isinstance(checkpoint, dict) else ()
    return [key for key, value in items if isinstance(key, str) and _is_state_dict(value)]


def _is_state_dict(value: Any) -> bool:
    items = value.items() if isinstance(value, dict) else ()
    return bool(items) and all(isinstance(k, str) and isinstance(x, Tensor) for k, x in items)
