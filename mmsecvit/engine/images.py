"""Find the image files of a config's data sets that cannot be read."""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, DefaultScope
from PIL import Image, UnidentifiedImageError

from .config import load_config
from .data import IMAGES, check_data, find_datasets, is_local, some

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
    files: dict[str, None] = {}
    for split in splits:
        loader = cfg[f'{split}_dataloader']
        for setting, node in find_datasets(loader, f'{split}_dataloader'):
            if node.get('backend_args'):
                raise ValueError(f'{setting} must be on local disks, but has backend_args')
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope')):
            dataset = DATASETS.build(loader.dataset)
        for i in range(len(dataset)):
            sample = dataset.get_data_info(i)
            files.update(dict.fromkeys(sample[key] for key in FILES if sample.get(key)))
    return len(files), find_damaged_images(files)


@contextmanager
def naming_damaged_images(cfg: Config, splits: Iterable[str]) -> Iterator[None]:
    """Raise a ValueError with the names of damaged files if one is met among the images.

    The toolboxes name most images that they cannot read, but what decodes empty ones and
    segmentation maps (OpenCV, Pillow) sees no name. Only then are the data sets' folders
    searched: to look at each file beforehand takes minutes where there are a million.

    Args:
        cfg: Config of a whole experiment.
        splits: Which of ``train``, ``val`` and ``test`` are read.
    """
    try:
        yield
    except (cv2.error, OSError, SyntaxError) as error:
        if not isinstance(error, cv2.error) and not _is_of_decoding(error):
            raise
        damaged = find_damaged_images(_find_images(cfg, splits))
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
        By path, sorted, what is wrong: ``missing``, ``empty``, ``no image`` or ``cut off``.
    """
    names = sorted(map(str, paths))
    with ThreadPoolExecutor() as pool:
        faults = pool.map(_find_fault, names)
        return {name: fault for name, fault in zip(names, faults, strict=True) if fault}


def _find_fault(path: str) -> str | None:
    if not Path(path).exists():
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
    except (OSError, SyntaxError) as error:
        if not _is_of_decoding(error):
            raise
        return 'no image' if isinstance(error, UnidentifiedImageError) else 'cut off'
    return None


def _is_of_decoding(error: Exception) -> bool:
    """Tell Pillow's errors from the system's, which name their file and have a number."""
    pillow = isinstance(error, (UnidentifiedImageError, SyntaxError))
    return pillow or (type(error) is OSError and error.errno is None)


def _find_images(cfg: Config, splits: Iterable[str]) -> set[Path]:
    """Find all image files in the folders of a config's data sets."""
    folders: set[Path] = set()
    for split in splits:
        for _, dataset in find_datasets(cfg.get(f'{split}_dataloader') or {}, split):
            folders.update(_list_folders(dataset))
    files = (path for folder in folders for path in folder.rglob('*'))
    return {path for path in files if path.suffix.lower() in IMAGES and path.is_file()}


def _list_folders(dataset: ConfigDict) -> Iterator[Path]:
    root = dataset.get('data_root') or ''
    prefixes = dataset.get('data_prefix') or dataset.get('split') or ''
    for prefix in prefixes.values() if isinstance(prefixes, dict) else [prefixes]:
        if (root or prefix) and is_local(dataset, root or '.'):
            yield Path(root, prefix)
