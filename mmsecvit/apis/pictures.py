"""Read images, and name the pictures of predictions so that none replaces another."""

import os
from collections.abc import Iterable
from functools import wraps
from pathlib import Path
from typing import Any

import cv2
import mmcv
from mmengine.runner import Runner

from ..datasets.images import unreadable_reason


def find_fault(path: str | Path) -> str | None:
    """Return the reason why OpenCV cannot read an image file, or None if it can."""
    try:
        if mmcv.imread(path) is not None:
            return None
    except (OSError, cv2.error):
        pass
    return unreadable_reason(path) or 'OpenCV does not read it'


def name_results(paths: Iterable[str | Path]) -> dict[str, Path]:
    """Name the results of several image files, each differently.

    Args:
        paths: Image files.

    Returns:
        A relative path without a suffix for each file: its name. If several files have one name,
        all are named with their folders below the one that they have in common; if these names do
        not differ either, with the suffixes of the files, too.
    """
    files = {str(path): Path(os.path.abspath(path)) for path in paths}
    common = os.path.commonpath([file.parent for file in files.values()]) if files else ''
    for name in (
        lambda file: Path(file.stem),
        lambda file: file.relative_to(common).with_suffix(''),
        lambda file: file.relative_to(common),
    ):
        names = {path: name(file) for path, file in files.items()}
        if len(set(names.values())) == len(set(files.values())):
            break
    return names


def keep_folders(runner: Runner) -> None:
    """Let the pictures of a test go into folders if several images have one name.

    The toolboxes' hooks name pictures by their images' names without folders, so that a picture
    replaces an earlier one. mmseg's hook counts them, and is not concerned.
    """
    dataset = runner.test_dataloader.dataset
    if not hasattr(dataset, 'get_data_info'):
        return  # a data set of one's own, of which nothing is known before it is loaded
    paths = [dataset.get_data_info(i).get('img_path') for i in range(len(dataset))]
    names = name_results(path for path in paths if isinstance(path, str))
    visualizer = runner.visualizer
    method = 'visualize_cls' if hasattr(visualizer, 'visualize_cls') else 'add_datasample'
    draw = getattr(visualizer, method)

    @wraps(draw)
    def draw_into_folder(*args: Any, out_file: str | None = None, **kwargs: Any) -> None:
        if out_file is not None:
            name = names.get(getattr(kwargs['data_sample'], 'img_path', ''), Path())
            out_file = str(Path(out_file).parent / name.parent / Path(out_file).name)
        draw(*args, out_file=out_file, **kwargs)

    setattr(visualizer, method, draw_into_folder)
