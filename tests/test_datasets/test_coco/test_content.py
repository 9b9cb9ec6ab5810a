"""Test what is found in the content of a COCO file, and what is mended in memory."""

import copy
import json

import numpy as np
import pytest

from mmsecvit.datasets.coco.content import mend_coco
from mmsecvit.datasets.coco.masks import FINE, mend_segmentation

CLASSES = ('kite', 'balloon')
SQUARE = [10, 20, 40, 20, 40, 50, 10, 50]
NAN = float('nan')


@pytest.fixture
def content() -> dict:
    """Two images of 96x128 with one object of each of two categories."""
    images = [dict(id=i, file_name=f'{i}.png', height=96, width=128) for i in (5, 6)]
    annotations = [
        dict(
            id=7 + place,
            image_id=5 + place // 2,
            category_id=1 + place % 2,
            bbox=[10, 20, 30, 30],
            area=900,
            iscrowd=0,
            segmentation=[SQUARE],
        )
        for place in range(4)
    ]
    categories = [dict(id=1, name='balloon'), dict(id=2, name='kite')]
    return dict(images=images, annotations=annotations, categories=categories)


def find(content: dict, masks: bool = True, use: str = 'train') -> dict[str, tuple[str, int]]:
    """Return the level and the count of each kind; assert that the messages can be understood."""
    findings = mend_coco(content, 'x.ann_file', 'train.json', CLASSES, masks, use)
    for finding in findings:
        assert finding.message.startswith('x.ann_file train.json ')
        assert '\n' not in finding.message
    return {finding.kind: (finding.level, finding.count) for finding in findings}


def test_nothing_is_found_or_changed_in_a_right_file(content):
    before = copy.deepcopy(content)
    for use in ('train', 'predict', 'score'):
        assert find(content, use=use) == {}
    assert content == before


def test_the_message_names_setting_file_and_first_ids(content):
    del content['annotations'][1]['area'], content['annotations'][3]['area']
    (finding,) = mend_coco(content, 'x.ann_file', 'train.json')
    assert finding.message == (
        'x.ann_file train.json has 2 of 4 annotations without "area" (id 8, id 10): '
        'it is that of the segmentation or of the box'
    )
    assert finding.examples == ('id 8', 'id 10')


# What a key of the first annotation is changed to (... removes it), the kind and the value then.
MENDED = [
    ('iscrowd', ..., 'iscrowd missing', 0),
    ('iscrowd', None, 'iscrowd missing', 0),
    ('iscrowd', '0', 'iscrowd as text', 0),
    ('area', ..., 'area missing', 900),
    ('area', None, 'area missing', 900),
    ('area', 0, 'area 0', 900),
    ('area', -3.5, 'area 0', 900),
    ('area', NAN, 'area', 900),
    ('area', 'large', 'area', 900),
    ('area', '850.5', 'area as text', 850.5),
    ('bbox', ..., 'bbox from segmentation', [10, 20, 30, 30]),
    ('bbox', None, 'bbox from segmentation', [10, 20, 30, 30]),
    ('bbox', [], 'bbox from segmentation', [10, 20, 30, 30]),
    ('bbox', ['10', 20, '30.0', 30], 'bbox as text', [10, 20, 30, 30]),
    ('id', ..., 'id missing', 11),
    ('id', None, 'id missing', 11),
    ('id', 0, 'id 0', 11),
    ('id', 8, 'ids collide', 8),
    ('id', 'a7', 'id no number', 11),
    ('id', [7], 'id no number', 11),
    ('image_id', '5', 'image_id of another type', 5),
    ('category_id', '1', 'category_id of another type', 1),
    ('segmentation', SQUARE, 'segmentation', [SQUARE]),
    ('segmentation', [list(map(str, SQUARE))], 'segmentation', [SQUARE]),
    ('segmentation', [[[10, 20], [40, 20], [40, 50], [10, 50]]], 'segmentation', [SQUARE]),
    ('segmentation', [SQUARE, [1, 2, 3, 4]], 'segmentation', [SQUARE]),
    ('segmentation', [[5], SQUARE], 'segmentation', [SQUARE]),
]


@pytest.mark.parametrize(('key', 'value', 'kind', 'mended'), MENDED)
def test_what_has_one_right_meaning_is_mended(content, key, value, kind, mended):
    first = content['annotations'][0]
    first[key] = value
    if value is ...:
        del first[key]
    others = copy.deepcopy(content['annotations'][1:])
    assert find(content) == {kind: ('mended', 1)}
    assert first[key] == mended or key == 'id'
    ids = [annotation['id'] for annotation in content['annotations']]
    assert all(type(number) is int and number for number in ids)
    assert len(set(ids)) == 4
    assert [{**a, 'id': 0} for a in content['annotations'][1:]] == [{**a, 'id': 0} for a in others]
    assert find(content) == {}
    json.dumps(content)


REFUSED = [
    ('bbox', [10, 20, 30], 'bbox'),
    ('bbox', [10, 20, 30, 30, 0.5], 'bbox'),
    ('bbox', [10, 20, NAN, 30], 'bbox'),
    ('bbox', [10, None, 30, 30], 'bbox'),
    ('bbox', 'left', 'bbox'),
    ('bbox', dict(x=10), 'bbox'),
    ('iscrowd', 'no', 'iscrowd'),
    ('iscrowd', [], 'iscrowd'),
    ('image_id', ..., 'no image_id'),
    ('image_id', None, 'no image_id'),
    ('image_id', [5], 'no image_id'),
    ('category_id', ..., 'no category_id'),
    ('segmentation', ..., 'segmentation missing'),
    ('segmentation', None, 'segmentation missing'),
    ('segmentation', [], 'segmentation missing'),
    ('segmentation', [[]], 'segmentation missing'),
    ('segmentation', {}, 'segmentation missing'),
    ('segmentation', 'RLE', 'segmentation'),
    ('segmentation', 3, 'segmentation'),
    ('segmentation', [['a'] * 8], 'segmentation'),
    ('segmentation', [[NAN, *SQUARE[1:]]], 'segmentation'),
    ('segmentation', dict(counts='abc'), 'segmentation'),
    ('segmentation', dict(size=[96, 128]), 'segmentation'),
    ('segmentation', dict(size=[128, 96], counts=[0, 96 * 128]), 'segmentation'),
    ('segmentation', dict(size=[96, 128], counts=[1, 2]), 'segmentation'),
]


@pytest.mark.parametrize(('key', 'value', 'kind'), REFUSED)
def test_what_has_no_right_meaning_is_refused(content, key, value, kind):
    first = content['annotations'][0]
    first[key] = value
    if value is ...:
        del first[key]
    assert find(content) == {kind: ('error', 1)}
    if key == 'segmentation':
        first.update(bbox=[10, 20, 30, 30])
        assert find(content, masks=False) == {}


@pytest.mark.parametrize(
    'rle',
    [
        dict(size=[96, 128], counts=[20, 30, 96 * 128 - 50]),
        dict(size=[96, 128], counts=[20.0, '30', 96 * 128 - 50]),
        dict(size=[96.0, 128], counts='d0n0^n;'),
    ],
)
def test_rle_stays_or_gets_integers(content, rle):
    before = copy.deepcopy(rle)
    content['annotations'][0]['segmentation'] = rle
    find(content)
    mended = content['annotations'][0]['segmentation']
    assert mended['size'] == [96, 128]
    assert mended['counts'] == (
        before['counts'] if 'n0' in rle['counts'] else [20, 30, 96 * 128 - 50]
    )
    assert find(content) == {}


@pytest.mark.parametrize(
    'damage',
    [
        lambda counts: counts[: len(counts) // 2],
        lambda counts: counts[:-1],
        lambda counts: counts[:-2],
        lambda counts: counts[:3] + 'zzz~~',
        lambda counts: counts * 3,
        lambda counts: 'o' * 20,
        lambda counts: ' ' + counts,
        lambda counts: 'ä' + counts,
        lambda counts: '\ud800' + counts,
    ],
)
@pytest.mark.parametrize('use', ['train', 'score'])
def test_damaged_rle_is_refused(content, damage, use):
    mask = pytest.importorskip('pycocotools.mask')
    pixels = np.zeros((96, 128), np.uint8)
    pixels[20:50, 10:40] = 1
    counts = mask.encode(np.asfortranarray(pixels))['counts'].decode()
    content['annotations'][2]['segmentation'] = dict(size=[96, 128], counts=damage(counts))
    (finding,) = mend_coco(content, 'x.ann_file', 'train.json', CLASSES, True, use)
    assert (finding.level, finding.examples) == ('error', ('id 9',))


def test_all_rle_of_pycocotools_is_accepted():
    mask = pytest.importorskip('pycocotools.mask')
    rng = np.random.default_rng(0)
    rles = []
    for _ in range(200):
        height, width = rng.integers(1, 200, 2).tolist()
        pixels = rng.random((height, width)) < rng.choice([0, 0.01, 0.5, 0.99, 1])
        rles.append(mask.encode(np.asfortranarray(pixels, np.uint8)))
        polygons = rng.uniform(-100, 300, (3, 10)).tolist()  # also beyond the image
        rles += (parts := mask.frPyObjects(polygons, height, width))
        rles += [mask.merge(parts), mask.merge(parts, intersect=True)]
        boxes = rng.uniform(-20, 220, (2, 4))
        rles += mask.frPyObjects(boxes, height, width)
    large = np.zeros((5000, 7000), np.uint8, order='F')
    large[1:9, -1] = 1
    for rle in [*rles, mask.encode(large)]:
        text = dict(rle, counts=rle['counts'].decode())
        assert mend_segmentation(text, tuple(rle['size'])) == (text, FINE)


def test_box_and_area_come_from_an_rle(content):
    mask = pytest.importorskip('pycocotools.mask')
    pixels = np.zeros((96, 128), np.uint8)
    pixels[20:50, 10:40] = 1
    encoded = mask.encode(np.asfortranarray(pixels))
    first = content['annotations'][0]
    first['segmentation'] = dict(encoded, counts=encoded['counts'].decode())
    del first['bbox'], first['area']
    kinds = {'bbox from segmentation': ('mended', 1), 'area missing': ('mended', 1)}
    assert find(content) == kinds
    assert first['bbox'] == [10, 20, 30, 30]
    assert first['area'] == pixels.sum()


def test_the_area_of_polygons_is_that_of_their_pixels(content):
    mask = pytest.importorskip('pycocotools.mask')
    parts = [[30.5, 11, 81, 70.25, 9, 60], [90, 10, 110, 10, 110, 30, 90, 30]]
    first = content['annotations'][0]
    first.update(segmentation=parts, bbox=[9, 10, 101, 60.25])
    del first['area']
    find(content)
    pixels = mask.area(mask.merge(mask.frPyObjects(parts, 96, 128)))
    assert first['area'] == pytest.approx(float(pixels), rel=0.02)


@pytest.mark.parametrize(
    ('change', 'kind'),
    [
        (dict(category_id=9), 'category_id not listed'),
        (dict(image_id=99), 'image_id not listed'),
        (dict(bbox=[500, 20, 30, 30]), 'box outside'),
        (dict(bbox=[-40, 20, 30, 30]), 'box outside'),
        (dict(bbox=[10, 20, 0.5, 30]), 'box below one pixel'),
        (dict(bbox=[10, 20, -30, 30]), 'box below one pixel'),
        (dict(ignore=1), 'ignore'),
        (dict(bbox=[10, 20, 130, 30]), 'box beyond the image'),
        (dict(area=90000), 'area larger than box'),
        (dict(segmentation=[[10, 20, 40, 50]]), 'polygon too short'),
    ],
)
def test_what_mmdet_leaves_out_or_misreads_is_said(content, change, kind):
    content['annotations'] += copy.deepcopy(content['annotations'][:1])
    content['annotations'][-1].update(bbox=[50, 20, 30, 30], id=11)
    content['annotations'][-1].update(change)
    assert find(content) == {kind: ('warning', 1)}


def test_short_polygons_cannot_be_scored(content):
    content['annotations'][0]['segmentation'] = [[10, 20, 40, 50]]
    assert find(content, use='score') == {'polygon too short': ('error', 1)}
    assert find(content, use='score', masks=False) == {}


def test_hints_tell_common_mistakes(content):
    for annotation in content['annotations']:
        annotation['category_id'] -= 1
    messages = [f.message for f in mend_coco(content, 'x', 'y', CLASSES)]
    assert 'if ids count from 0 here and from 1 there' in messages[0]
    for annotation in content['annotations']:
        annotation.update(category_id=1, bbox=[60, 40, 90, 80])
    (message,) = (
        f.message for f in mend_coco(content, 'x', 'y', ('balloon',)) if 'beyond' in f.kind
    )
    assert message.endswith('and these look like two corners')


def test_shares_of_the_image_are_refused(content):
    for annotation in content['annotations']:
        annotation['bbox'] = [0.1, 0.2, 0.3, 0.3]
    kinds = find(content)
    assert kinds['box below one pixel'] == ('warning', 4)
    assert kinds['nothing to use'] == ('error', 4)
    (error,) = (f for f in mend_coco(content, 'x', 'y') if f.level == 'error')
    assert error.message.endswith('and these look like shares of the image')


@pytest.mark.parametrize(
    'polygon',
    [
        [10 / 128, 20 / 96, 40 / 128, 20 / 96, 40 / 128, 50 / 96],  # shares of the image
        [80, 60, 110, 60, 110, 90],
        [0, 0, 5, 0, 5, 5],
    ],
)
def test_masks_away_from_most_boxes_are_said(content, polygon):
    for annotation in content['annotations'][:2]:
        annotation['segmentation'] = [polygon]
    assert find(content) == {}  # of half of them: some are wrong in good files
    content['annotations'][2]['segmentation'] = [polygon]
    assert find(content) == {'segmentation elsewhere': ('warning', 3)}
    assert find(content, use='score') == {'segmentation elsewhere': ('warning', 3)}
    assert find(content, masks=False) == {}


def test_masks_of_a_part_of_a_box_are_fine(content):
    size = 96, 128
    pixels = np.zeros(size, np.uint8)
    pixels[30, 11] = 1
    counts = np.diff(np.flatnonzero(np.diff(pixels.T.ravel())), prepend=-1, append=pixels.size - 1)
    for annotation in content['annotations']:
        annotation['segmentation'] = [[12, 22, 25, 22, 25, 38]]  # what is seen of a hidden object
    content['annotations'][3]['bbox'] = [12, 31, 1, 1]
    content['annotations'][3]['segmentation'] = dict(size=[*size], counts=counts.tolist())
    content['annotations'][3]['area'] = 1
    assert find(content) == {}


def test_crowds_only_are_refused(content):
    for annotation in content['annotations']:
        annotation['iscrowd'] = 1
    assert find(content)['nothing to use'] == ('error', 4)
    assert find(content, use='predict') == {}


def test_classes_without_objects_and_repeated_objects_are_said(content):
    content['annotations'][1]['category_id'] = content['annotations'][3]['category_id'] = 1
    kinds = {'class without objects': ('warning', 1), 'object twice': ('warning', 2)}
    assert find(content) == kinds


def test_files_without_annotations_are_accepted(content):
    content['annotations'] = []
    assert find(content, use='predict') == {}
    del content['annotations']
    assert find(content, use='predict') == {}
    for use in ('train', 'score'):
        assert find(content, use=use) == {'no annotations': ('warning', 1)}
    content['annotations'] = None
    assert find(content, use='predict') == {}
    assert 'annotations' not in content


@pytest.mark.parametrize(
    ('key', 'value', 'kind', 'level'),
    [
        ('height', ..., 'no height', 'error'),
        ('width', None, 'no width', 'error'),
        ('width', 0, 'no width', 'error'),
        ('height', NAN, 'no height', 'error'),
        ('height', '96', 'height as text', 'mended'),
        ('file_name', ..., 'no file_name', 'error'),
        ('file_name', '', 'no file_name', 'error'),
        ('file_name', 4, 'no file_name', 'error'),
        ('file_name', '6.png', 'file_name twice', 'warning'),
        ('id', ..., 'image without id', 'error'),
        ('id', 6, 'image ids collide', 'error'),
        ('id', 'a', 'image ids of several types', 'error'),
    ],
)
def test_faults_of_images_are_found(content, key, value, kind, level):
    content['images'][0][key] = value
    if value is ...:
        del content['images'][0][key]
    assert find(content)[kind] == (level, 1)
    if level == 'mended':
        assert content['images'][0][key] == 96


def test_sizes_become_integers(content):
    content['images'][0].update(height=96.0, width=128.0)
    assert find(content) == {}
    assert [type(content['images'][0][key]) for key in ('height', 'width')] == [int, int]


def test_what_is_listed_twice_counts_once(content):
    content['images'].append(dict(content['images'][0]))
    content['categories'].append(dict(content['categories'][0]))
    kinds = find(content)
    assert kinds == {'image twice': ('mended', 1), 'category twice': ('mended', 1)}
    assert (len(content['images']), len(content['categories'])) == (2, 2)


def test_a_name_of_two_categories_is_refused_unless_one_is_unused(content):
    content['categories'].insert(0, dict(id=0, name='balloon', supercategory='none'))
    assert find(copy.deepcopy(content)) == {'category name twice': ('mended', 2)}
    find(content)
    assert [category['id'] for category in content['categories']] == [1, 2]
    content['categories'].append(dict(id=3, name='balloon'))
    content['annotations'][0]['category_id'] = 3
    assert find(content) == {'category names collide': ('error', 2)}


def test_classes_that_are_missing_are_refused(content):
    content['categories'][0]['name'] = 'Balloon'
    assert find(content) == {'class missing': ('error', 1)}


def test_ids_of_categories_must_tell_them_apart(content):
    content['categories'][0]['id'] = 2
    assert find(content) == {'category ids collide': ('error', 1)}


@pytest.mark.parametrize(
    'file',
    [
        [],
        'text',
        {},
        dict(images={}, categories=[]),
        dict(images=[1], categories=[]),
        dict(images=[], categories=[]),
        dict(images=[], categories=[], annotations={}),
    ],
)
def test_other_files_are_refused(file):
    assert 'error' in [level for level, _ in find(file).values()]


def test_strings_are_ids_as_well(content):
    for image in content['images']:
        image['id'] = f'n{image["id"]}'
    for annotation in content['annotations']:
        annotation['image_id'] = f'n{annotation["image_id"]}'
    assert find(content) == {}
