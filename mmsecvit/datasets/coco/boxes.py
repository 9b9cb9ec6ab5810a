"""Check the boxes and areas of annotations in COCO's format."""

from itertools import chain

import numpy as np

from .masks import FINE, MENDED, bounding_box, mask_area, mend_segmentation, to_number
from .notes import LEFT_OUT, CocoNotes, numbers_of, set_numbers

BEYOND = 1.0  # pixels: how far a box may reach beyond its image without a word
LEAST_OVERLAP = 0.1  # of the boxes of most annotations and those of their masks, over their union
MANY = 1000  # annotations: enough to see what most are like


def mend_boxes(notes: CocoNotes, items: list[dict]) -> np.ndarray:
    """Return the boxes (x, y, width, height) of all annotations."""
    boxes = [item.get('bbox') for item in items]
    derived: list[int] = []
    text: list[int] = []
    bad: list[int] = []
    missing: list[int] = []
    if not _are_plain(boxes):
        for place, box in enumerate(boxes):
            if box is None or box == []:
                boxes[place] = _box_of_mask(items[place])
                (derived if boxes[place] else missing).append(place)
            elif not (isinstance(box, list) and len(box) == 4):
                bad.append(place)
            elif not set(map(type, box)) <= {int, float}:
                boxes[place] = [to_number(value) for value in box]
                text.append(place)
        for place in (*derived, *text):
            items[place]['bbox'] = boxes[place]
        for place in (*bad, *missing):
            boxes[place] = [0.0, 0.0, 0.0, 0.0]
    array = np.array(boxes, float).reshape(-1, 4)
    infinite = ~np.isfinite(array).all(1)
    bad += np.flatnonzero(infinite).tolist()
    rule = 'each takes x, y, width and height in pixels'
    notes.say(
        'error', 'bbox missing', missing, 'without a "bbox" or a "segmentation" that gives it', rule
    )
    notes.say('error', 'bbox', sorted(bad), 'whose "bbox" is not four numbers', rule)
    notes.say(
        'mended',
        'bbox from segmentation',
        derived,
        'without "bbox"',
        'it is that of the segmentation',
    )
    read = [place for place in text if not infinite[place]]
    notes.say('mended', 'bbox as text', read, 'with strings in "bbox"', 'they are read as numbers')
    return array


def _are_plain(boxes: list) -> bool:
    """Return whether all boxes are lists of four numbers."""
    if not (set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}):
        return False
    return set(map(type, chain.from_iterable(boxes))) <= {int, float}


def _box_of_mask(item: dict) -> list[float] | None:
    segmentation, state = mend_segmentation(item.get('segmentation'), None)
    return bounding_box(segmentation) if state in (FINE, MENDED) else None


def check_boxes(
    notes: CocoNotes, items: list[dict], boxes: np.ndarray, sizes: np.ndarray, known: np.ndarray
) -> np.ndarray:
    """Return which of the known annotations mmdet does not leave out, apart from their masks."""
    x, y, width, height = boxes.T
    right, bottom = x + width, y + height
    inside = np.minimum(right, sizes[:, 0]) - np.maximum(x, 0)
    inside = np.maximum(inside, 0) * np.maximum(
        np.minimum(bottom, sizes[:, 1]) - np.maximum(y, 0), 0
    )
    ignored = known & np.array([bool(item.get('ignore')) for item in items])
    small = known & ~ignored & ((width < 1) | (height < 1))
    outside = known & ~ignored & ~small & (inside == 0)
    fits = known & ~ignored & ~small & ~outside
    beyond = (
        (np.minimum(x, y) < -BEYOND)
        | (right > sizes[:, 0] + BEYOND)
        | (bottom > sizes[:, 1] + BEYOND)
    )
    beyond &= fits
    notes.say(
        'warning',
        'ignore',
        ignored,
        'with "ignore"',
        f'{LEFT_OUT} in training, and pycocotools counts them',
    )
    rule = LEFT_OUT
    if small.any() and np.abs(boxes[known]).max() <= 1:
        rule += '; boxes are in pixels, and these look like shares of the image'
    notes.say('warning', 'box below one pixel', small, 'with a box of less than one pixel', rule)
    notes.say('warning', 'box outside', outside, 'with a box outside the image', LEFT_OUT)
    rule = 'each takes x, y, width and height in pixels'
    if beyond.any() and ((width > x) & (height > y))[known].all():
        rule += ', and these look like two corners'
    notes.say(
        'warning', 'box beyond the image', beyond, 'with a box that reaches beyond the image', rule
    )
    return fits


def compare_masks(
    notes: CocoNotes, items: list[dict], boxes: np.ndarray, places: list[int]
) -> None:
    """Find out whether most of some segmentations have nothing to do with their boxes."""
    for looked_at in (places[:: len(places) // MANY + 1], places):
        apart = [
            place for place in looked_at if _overlap(items[place], boxes[place]) < LEAST_OVERLAP
        ]
        if 2 * len(apart) <= len(looked_at):
            return
    has = 'whose "segmentation" and "bbox" hardly overlap'
    rule = 'both are of the same object, in pixels of the image'
    notes.say('warning', 'segmentation elsewhere', apart, has, rule)


def _overlap(item: dict, box: np.ndarray) -> float:
    """Return the overlap of a box and that of a mask over their union, both a pixel larger."""
    of_mask = bounding_box(item['segmentation'])
    if of_mask is None:
        return 1.0
    starts = np.array((box[:2], of_mask[:2])) - 1
    ends = np.array((box[:2] + box[2:], np.add(of_mask[:2], of_mask[2:]))) + 1
    inside = np.prod(np.maximum(ends.min(0) - starts.max(0), 0))
    return float(inside / (np.prod(ends - starts, 1).sum() - inside))


def mend_areas(notes: CocoNotes, items: list[dict], boxes: np.ndarray) -> None:
    """Give each annotation an area, with which mmdet does not leave it out."""
    areas, odd = numbers_of(items, 'area')
    missing = np.array([item.get('area') is None for item in items], bool)
    fits = (boxes[:, 2:] >= 1).all(1)
    no_number = ~missing & ~np.isfinite(areas)
    zero = fits & (areas <= 0)
    text = odd & np.isfinite(areas) & ~zero
    derived = missing | no_number | zero
    for place in np.flatnonzero(derived):
        segmentation, state = mend_segmentation(items[place].get('segmentation'), None)
        area = mask_area(segmentation) if state in (FINE, MENDED) else 0
        areas[place] = area or max(float(boxes[place, 2] * boxes[place, 3]), 0)
    set_numbers(items, 'area', areas, derived | text)
    rule = 'it is that of the segmentation or of the box'
    notes.say('mended', 'area missing', missing, 'without "area"', rule)
    notes.say('mended', 'area', no_number, 'with an "area" that is no number', rule)
    notes.say('mended', 'area 0', zero, 'with an "area" of 0 or below', rule)
    notes.say('mended', 'area as text', text, 'with a string as "area"', 'it is read as a number')
    larger = fits & (areas > 1.1 * (boxes[:, 2] + 2) * (boxes[:, 3] + 2))
    rule = 'the scores of small, medium and large objects go by it'
    notes.say('warning', 'area larger than box', larger, 'with an "area" larger than the box', rule)


def check_repeats(
    notes: CocoNotes, image: np.ndarray, category: np.ndarray, boxes: np.ndarray, which: np.ndarray
) -> None:
    """Find annotations that are there several times, among those that mmdet does not leave out."""
    rows = np.column_stack((image, category, boxes))
    _, first, place_of_first = np.unique(
        np.ascontiguousarray(rows).view(f'V{rows.itemsize * rows.shape[1]}').ravel(),
        return_index=True,
        return_inverse=True,
    )
    again = which & (first[place_of_first] != np.arange(len(rows)))
    has = 'with the image, the category and the box of another'
    notes.say('warning', 'object twice', again, has, 'a model is asked to find each of them')
