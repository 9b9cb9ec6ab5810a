"""Read annotation files in COCO's format."""

import json
import mmap
from pathlib import Path
from typing import Any

from ..findings import DataError

CATEGORIES = b'"categories"'
LONGEST_LIST = 1 << 24  # bytes: sixteen times the list of LVIS's 1,203 categories


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
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f'{setting} {name or path} must be JSON, but is not: {error}') from None


def read_class_names(ann_file: Path) -> list[str]:
    """Read only the names of the categories: reading all of COCO's annotations takes 30 s.

    Raises:
        DataError: If the file has no list of categories.
    """
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
