"""Read image files so that an error names the file."""

from io import BytesIO
from pathlib import Path

from mmengine import fileio
from mmengine.config import Config

from .findings import DataError
from .images import can_opencv_decode, find_image_fault, find_size_fault, looks_whole
from .nodes import find_nodes, type_name

# The toolboxes' transforms that decode a file of a sample.
LOADERS = (
    'LoadImageFromFile',
    'LoadMultiChannelImageFromFiles',
    'LoadAnnotations',
    'LoadPanopticAnnotations',
)


class _WorkerError(Exception):
    """An error whose message is one line, also when it comes from a data loader's worker."""

    def __init__(self, message: str) -> None:
        # torch <= 2.11 (ExceptionWrapper.reraise) raises a worker's error again with the worker's
        # whole traceback as the message. The traceback's last line is the name of the class and the
        # message that the error had. Remove this class when the message stays as it was.
        name = f'{type(self).__module__}.{type(self).__qualname__}: '
        super().__init__(message.rstrip().rpartition('\n')[-1].removeprefix(name))


class DamagedImageError(_WorkerError, DataError):
    """An image or a segmentation map is empty, cut off or damaged, or no image."""


class MissingImageError(_WorkerError, FileNotFoundError):
    """The file of an image or of a segmentation map does not exist."""


@fileio.register_backend('checked_image', force=True)
class CheckedImageBackend(fileio.LocalBackend):
    """Read image files and raise an error with the file's name if one cannot be decoded.

    The decoders (OpenCV, Pillow) get bytes: their errors do not name the file. Select this backend
    with ``backend_args=dict(backend='checked_image')`` in ``LoadImageFromFile`` and
    ``LoadAnnotations``. It is not a transform, because the toolboxes' inferencers find these two
    by name, to replace or remove them. Forked workers of a data loader know this backend; for
    spawned ones, the main script must import this package.

    Example:
        >>> dict(type='LoadImageFromFile', backend_args=dict(backend='checked_image'))
    """

    def get(self, filepath: str | Path) -> bytes:
        """Return the content of an image file.

        Args:
            filepath: A path, or an address that one of mmengine's backends knows by its prefix.

        Raises:
            MissingImageError: If the file does not exist.
            DamagedImageError: If it is not a whole image, or has too many pixels for OpenCV.
        """
        try:
            content = fileio.get(filepath)
        except FileNotFoundError:
            raise MissingImageError(f'image file {filepath} does not exist') from None
        if looks_whole(content):
            fault = find_size_fault(content)
        else:
            fault = find_image_fault(BytesIO(content))
            if fault and content and can_opencv_decode(content):
                fault = None  # Pillow refuses some files that OpenCV reads.
        if fault:
            raise DamagedImageError(f'image file {filepath} must be readable, but is not: {fault}')
        return content


def set_image_backend(cfg: Config) -> list[str]:
    """Let the loaders of images and segmentation maps name a file that they cannot decode.

    Args:
        cfg: Config of a whole experiment. Loaders without ``backend_args`` get
            :class:`CheckedImageBackend`.

    Returns:
        The settings that were filled in.
    """
    changed = []
    for split in ('train', 'val', 'test'):
        name = f'{split}_dataloader'
        for setting, loader in find_nodes(cfg.get(name), name, lambda x: type_name(x) in LOADERS):
            if not loader.get('backend_args') and not loader.get('file_client_args'):
                loader['backend_args'] = dict(backend='checked_image')
                changed.append(f'{setting}.backend_args')
    return changed
