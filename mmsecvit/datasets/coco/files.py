"""Read annotation files in COCO's format."""

import gc
import json
import mmap
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..findings import DataError

CATEGORIES = b'"categories"'
FIRST_ANNOTATION = re.compile(rb'"annotations"\s*:\s*\[\s*\{')
LONGEST_LIST = 1 << 24  # bytes: sixteen times the list of LVIS's 1,203 categories


@contextmanager
def paused_collection() -> Iterator[None]:
    """Do not search for garbage while millions of objects are made that all stay.

    On a tenth of COCO's training annotations, the search takes a quarter of the time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@paused_collection()
def read_coco(path: str | Path, setting: str, name: str | None = None) -> Any:
    """Return the content of an annotation file.

    Args:
        path: Where the file is.
        setting: Name of its setting, for the message.
        name: Name of the file for the message. Defaults to the path.

    Raises:
        DataError: If the file is not JSON.
    """
    try:
        # Windows' editors begin a file with a mark of the byte order.
        return json.loads(Path(path).read_text(encoding='utf-8-sig'))
    except (ValueError, RecursionError) as error:
        raise DataError(f'{setting} {name or path} must be JSON, but is not: {error}') from None


def find_missing(paths: Iterable[str]) -> list[str]:
    """Return the paths of files that do not exist, listing each folder once."""
    folders: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = set()
            with suppress(OSError, ValueError):
                folders[folder].update(os.listdir(folder or '.'))
        # Some folders can be entered but not listed, and some file systems ignore case.
        if name not in folders[folder] and not os.path.exists(path):
            missing.append(path)
    return missing


def read_class_names(ann_file: Path) -> list[str]:
    """Read only the names of the categories: reading all of COCO's annotations takes 30 s.

    Raises:
        DataError: If the file has no list of categories.
    """
    names = _last_class_names(ann_file)
    if not names:  # The word may also be one of a user's own, deeper in the file.
        try:
            names = _names_of(read_coco(ann_file, 'ann_file')['categories'])
        except (DataError, TypeError, KeyError):
            names = None
    if names is None:
        raise DataError(f'ann_file {ann_file} has no list "categories" with names, as COCO has it')
    return names


def _last_class_names(ann_file: Path) -> list[str] | None:
    """Return the names in the last list of categories of a file, None if it is no such list."""
    try:
        with (
            open(ann_file, 'rb') as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            at = text.rfind(CATEGORIES)
            tail = text[at + len(CATEGORIES) : at + LONGEST_LIST] if at >= 0 else b''
        colon_and_list = tail.decode(errors='ignore').lstrip()
        categories = json.JSONDecoder().raw_decode(colon_and_list[1:].lstrip())[0]
        return _names_of(categories) if all('id' in category for category in categories) else None
    except (ValueError, TypeError, KeyError):
        return None


def _names_of(categories: list[dict]) -> list[str]:
    return [category['name'] for category in categories]


def has_annotations(ann_file: Path) -> bool:
    """Return whether a file has annotations, or cannot be read; most files are not read for it."""
    with (
        suppress(ValueError),  # an empty file
        open(ann_file, 'rb') as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text,
    ):
        if FIRST_ANNOTATION.search(text):
            return True
    try:
        content = read_coco(ann_file, 'ann_file')
    except DataError:
        return True
    return not isinstance(content, dict) or bool(content.get('annotations'))
