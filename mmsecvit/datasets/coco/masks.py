"""Mend and measure the segmentations of annotations in COCO's format.

pycocotools is imported where it is used: a backbone does not need it.
"""

from math import isfinite, nan
from typing import Any

import numpy as np

# How a segmentation is: as it should be, mended, empty, without a part that is a polygon (mmdet
# leaves such objects out of training; pycocotools takes four numbers for a box), or unusable.
FINE, MENDED, EMPTY, SHORT, UNUSABLE = 'fine', 'mended', 'empty', 'short', 'unusable'

# The characters of a compressed RLE: "0" is a group of zeros, and a number has 32 bits at most.
FIRST_GROUP, MORE, SIGN, MOST_GROUPS = ord('0'), 0x20, 0x10, 7


def to_number(value: Any) -> float:
    """Return a number, also one that is written as a string, or NaN."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return nan


def mend_segmentation(segmentation: Any, size: tuple[int, int] | None) -> tuple[Any, str]:
    """Return a segmentation that mmdet and pycocotools read rightly, and how it was.

    Args:
        segmentation: Polygons or RLE, as they are in the file.
        size: Height and width of the image, or None if they are not known.

    Returns:
        The same object if it is fine or cannot be mended, and one of the five words.
    """
    if isinstance(segmentation, dict):
        return _mend_rle(segmentation, size)
    if not isinstance(segmentation, list):
        return segmentation, EMPTY if segmentation is None else UNUSABLE
    try:
        # To sum numbers is the fastest way to see that they are numbers, and finite ones.
        others = [polygon for polygon in segmentation if len(polygon) < 6 or len(polygon) % 2]
        if segmentation and not others and isfinite(sum(map(sum, segmentation))):
            return segmentation, FINE
    except TypeError:
        pass
    return _mend_polygons(segmentation)


def _mend_polygons(segmentation: list) -> tuple[list, str]:
    """Mend a list of numbers, lists of points, strings, and parts that are too short."""
    parts = segmentation
    if parts and not any(isinstance(part, list) for part in parts):
        parts = [parts]
    polygons = []
    for part in parts:
        if not isinstance(part, list):
            return segmentation, UNUSABLE
        if part and all(isinstance(point, list) and len(point) == 2 for point in part):
            part = [value for point in part for value in point]
        polygon = [value if type(value) in (int, float) else to_number(value) for value in part]
        if not isfinite(sum(polygon)):
            return segmentation, UNUSABLE
        if len(polygon) >= 6 and len(polygon) % 2 == 0:
            polygons.append(polygon)
    if polygons:
        return polygons, MENDED
    return segmentation, SHORT if any(parts) else EMPTY


def _mend_rle(rle: dict, size: tuple[int, int] | None) -> tuple[dict, str]:
    """Mend an RLE whose numbers are strings or floats."""
    counts, shape = rle.get('counts'), rle.get('size')
    if not (isinstance(counts, (list, str)) and counts and isinstance(shape, list)):
        return rle, UNUSABLE if rle else EMPTY
    shape = _to_integers(shape)
    if not shape or len(shape) != 2 or tuple(shape) != (size or tuple(shape)):
        return rle, UNUSABLE
    runs: Any = counts
    if isinstance(counts, list):
        runs = _to_integers(counts)
        total = sum(runs) if runs and min(runs) >= 0 else None
    else:
        decoded = _decode_runs(counts)
        total = None if decoded is None else int(decoded.sum())
    if total != shape[0] * shape[1]:  # pycocotools would read memory that it did not write
        return rle, UNUSABLE
    fine = runs is counts and shape is rle['size']
    return (rle, FINE) if fine else (dict(rle, size=shape, counts=runs), MENDED)


def _decode_runs(counts: str) -> np.ndarray | None:
    """Return the lengths of the runs of a compressed RLE, or None if it is damaged.

    pycocotools writes groups of five bits, the lowest first, as characters from "0": bit 5 says
    that more follow, and bit 4 of the last is the sign. From the fourth run on, the number is the
    difference from the run two before.
    """
    characters = np.frombuffer(counts.encode('utf-8', 'surrogatepass'), np.uint8)
    groups = characters.astype(np.int64) - FIRST_GROUP
    ends = np.flatnonzero(groups < MORE)
    if not ends.size or ends[-1] != groups.size - 1 or groups.min() < 0 or groups.max() >= 2 * MORE:
        return None
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > MOST_GROUPS:
        return None
    shifts = 5 * (np.arange(groups.size) - starts.repeat(lengths))
    runs = np.add.reduceat((groups & 0x1F) << shifts, starts)
    runs -= (groups[ends] & SIGN) << (shifts[ends] + 1)
    runs[1::2] = runs[1::2].cumsum()
    runs[2::2] = runs[2::2].cumsum()
    return runs if runs.min() >= 0 else None


def _to_integers(values: list) -> list[int] | None:
    """Return the same list if it has integers only, integers that are equal, or None."""
    if set(map(type, values)) <= {int}:
        return values
    numbers = list(map(to_number, values))
    return list(map(int, numbers)) if all(map(float.is_integer, numbers)) else None


def bounding_box(segmentation: Any) -> list[float] | None:
    """Return x, y, width and height of a segmentation that is fine, or None if there is none."""
    if isinstance(segmentation, dict):
        x, y, width, height = _with_pycocotools('toBbox', segmentation).tolist()
    else:
        corners = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segmentation])
        (x, y), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
        width, height = right - x, bottom - y
    return [x, y, width, height] if width > 0 and height > 0 else None


def mask_area(segmentation: Any) -> float:
    """Return the area of a segmentation that is fine, in pixels."""
    if isinstance(segmentation, dict):
        return float(_with_pycocotools('area', segmentation))
    area = 0.0
    for polygon in segmentation:
        x, y = np.reshape(polygon, (-1, 2)).T
        area += abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2
    return area


def _with_pycocotools(function: str, rle: dict) -> np.ndarray:
    from pycocotools import mask

    if isinstance(rle['counts'], list):
        rle = mask.frPyObjects(rle, *rle['size'])
    return getattr(mask, function)(rle)
