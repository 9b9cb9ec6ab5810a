"""Find the image files of a config's data sets that cannot be read."""

import os
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope
from mmengine.utils import track_iter_progress
from PIL import Image, UnidentifiedImageError
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..datasets.checks import check_data, find_datasets, is_local, some
from .config import load_config

FILES = ('img_path', 'seg_map_path')  # the toolboxes' names for a sample's files
ENDS = {'JPEG': b'\xff\xd9', 'PNG': b'IEND\xaeB`\x82'}


def verify_images(
    config: str | Path, cfg_options: dict | None = None
) -> tuple[int, dict[str, str]]:
    """Look at each image and segmentation map that a config's data sets name.

    Args:
        config: Path of the config file of a detector, segmenter or classifier.
        cfg_options: Values by dotted key that override the config's.

    Returns:
        The number of files, and the result of :func:`find_damaged_images`.

    Raises:
        ValueError: If a data set lies in a remote store, or as in :func:`check_data`.
        FileNotFoundError: As in :func:`check_data`.
    """
    cfg = load_config(config, cfg_options=cfg_options)
    splits = [s for s in ('train', 'val', 'test') if cfg.get(f'{s}_dataloader')]
    check_data(cfg, splits)
    files: set[str] = set()
    for split in splits:
        loader = cfg[f'{split}_dataloader']
        for setting, node in find_datasets(loader, f'{split}_dataloader'):
            if not is_local(node, node.get('data_root') or '.'):
                raise ValueError(f'{setting} must lie on local disks, but is in a remote store')
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            dataset = DATASETS.build(loader.dataset)
        for i in range(len(dataset)):
            sample = dataset.get_data_info(i)
            files.update(sample[key] for key in FILES if sample.get(key))
    progress = track_iter_progress(sorted(files), file=sys.stderr)
    return len(files), find_damaged_images(progress)


@contextmanager
def naming_damaged_images(cfg: Config, splits: Iterable[str]) -> Iterator[None]:
    """Raise a ValueError with the names of damaged files if one is met among the images.

    The toolboxes name most images that they cannot read, but what decodes empty ones and
    segmentation maps (OpenCV, Pillow) sees no name. Where that raises an error, and only then,
    the data sets' folders are searched: it takes minutes where there are a million files.

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` are read.
    """
    try:
        yield
    except Exception as error:
        # Of a data loader's worker, only the text of the traceback is left.
        text = traceback.format_exc()
        if '/PIL/' not in text and 'imdecode' not in text:
            raise
        damaged = find_damaged_images(sorted(_find_images(cfg, splits)))
        if not damaged:
            raise
        names = some([f'{path} ({fault})' for path, fault in damaged.items()])
        raise ValueError(f'image files must be readable, but these are not: {names}') from error


def find_damaged_images(paths: Iterable[str | Path]) -> dict[str, str]:
    """Find the image files that are not there, or cannot be read to their end.

    Whole files cost the reading of their header and of their last bytes. Damage in the middle is
    not found.

    Args:
        paths: Image files.

    Returns:
        By path what is wrong: ``missing``, ``empty``, ``no image``, ``cut off`` or what the system
        says.
    """
    faults = ((str(path), _find_fault(str(path))) for path in paths)
    return {path: fault for path, fault in faults if fault}


def _find_fault(path: str) -> str | None:
    if not Path(path).is_file():
        return 'missing'
    if not Path(path).stat().st_size:
        return 'empty'
    try:
        with Image.open(path) as image, open(path, 'rb') as file:
            end = ENDS.get(image.format or '')
            if end:
                file.seek(-len(end), os.SEEK_END)
                if file.read() == end:
                    return None
            # Some whole files have more behind their end, and some formats have no mark there.
            image.load()
    except UnidentifiedImageError:
        # OpenCV knows formats that Pillow does not.
        return 'no image' if cv2.imread(path, cv2.IMREAD_UNCHANGED) is None else None
    except Image.DecompressionBombError:
        return None  # too large for Pillow, which need not be what reads it
    except (OSError, SyntaxError, ValueError) as error:
        return getattr(error, 'strerror', None) or 'cut off'
    return None


def _find_images(cfg: Config, splits: Iterable[str]) -> set[Path]:
    """Find all image files in the folders of a config's data sets."""
    folders: set[Path] = set()
    for split in splits:
        for _, dataset in find_datasets(cfg.get(f'{split}_dataloader') or {}, split):
            folders.update(_list_folders(dataset))
    files = (path for folder in folders for path in folder.rglob('*'))
    return {path for path in files if path.suffix.lower() in IMG_EXTENSIONS and path.is_file()}


def _list_folders(dataset: ConfigDict) -> Iterator[Path]:
    root = dataset.get('data_root') or ''
    prefixes = dataset.get('data_prefix') or dataset.get('split') or ''
    for prefix in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
        if (root or prefix) and is_local(dataset, root or '.'):
            yield Path(root, prefix)
