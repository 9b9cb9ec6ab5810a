"""Read checkpoints as data, once each."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import torch

from ..compat import trusting_mmengine
from .contents import CheckpointError, with_plain_weights

URL_SCHEMES = ('http://', 'https://')


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
    local = Path(path).expanduser()
    if not is_url and local.is_dir():
        raise CheckpointError(f'checkpoint {path} must be a file, but is a folder{_advise(local)}')
    if not is_url and not local.is_file():
        raise FileNotFoundError(f'checkpoint {path} does not exist')
    try:
        if urlsplit(path).path.endswith('.safetensors'):
            return _read_safetensors(_download(path) if is_url else local, map_location)
        load = torch.hub.load_state_dict_from_url if is_url else torch.load
        with trusting_mmengine():
            checkpoint = load(
                path if is_url else str(local), map_location=map_location, weights_only=not trust
            )
    except CheckpointError:
        raise
    except OSError as error:  # from the disk or the network
        if error.errno == errno.EINVAL:  # of a file that was cut off
            raise CheckpointError(f'checkpoint {path} {_reason(error, trust)}') from error
        raise OSError(f'checkpoint {path} cannot be read: {error}') from error
    except Exception as error:  # a damaged pickle can raise anything
        raise CheckpointError(f'checkpoint {path} {_reason(error, trust)}') from error
    if not trust and isinstance(checkpoint, dict) and isinstance(checkpoint.get('meta'), dict):
        # `Runner.resume` of mmengine <= 0.10 runs this text as Python; nothing else needs it.
        checkpoint['meta'].pop('config', None)
    return checkpoint


def _reason(error: Exception, trust: bool) -> str:
    """Return why a file was not read."""
    culprit = re.search(r'(?:GLOBAL|class) (\S+)', str(error))
    if not trust and culprit:
        return (
            f'holds more than data ({culprit[1]}) and was not read; if you trust where it '
            'comes from, add --trust-checkpoint (in Python: trust=True)'
        )
    if trust and isinstance(error, ModuleNotFoundError):
        return f'holds objects of the package {error.name}, which is not installed'
    if 'TorchScript' in str(error):
        return 'is a TorchScript program: save the state_dict() of what torch.jit.load makes of it'
    return 'cannot be read: it is damaged or no checkpoint'


def _advise(folder: Path) -> str:
    """Return what to give in place of a folder, if a known program wrote it, or ''."""
    if any(folder.rglob('*.distcp')):
        return (
            ' of torch.distributed.checkpoint: make a file of it with `python -m '
            f'torch.distributed.checkpoint.format_utils dcp_to_torch {folder} FILE`'
        )
    parts = sorted(folder.rglob('*_model_states.pt'))
    whole = [path for path in parts if path.name == 'mp_rank_00_model_states.pt']
    if parts:
        given = f'give {whole[0]}, or, for ZeRO 3, ' if whole else 'give '
        return f' of DeepSpeed: {given}the file that zero_to_fp32.py in it makes'
    return ''


def _read_safetensors(path: Path, map_location: str | torch.device | None) -> dict:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(
            f'checkpoint {path} needs the package safetensors: pip install safetensors'
        ) from None
    return load_file(path, device=str(map_location or 'cpu'))


def _download(url: str) -> Path:
    """Return the file of an address, in the folder where torch.hub keeps checkpoints."""
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlsplit(url).path).name)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    return path


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
            The content of the file, with its weights under ``state_dict``, where mmengine looks for
            them. It is the same object until the checkpoint is loaded.
        """
        if str(path) not in self._held:
            checkpoint = read_checkpoint(path, trust=self.trust)
            self._held[str(path)] = with_plain_weights(checkpoint)
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
            The content of the file, as :meth:`read` returns it.
        """
        if path in self._held:
            return self._held.pop(path)
        return with_plain_weights(read_checkpoint(path, map_location, self.trust))

    @contextmanager
    def serving_mmengine(self) -> Iterator[None]:
        """Let mmengine, and backbones of this package, load files and addresses from here.

        mmengine's own loaders, some of which execute code in a checkpoint, are restored after the
        ``with`` block. With torch < 2.6, checkpoints of training runs need ``trust``: they hold
        more than tensors, and torch cannot be told what of it is harmless.
        """
        # Imported here: mmengine.runner imports FSDP's strategy too, and a backbone, which imports
        # this module, must not.
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
