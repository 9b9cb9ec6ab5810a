"""Find image files that cannot be read.

OpenCV and Pillow are imported where they are used: a backbone needs neither.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

JPEG_END = b'\xff\xd9'


def find_damaged_images(paths: Iterable[str | Path]) -> dict[str, str]:
    """Find the image files that do not exist or cannot be read to their end.

    Args:
        paths: Image files.

    Returns:
        The fault of each damaged file by its path: ``missing``, a fault of
        :func:`find_image_fault`, or the message of the operating system.
    """
    faults = ((str(path), _find_fault(path)) for path in paths)
    return {path: fault for path, fault in faults if fault}


def _find_fault(path: str | Path) -> str | None:
    if not Path(path).is_file():
        return 'missing'
    try:
        with open(path, 'rb') as file:
            return find_image_fault(file)
    except OSError as error:
        return error.strerror or str(error)


def find_image_fault(file: BinaryIO) -> str | None:
    """Return the reason why an image cannot be read, or None if it can.

    Of a whole JPEG file only the header and the last bytes are read: damage in the middle, which
    decoders accept, is not found. Of a PNG file the checksums are compared. Images in other formats
    are decoded.

    Args:
        file: Content of an image file, opened for reading.

    Returns:
        ``empty``, ``no image``, ``cut off``, ``damaged`` in the middle, the message of the
        operating system, or None.
    """
    from PIL import Image, UnidentifiedImageError

    if not file.seek(0, os.SEEK_END):
        return 'empty'
    try:
        if not _looks_whole(file):
            # Some whole files have more data after their end, and some formats have no mark there.
            with Image.open(file) as image:
                image.load()
    except UnidentifiedImageError:
        # OpenCV knows formats that Pillow does not.
        file.seek(0)
        return None if can_opencv_decode(file.read()) else 'no image'
    except Image.DecompressionBombError:
        return None  # Too large for Pillow; another decoder may read it.
    except (OSError, SyntaxError, ValueError) as error:
        fault = 'damaged' if 'broken' in str(error) else 'cut off'
        return getattr(error, 'strerror', None) or fault
    return None


def can_opencv_decode(content: bytes) -> bool:
    """Return whether OpenCV can decode the content of a file, which must not be empty."""
    import cv2

    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED) is not None


def _looks_whole(file: BinaryIO) -> bool:
    """Check an image without decoding it: False means that only decoding can tell."""
    from PIL import Image

    with Image.open(file) as image:
        if image.format in ('JPEG', 'MPO'):
            file.seek(-len(JPEG_END), os.SEEK_END)
            return file.read() == JPEG_END
        if image.format == 'PNG':
            try:
                image.verify()
            except (OSError, SyntaxError):
                return False
            return True
    return False
