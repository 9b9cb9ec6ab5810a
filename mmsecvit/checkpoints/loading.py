"""Reading checkpoints as data only, and loading them into a backbone or not at all."""

import os
import re
from argparse import ArgumentParser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.utils import digit_version
from torch import Tensor, nn

from .released import from_released, is_released


def _history_method(owner: object, name: str) -> object:
    """Stand for ``getattr`` in pickles of a HistoryBuffer, which name its own methods."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'current', 'mean'):
        raise ValueError(f'GLOBAL getattr({owner}, {name})')
    return getattr(HistoryBuffer, name)


# What mmengine's own checkpoints hold beside tensors and plain Python data. NumPy 2 renamed the
# module of what rebuilds arrays and scalars, and either name may be in a file.
_TRUSTED = [
    HistoryBuffer,
    (_history_method, 'builtins.getattr'),
    np.ndarray,
    np.dtype,
    *{type(np.dtype(t)) for t in (np.float32, np.float64, np.int64)},
    *(
        (value.__reduce__()[0], f'numpy.{core}.multiarray.{name}')
        for value, name in ((np.empty(0), '_reconstruct'), (np.float64(0), 'scalar'))
        for core in ('core', '_core')
    ),
]
# Earlier releases cannot be told what to trust, and refuse what needs it.
_CAN_TRUST = digit_version(torch.__version__) >= digit_version('2.6')
_trust = ContextVar('trust', default=False)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, holds code, or is not what it was given as."""


@contextmanager
def trust_checkpoints(trust: bool = True) -> Iterator[None]:
    """Inside the ``with`` block, execute the code that a checkpoint may hold.

    Args:
        trust: Whether to do so; False changes nothing.
    """
    token = _trust.set(trust or _trust.get())
    try:
        yield
    finally:
        _trust.reset(token)


def add_trust_option(parser: ArgumentParser) -> None:
    """Give a command line ``--trust-checkpoint``, which :func:`trust_checkpoints` takes."""
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='execute code that a checkpoint may hold, if you trust where it is from',
    )


def read_checkpoint(path: str | Path, map_location: str | torch.device = 'cpu') -> dict:
    """Read a checkpoint without executing anything in it, but within :func:`trust_checkpoints`.

    Args:
        path: A local file, or an http(s) address, which is cached by torch.hub.
        map_location: Where the tensors go, as in ``torch.load``.

    Returns:
        What the file holds.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the disk or the network fails.
        CheckpointError: If the file is damaged, or holds more than data.
    """
    path = str(path)
    is_url = path.startswith(('http://', 'https://'))
    if not is_url and not Path(path).expanduser().is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    load = torch.hub.load_state_dict_from_url if is_url else torch.load
    if _CAN_TRUST:
        torch.serialization.add_safe_globals(_TRUSTED)
    trust = _trust.get()
    try:
        checkpoint = load(
            os.path.expanduser(path), map_location=map_location, weights_only=not trust
        )
    except OSError as error:  # the disk's or the network's
        raise OSError(f'checkpoint {path} cannot be read: {error}') from error
    except Exception as error:  # a damaged pickle can raise anything
        culprit = re.search(r'(?:GLOBAL|class) (\S+)', str(error))
        if trust or not culprit:
            reason = 'cannot be read: it is damaged or no checkpoint'
        else:
            reason = (
                f'holds more than data ({culprit[1]}) and was not read; if you trust where it '
                'comes from, add --trust-checkpoint (in Python: mmsecvit.checkpoints.'
                'trust_checkpoints)'
            )
        raise CheckpointError(f'checkpoint {path} {reason}') from error
    if not trust and isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        # mmengine would run this text as Python when it resumes; nobody else needs it.
        checkpoint['meta'].pop('config', None)
    return checkpoint


def read_checkpoints_as_data() -> None:
    """Let mmengine read files and http(s) addresses by :func:`read_checkpoint` alone.

    Its own readers trust more, and some releases fall back to executing what they cannot read.
    Before torch 2.6 mmengine's own checkpoints count as more than data.
    """
    for prefixes in ('', ('http://', 'https://')):
        CheckpointLoader.register_scheme(prefixes, loader=read_checkpoint, force=True)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a model's weights without executing anything in their file.

    The weights may lie under ``state_dict`` or ``model``, and their keys may begin with
    ``module.``.

    Args:
        path: As in :func:`read_checkpoint`.

    Returns:
        The state dict, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the file cannot be read as data only, or holds no state dict.
    """
    checkpoint = read_checkpoint(path)
    for key in ('state_dict', 'model'):
        if isinstance(checkpoint, dict) and isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
    if not isinstance(checkpoint, dict) or not checkpoint:
        raise CheckpointError(f'checkpoint {path} holds no state dict')
    for key, value in checkpoint.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f'checkpoint {path} holds no state dict: {key!r} is no tensor')
    return {key.removeprefix('module.'): value for key, value in checkpoint.items()}


def check_fit(
    own: dict[str, Tensor], given: dict[str, Tensor], optional: tuple[str, ...] = ()
) -> None:
    """Raise a ValueError unless weights have a model's names and shapes.

    Args:
        own: The model's state dict.
        given: The state dict to load.
        optional: Beginnings of keys that may be missing on either side.

    Raises:
        ValueError: With the first keys and shapes that differ.
    """
    missing = [key for key in own if key not in given and not key.startswith(optional)]
    unknown = [key for key in given if key not in own and not key.startswith(optional)]
    reshaped = [
        f'{key} is {tuple(given[key].shape)} in the file and {tuple(own[key].shape)} here'
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    problems = [
        f'{len(keys)} {what} (first: {keys[0]})'
        for keys, what in (
            (missing, 'weights are missing in the file'),
            (unknown, 'weights of the file have no place here'),
            (reshaped, 'weights have another shape'),
        )
        if keys
    ]
    if problems:
        raise ValueError('; '.join(problems))


def load_backbone_weights(
    backbone: nn.Module,
    path: str | Path,
    optional: tuple[str, ...] = (),
    advise: Callable[[dict[str, Tensor]], str] = lambda weights: '',
) -> None:
    """Load a backbone's weights completely, but for what is optional, or raise.

    The file may be a backbone's, a whole detector's, segmenter's or classifier's (its keys
    beginning with ``backbone.``), or the authors' released one.

    Args:
        backbone: Module to load into.
        path: As in :func:`read_checkpoint`.
        optional: Beginnings of keys that may be missing on either side.
        advise: Tells from weights that do not fit which options of the backbone to change; an
            empty string if it cannot.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If the weights are not those of this backbone, with the first keys and
            shapes that differ.
    """
    state_dict = read_state_dict(path)
    if is_released(state_dict):
        state_dict = from_released(state_dict)
    if any(key.startswith('backbone.') for key in state_dict):
        state_dict = {
            key.removeprefix('backbone.'): value
            for key, value in state_dict.items()
            if key.startswith('backbone.')
        }
    own = backbone.state_dict()
    try:
        check_fit(own, state_dict, optional)
    except ValueError as error:
        advice = advise(state_dict) or "set the backbone's options to those of the checkpoint"
        raise CheckpointError(
            f'checkpoint {path} is not of this {type(backbone).__name__}: {error}; {advice}'
        ) from None
    missing, unused = backbone.load_state_dict(state_dict, strict=False)
    print_log(
        f'Loaded the backbone from {path}; not in the file: {", ".join(missing) or "nothing"}; '
        f'not used of it: {", ".join(unused) or "nothing"}',
        logger='current',
    )
