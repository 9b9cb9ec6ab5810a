"""Read checkpoints as data, once each, and load them into a backbone completely or not at all."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from ..compat import trusting_mmengine
from ..errors import InputError
from .released import from_released, is_released

URL_SCHEMES = ('http://', 'https://')


class CheckpointError(InputError):
    """A checkpoint cannot be read, holds code, or does not belong to the model."""


def read_checkpoint(
    path: str | Path, map_location: str | torch.device | None = 'cpu', trust: bool = False
) -> Any:
    """Read a checkpoint as data: code in it is not executed.

    Args:
        path: A local file, or an http(s) address, which torch.hub caches.
        map_location: Device of the tensors, as in ``torch.load``.
        trust: Whether to execute code that the file may hold.

    Returns:
        The content of the file, in general a dict.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If the disk or the network fails.
        CheckpointError: If the file is damaged, or holds more than data.
    """
    path = str(path)
    is_url = path.startswith(URL_SCHEMES)
    if not is_url and not Path(path).expanduser().is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    load = torch.hub.load_state_dict_from_url if is_url else torch.load
    try:
        with trusting_mmengine():
            checkpoint = load(
                os.path.expanduser(path), map_location=map_location, weights_only=not trust
            )
    except OSError as error:  # from the disk or the network
        raise OSError(f'checkpoint {path} cannot be read: {error}') from error
    except Exception as error:  # a damaged pickle can raise anything
        culprit = re.search(r'(?:GLOBAL|class) (\S+)', str(error))
        if trust or not culprit:
            reason = 'cannot be read: it is damaged or no checkpoint'
        else:
            reason = (
                f'holds more than data ({culprit[1]}) and was not read; if you trust where it '
                'comes from, add --trust-checkpoint (in Python: trust=True)'
            )
        raise CheckpointError(f'checkpoint {path} {reason}') from error
    if not trust and isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        # `Runner.resume` of mmengine <= 0.10 runs this text as Python; nothing else needs it.
        checkpoint['meta'].pop('config', None)
    return checkpoint


class CheckpointReader:
    """Read the checkpoints of one command, each of them once.

    Args:
        trust: Whether to execute code that a checkpoint may hold.

    Attributes:
        in_service: The reader that serves mmengine now, or None.

    Example:
        >>> reader = CheckpointReader()
        >>> checkpoint = reader.read('epoch_12.pth')  # refuse it before all work
        >>> with reader.serving_mmengine():
        ...     runner.train()  # mmengine loads what was read
    """

    in_service: ClassVar['CheckpointReader | None'] = None

    def __init__(self, trust: bool = False) -> None:
        self.trust = trust
        self._held: dict[str, Any] = {}

    def read(self, path: str | Path) -> Any:
        """Read a checkpoint onto the CPU as :func:`read_checkpoint` does, and hold it.

        Args:
            path: As in :func:`read_checkpoint`.

        Returns:
            The content of the file. It is the same object until the checkpoint is loaded.
        """
        if str(path) not in self._held:
            self._held[str(path)] = read_checkpoint(path, trust=self.trust)
        return self._held[str(path)]

    def load_from_reader(
        self, path: str, map_location: str | torch.device | None = 'cpu'
    ) -> Any:  # mmengine logs the name without `load_from_`
        """Return a checkpoint that is about to be loaded, and hold it no longer.

        Args:
            path: As in :func:`read_checkpoint`.
            map_location: Device of the tensors of a file that is not held. What is held is on the
                CPU: loading copies it to the devices of the model and of the optimizer.

        Returns:
            The content of the file.
        """
        if path in self._held:
            return self._held.pop(path)
        return read_checkpoint(path, map_location, self.trust)

    @contextmanager
    def serving_mmengine(self) -> Iterator[None]:
        """Let mmengine, and backbones of this package, load files and addresses from here.

        mmengine's own loaders, some of which execute code in a checkpoint, are restored after the
        ``with`` block. With torch < 2.6, checkpoints of training runs need ``trust``: they hold
        more than tensors, and torch cannot be told what of it is harmless.
        """
        # mmengine.runner imports all of mmengine's strategies, which no backbone needs.
        from mmengine.runner.checkpoint import CheckpointLoader

        prefixes = ('', *URL_SCHEMES)
        loaders = {prefix: CheckpointLoader._schemes[prefix] for prefix in prefixes}
        outer_reader = CheckpointReader.in_service
        CheckpointLoader.register_scheme(prefixes, self.load_from_reader, force=True)
        CheckpointReader.in_service = self
        try:
            yield
        finally:
            CheckpointReader.in_service = outer_reader
            for prefix, loader in loaders.items():
                CheckpointLoader.register_scheme(prefix, loader, force=True)


def read_state_dict(path: str | Path, trust: bool = False) -> dict[str, Tensor]:
    """Read the weights of a model.

    Args:
        path: As in :func:`read_checkpoint`.
        trust: Whether to execute code that the file may hold.

    Returns:
        The state dict, on the CPU.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the file cannot be read as data, or holds no state dict.
    """
    return extract_state_dict(read_checkpoint(path, trust=trust), path)


def extract_state_dict(checkpoint: Any, path: str | Path) -> dict[str, Tensor]:
    """Return the weights of a model that a checkpoint holds.

    They may be under ``state_dict`` or ``model``, and their keys may begin with ``module.``.

    Args:
        checkpoint: Content of a file, as :func:`read_checkpoint` returns it.
        path: The file, for errors.

    Raises:
        CheckpointError: If there is no state dict.
    """
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
    """Raise a ValueError unless weights have the names and shapes of a model's.

    Args:
        own: State dict of the model.
        given: State dict to load.
        optional: Beginnings of keys that may be missing in either of them.

    Raises:
        ValueError: If they differ. The error names the first keys and shapes that do.
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


def check_weights(
    model: nn.Module, checkpoint: Any, path: str | Path, config: str | Path, part: str = ''
) -> None:
    """Raise a CheckpointError unless a checkpoint holds the weights of a model.

    Args:
        model: The model, or a wrapper of it.
        checkpoint: Content of a file, as :func:`read_checkpoint` returns it.
        path: The file, for errors.
        config: Config file of the model, for errors.
        part: Beginning of the keys to compare. Defaults to all.

    Raises:
        CheckpointError: If they differ. The error names the first keys and shapes that do.
    """
    wrapped = is_model_wrapper(model) or isinstance(model, BaseTTAModel)
    module: Any = model.module if wrapped else model
    own = module.state_dict()
    given = extract_state_dict(checkpoint, path)
    own, given = ({k: w for k, w in x.items() if k.startswith(part)} for x in (own, given))
    try:
        check_fit(own, given)
    except ValueError as error:
        raise CheckpointError(
            f'checkpoint {path} is not of the model of {config}: {error}'
        ) from error


def load_backbone_weights(
    backbone: nn.Module,
    path: str | Path,
    optional: tuple[str, ...] = (),
    advise: Callable[[dict[str, Tensor]], str] = lambda weights: '',
) -> None:
    """Load all weights of a backbone, except optional ones, or raise.

    The file may be a backbone's, a whole detector's, segmenter's or classifier's (its keys then
    begin with ``backbone.``), or one that the authors released. It is read as data, or by the
    :class:`CheckpointReader` that serves mmengine.

    Args:
        backbone: Module to load into.
        path: As in :func:`read_checkpoint`.
        optional: Beginnings of keys that may be missing in the file or in the backbone.
        advise: Takes weights that do not fit, and returns which options of the backbone to
            change, or an empty string.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the weights are not those of this backbone. The error names the first
            keys and shapes that differ.
    """
    reader = CheckpointReader.in_service or CheckpointReader()
    checkpoint = reader.load_from_reader(str(path))
    state_dict = extract_state_dict(checkpoint, path)
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
