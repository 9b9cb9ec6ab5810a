"""Check the annotations of a file in COCO's format, and mend what has one right meaning."""

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np

from ..findings import list_some
from .boxes import check_boxes, check_repeats, compare_masks, mend_areas, mend_boxes
from .masks import EMPTY, FINE, MENDED, SHORT, UNUSABLE, mend_segmentation, to_number
from .notes import LEFT_OUT, CocoNotes, is_id, numbers_of, set_numbers


def mend_annotations(
    notes: CocoNotes, content: dict, classes: Sequence[str] | None, masks: bool, use: str
) -> None:
    """Check and mend the annotations of a file whose images and categories are right.

    Args:
        notes: Takes the findings.
        content: The parsed file.
        classes: Names of the classes that are asked for, or None for all.
        masks: Whether segmentations are needed.
        use: ``train``, ``predict`` or ``score``.
    """
    items, images, categories = content['annotations'], content['images'], content['categories']
    notes.look_at('annotations', items)
    image = _mend_references(notes, items, 'image_id', images, 'images')
    category = _mend_references(notes, items, 'category_id', categories, 'categories')
    crowd = _mend_crowd(notes, items)
    sizes = np.array([(known['width'], known['height']) for known in images] + [(0, 0)], float)
    boxes = mend_boxes(notes, items)
    if notes.refused:
        return
    asked = np.array(
        [classes is None or known.get('name') in classes for known in categories] + [False]
    )
    known = (image >= 0) & asked[category]
    fits = known & check_boxes(notes, items, boxes, sizes[image], known)
    if masks:
        _mend_masks(notes, items, boxes, sizes[image], known if use == 'score' else fits, use)
    mend_areas(notes, items, boxes)
    check_repeats(notes, image, category, boxes, fits)
    whole = fits & ~crowd
    if known.any() and not whole.any() and use != 'predict':
        has = 'must have an annotation that can be used, but all are left out or crowds'
        reasons = notes.reasons_to_leave_out()
        has += f': it {"; it ".join(reasons)}' if reasons else ''
        notes.note('error', 'nothing to use', has, int(known.sum()))
    _mend_ids(notes, items)  # last: the findings name annotations by the ids in the file
    count = np.bincount(category[whole], minlength=len(categories))
    absent = [str(categories[i].get('name')) for i in np.flatnonzero(asked[:-1] & (count == 0))]
    if use == 'train' and absent:
        has = f'has no object of {list_some(absent)}'
        notes.note('warning', 'class without objects', has, len(absent), absent[:5])


def _mend_references(
    notes: CocoNotes, items: list[dict], key: str, listed: list[dict], things: str
) -> np.ndarray:
    """Return the place in a list that each annotation refers to, -1 if it is not there."""
    places = {item['id']: place for place, item in enumerate(listed)}
    ids = [item.get(key) for item in items]
    plain = set(map(type, ids)) <= {int, str}
    bad = [] if plain else [i for i, value in enumerate(ids) if not is_id(value)]
    if notes.say(
        'error',
        f'no {key}',
        bad,
        f'without a usable "{key}"',
        f'it must be the id of one of the {things}',
    ):
        return np.full(len(items), -1)
    if places.keys() >= set(ids):
        return np.fromiter(map(places.__getitem__, ids), int, len(ids))
    lost = [i for i, value in enumerate(ids) if value not in places]
    # An id as a string in one list and as a number in the other means the same.
    same = {to_number(value): value for value in places if isfinite(to_number(value))}
    mended = [i for i in lost if to_number(ids[i]) in same] if len(same) == len(places) else []
    notes.say(
        'mended',
        f'{key} of another type',
        mended,
        f'with a "{key}" of another type than in "{things}"',
        'both mean the same',
    )
    for i in mended:
        ids[i] = items[i][key] = same[to_number(ids[i])]
    lost = sorted(set(lost).difference(mended))
    unknown = list(dict.fromkeys(ids[i] for i in lost))
    rule = LEFT_OUT
    if 0 in unknown and 1 in places and key == 'category_id':
        rule += ', and if ids count from 0 here and from 1 there, all others have another class'
    has = (
        f'with a "{key}" that is not in "{things}" ({list_some([str(value) for value in unknown])})'
    )
    notes.say('warning', f'{key} not listed', lost, has, rule)
    return np.array([places.get(value, -1) for value in ids], int)


def _mend_ids(notes: CocoNotes, items: list[dict]) -> None:
    """Give new ids where pycocotools would take an object for another one, or for no match."""
    ids = [item.get('id') for item in items]
    numbers = {value for value in ids if type(value) is int and value}
    if len(numbers) == len(ids):
        return
    seen, missing, zero, again, text = set(), [], [], [], []
    for place, value in enumerate(ids):
        if value is None:
            missing.append(place)
        elif type(value) is not int:
            text.append(place)
        elif value == 0:
            zero.append(place)
        elif value in seen:
            again.append(place)
        seen.add(value) if is_id(value) else None
    rule = 'they get new ids'
    notes.say('mended', 'id missing', missing, 'without "id"', rule)
    notes.say('mended', 'id no number', text, 'with an "id" that is no whole number', rule)
    notes.say(
        'mended', 'id 0', zero, 'with the "id" 0, which pycocotools takes for "not found"', rule
    )
    notes.say('mended', 'ids collide', again, 'with the "id" of another', rule)
    free = max(numbers, default=0)
    for place in (*missing, *text, *zero, *again):
        free += 1
        items[place]['id'] = free


def _mend_crowd(notes: CocoNotes, items: list[dict]) -> np.ndarray:
    """Return which annotations are crowds."""
    crowd, odd = numbers_of(items, 'iscrowd')
    if not odd.any() and np.isfinite(crowd).all():
        return crowd != 0
    values = [item.get('iscrowd') for item in items]
    missing = np.array([value is None for value in values])
    truth = np.array([value is True for value in values])
    flags = missing | truth | np.array([value is False for value in values])
    crowd[flags] = truth[flags]
    text = np.array([isinstance(value, str) for value in values]) & np.isfinite(crowd)
    notes.say('mended', 'iscrowd missing', missing, 'without "iscrowd"', 'it is taken as 0')
    notes.say(
        'mended', 'iscrowd as text', text, 'with a string as "iscrowd"', 'it is read as a number'
    )
    notes.say(
        'error', 'iscrowd', ~np.isfinite(crowd), 'with an unusable "iscrowd"', 'it must be 0 or 1'
    )
    set_numbers(items, 'iscrowd', crowd, odd & np.isfinite(crowd))
    return crowd != 0


def _mend_masks(
    notes: CocoNotes,
    items: list[dict],
    boxes: np.ndarray,
    sizes: np.ndarray,
    which: np.ndarray,
    use: str,
) -> None:
    places: dict[str, list[int]] = {state: [] for state in (MENDED, EMPTY, SHORT, UNUSABLE)}
    for place in np.flatnonzero(which).tolist():
        item = items[place]
        segmentation = item.get('segmentation')
        size = sizes[place] if isinstance(segmentation, dict) else None
        mended, state = mend_segmentation(
            segmentation, None if size is None else (size[1], size[0])
        )
        if state != FINE:
            places[state].append(place)
            item['segmentation'] = mended
    rule = (
        'each takes polygons of three or more points, or RLE of the height and width of the image, '
        'whose runs fill it'
    )
    notes.say('error', 'segmentation missing', places[EMPTY], 'without "segmentation"', rule)
    notes.say('error', 'segmentation', places[UNUSABLE], 'with an unusable "segmentation"', rule)
    level: Any = 'error' if use == 'score' else 'warning'
    end = rule if use == 'score' else LEFT_OUT
    notes.say(
        level, 'polygon too short', places[SHORT], 'with polygons of less than three points', end
    )
    has = 'whose "segmentation" is no list of polygons, or has too short ones'
    notes.say('mended', 'segmentation', places[MENDED], has, 'what makes a polygon counts')
    unlike = {*places[EMPTY], *places[SHORT], *places[UNUSABLE]}
    compare_masks(
        notes, items, boxes, [i for i in np.flatnonzero(which).tolist() if i not in unlike]
    )
