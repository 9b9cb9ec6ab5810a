"""Check the content of an annotation file in COCO's format, and mend what has one right meaning."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from ..findings import Finding, list_some
from .files import paused_collection
from .notes import CocoNotes, is_id, numbers_of, set_numbers
from .objects import mend_annotations


@paused_collection()
def mend_coco(
    content: Any,
    setting: str,
    file: str,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    use: Literal['train', 'predict', 'score'] = 'train',
) -> list[Finding]:
    """Check all of an annotation file, and mend in memory what has one right meaning.

    Args:
        content: The parsed file, which is changed.
        setting: Name of the setting for the messages, such as ``val_evaluator.ann_file``.
        file: Name of the file.
        classes: Names of the classes that are asked for. Defaults to all categories.
        masks: Whether segmentations are needed.
        use: Whether a model trains with the file, predicts for its images, or is scored by it.

    Returns:
        What was found. If there is no error, mmdet and pycocotools read the content rightly.
    """
    notes = CocoNotes(setting, file)
    _check_lists(notes, content)
    if not notes.refused:
        _mend_images(notes, content['images'])
        _mend_categories(notes, content, classes)
    if not notes.refused and content.get('annotations'):
        mend_annotations(notes, content, classes, masks, use)
    elif not notes.refused and use == 'score':
        notes.note('warning', 'no annotations', 'has no annotations: there is nothing to score')
    elif not notes.refused and use == 'train':
        has = 'has no annotations: all its images are background'
        notes.note('warning', 'no annotations', has)
    return notes.findings


def _check_lists(notes: CocoNotes, content: Any) -> None:
    if not isinstance(content, dict):
        notes.note('error', 'no COCO file', 'must be a dict of lists, as COCO has it')
        return
    for name in ('images', 'categories', 'annotations'):
        items = content.get(name)
        if items is None and name == 'annotations':
            content.pop(name, None)
        elif not isinstance(items, list) or not set(map(type, items)) <= {dict}:
            notes.note('error', f'no {name}', f'must have a list "{name}" of dicts, as COCO has it')


def _mend_ids(notes: CocoNotes, items: list[dict], what: str) -> None:
    """Check that the ids of images or categories tell them apart."""
    ids = [item.get('id') for item in items]
    rule = 'each takes an "id" of its own, a number or a string'
    bad = [place for place, value in enumerate(ids) if not is_id(value)]
    if notes.say('error', f'{what} without id', bad, 'without a usable "id"', rule):
        return
    first: dict[Any, dict] = {}
    for item in items:
        first.setdefault(item['id'], item)
    if len(first) < len(items):
        others = [place for place, item in enumerate(items) if first[item['id']] != item]
        if notes.say('error', f'{what} ids collide', others, 'with the "id" of another', rule):
            return
        again = [place for place, item in enumerate(items) if first[item['id']] is not item]
        notes.say('mended', f'{what} twice', again, 'that are listed twice', 'each counts once')
        items[:] = first.values()
    # pycocotools looks ids up as numpy.unique gives them back: 1 and 'a' become '1' and 'a'.
    if set(np.unique(list(first)).tolist()) != set(first):
        has = f'must have {notes.things} with ids of one type, all whole numbers or all strings'
        notes.note('error', f'{what} ids of several types', has)


def _mend_images(notes: CocoNotes, images: list[dict]) -> None:
    notes.look_at('images', images, 'file_name')
    if not images:
        notes.note('error', 'no images', 'must have images, but its list "images" is empty')
    _mend_ids(notes, images, 'image')
    names = [image.get('file_name') for image in images]
    bad = [place for place, name in enumerate(names) if not (name and isinstance(name, str))]
    if not notes.say(
        'error', 'no file_name', bad, 'without a "file_name"', 'each must name a file'
    ):
        first = {name: place for place, name in reversed([*enumerate(names)])}
        again = [place for place, name in enumerate(names) if first[name] != place]
        rule = 'the objects of one are background in the other'
        notes.say('warning', 'file_name twice', again, 'with the "file_name" of another', rule)
    for key in ('height', 'width'):
        numbers, odd = numbers_of(images, key)
        bad_size = ~(np.isfinite(numbers) & (numbers > 0))
        rule = 'each takes the height and width of its image in pixels'
        notes.say('error', f'no {key}', bad_size, f'without a usable "{key}"', rule)
        notes.say(
            'mended',
            f'{key} as text',
            odd & ~bad_size,
            f'with a string as "{key}"',
            'it is read as a number',
        )
        whole = np.array([type(image.get(key)) is float for image in images], bool)
        set_numbers(images, key, numbers, ~bad_size & (odd | whole))


def _mend_categories(notes: CocoNotes, content: dict, classes: Sequence[str] | None) -> None:
    categories = content['categories']
    notes.look_at('categories', categories)
    _mend_ids(notes, categories, 'category')
    names = [category.get('name') for category in categories]
    missing = [name for name in classes or () if name not in names]
    if missing:
        has = (
            f'must have all classes of metainfo.classes among its categories, which are '
            f'{list_some(names)}; it has no {list_some(missing)}'
        )
        notes.note('error', 'class missing', has)
    count = Counter(name for name in names if isinstance(name, str))
    twice = {name for name in count if count[name] > 1 and name in (classes or names)}
    if not twice:
        return
    # Some tools list a category of the same name for all others, which no annotation has.
    ids = {
        item.get('category_id')
        for item in content.get('annotations') or ()
        if is_id(item.get('category_id'))
    }
    for name in sorted(twice):
        same = [category for category in categories if category.get('name') == name]
        used = [category for category in same if category['id'] in ids]
        if len(used) > 1:
            has = (
                f'has categories of the same name, {name!r}, with the ids '
                f'{", ".join(str(category["id"]) for category in used)}: each class takes one'
            )
            notes.note('error', 'category names collide', has, len(used), [name])
            continue
        kept = (used or same)[0]
        categories[:] = [c for c in categories if c.get('name') != name or c is kept]
        has = f'has {len(same)} categories named {name!r}: the one with annotations counts'
        notes.note('mended', 'category name twice', has, len(same), [name])
