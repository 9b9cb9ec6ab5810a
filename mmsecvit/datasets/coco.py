"""Check annotation files in COCO's format."""

import json
import mmap
from pathlib import Path

from .findings import DataError, list_some

CATEGORIES = b'"categories"'
LONGEST_LIST = 1 << 24  # bytes: sixteen times the list of LVIS's 1,203 categories


def check_classes(setting: str, ann_file: Path, classes: tuple[str, ...]) -> None:
    """Raise a DataError unless an annotation file has the classes of its data set."""
    names = _read_class_names(ann_file)
    missing = [name for name in classes if name not in names]
    if missing:
        raise DataError(
            f'{setting}.metainfo.classes must be among the categories of {ann_file}, which are '
            f'{list_some(names)}; it has no {list_some(missing)}'
        )


def _read_class_names(ann_file: Path) -> list[str]:
    """Read only the names of the categories: reading all of COCO's annotations takes 30 s."""
    try:
        with (
            open(ann_file, 'rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            at = text.rfind(CATEGORIES)
            tail = text[at + len(CATEGORIES) : at + LONGEST_LIST] if at >= 0 else b''
        colon_and_list = tail.decode(errors='ignore').lstrip()
        categories = json.JSONDecoder().raw_decode(colon_and_list[1:].lstrip())[0]
        return [category['name'] for category in categories]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f'ann_file {ann_file} has no list "categories" with names, as COCO has it'
        ) from error
