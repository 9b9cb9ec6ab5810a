"""What the toolboxes' data sets do with bad data, as the configs here set them up."""

import json
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from mmsecvit.apis.verification import naming_damaged_images

pytest.importorskip('mmdet')
CONFIG = Path(__file__).parents[2] / 'configs' / 'retinanet_secvit_t_1x.py'
CAT, UNKNOWN = 3, 9
SECOND = 'second.jpg'


def annotation(image, box, category=CAT):
    area = box[2] * box[3]
    return dict(image_id=image, bbox=box, category_id=category, area=area, iscrowd=0)


@pytest.fixture
def loader(tmp_path):
    """Config of a loader of seven images of 64x64: what it yields, and how, is the config's own."""
    rng = np.random.default_rng(0)
    names = ['first.jpg', SECOND, 'grey.png', 'alpha.png']
    names += ['empty.jpg', 'unknown.jpg', 'flat.jpg']
    channels = [3, 3, 1, 4, 3, 3, 3]
    for name, c in zip(names, channels, strict=True):
        pixels = rng.integers(0, 255, (64, 64, c), dtype=np.uint8)
        mmcv.imwrite(pixels, str(tmp_path / 'images' / name))
    box = [8, 8, 16, 16]
    annotations = [
        annotation(0, box),
        annotation(0, [8, 8, 0, 16]),  # no area
        annotation(0, [100, 8, 16, 16]),  # beyond the image
        annotation(0, box, UNKNOWN),
        annotation(1, box),
        annotation(2, box),
        annotation(3, box),
        annotation(5, box, UNKNOWN),
        annotation(6, [8, 8, 16, 0]),
    ]
    content = dict(
        images=[dict(id=i, file_name=n, width=64, height=64) for i, n in enumerate(names)],
        annotations=[dict(id=i, **a) for i, a in enumerate(annotations)],
        categories=[dict(id=CAT, name='cat'), dict(id=UNKNOWN, name='yeti')],
    )
    (tmp_path / 'train.json').write_text(json.dumps(content))
    cfg = Config.fromfile(CONFIG)
    loader = cfg.train_dataloader
    loader.batch_size = 1
    loader.sampler.shuffle = False
    loader.batch_sampler = None
    loader.persistent_workers = False
    loader.dataset.update(
        data_root=str(tmp_path),
        ann_file='train.json',
        data_prefix=dict(img='images/'),
        metainfo=dict(classes=('cat',)),
    )
    load, annotate, *_, pack = loader.dataset.pipeline
    loader.dataset.pipeline = [load, annotate, pack]
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield loader


def batches(loader):
    """What the loader yields in one epoch: the names of the images, inputs and boxes."""
    for batch in Runner.build_dataloader(loader, seed=0):
        (inputs,), (sample,) = batch['inputs'], batch['data_samples']
        boxes = sample.gt_instances.bboxes.tensor.tolist()
        yield Path(sample.img_path).name, tuple(inputs.shape), boxes


def test_what_cannot_be_trained_on_is_left_out(loader):
    boxes = [[8.0, 8.0, 24.0, 24.0]]
    assert [*batches(loader)] == [
        ('first.jpg', (3, 64, 64), boxes),
        (SECOND, (3, 64, 64), boxes),
        ('grey.png', (3, 64, 64), boxes),
        ('alpha.png', (3, 64, 64), boxes),
        # Annotated, if with nothing: it serves as background.
        ('flat.jpg', (3, 64, 64), []),
    ]


@pytest.fixture(params=['missing', 'empty', 'text', 'header alone', 'half'])
def broken(request, tmp_path, loader):
    """The second image is broken."""
    path = tmp_path / 'images' / SECOND
    if request.param == 'missing':
        path.unlink()
    else:
        whole = path.read_bytes()
        content = {'empty': b'', 'text': b'<html>', 'header alone': whole[:20]}
        content['half'] = whole[: len(whole) // 2]
        path.write_bytes(content[request.param])
    return request.param


@pytest.mark.parametrize('num_workers', [0, 2])
def test_an_unreadable_image_ends_training_with_its_name(loader, broken, num_workers):
    loader.num_workers = num_workers
    done = []
    cfg = Config(dict(train_dataloader=loader))
    with pytest.raises(Exception, match=SECOND), naming_damaged_images(cfg, ['train']):
        for name, *_ in batches(loader):
            done.append(name)
    assert done == ['first.jpg']


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'FILE'),
        (b'', "^image files must be readable, but these are not: 'FILE .empty.'$"),
        (b'<html>', "^image files must be readable, but these are not: 'FILE .no image.'$"),
        (slice(2), "^image files must be readable, but these are not: 'FILE .no image.'$"),
        (slice(-30), "^image files must be readable, but these are not: 'FILE .cut off.'$"),
    ],
)
def test_an_unreadable_segmentation_map_ends_training_with_its_name(
    tmp_path, content, message, num_workers
):
    pytest.importorskip('mmseg')
    for folder, name in (('images', 'street.jpg'), ('maps', 'street.png')):
        mmcv.imwrite(np.zeros((64, 64, 3), np.uint8), str(tmp_path / folder / name))
    path = tmp_path / 'maps' / 'street.png'
    if content is None:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[content] if isinstance(content, slice) else content)
    loader = Config.fromfile(CONFIG.with_name('upernet_secvit_t_160k.py')).train_dataloader
    loader.num_workers = num_workers
    loader.persistent_workers = False
    loader.dataset.data_root = str(tmp_path)
    loader.dataset.data_prefix = dict(img_path='images', seg_map_path='maps')
    cfg = Config(dict(train_dataloader=loader))
    error = ValueError if content is not None else FileNotFoundError
    message = message.replace('FILE', str(path))
    with DefaultScope.overwrite_default_scope('mmseg'):
        batches = Runner.build_dataloader(loader, seed=0)
        with pytest.raises(error, match=message), naming_damaged_images(cfg, ['train']):
            next(iter(batches))


@pytest.mark.parametrize('broken', ['empty'], indirect=True)
def test_other_errors_stay_as_they_are_whatever_is_damaged(loader, broken):
    cfg = Config(dict(train_dataloader=loader))
    with pytest.raises(cv2.error, match='resize'), naming_damaged_images(cfg, ['train']):
        mmcv.imresize(np.zeros((0, 0, 3), np.uint8), (8, 8))
    with pytest.raises(OSError, match='^the network$'), naming_damaged_images(cfg, ['train']):
        raise OSError('the network')


@pytest.mark.parametrize('broken', ['missing', 'empty'], indirect=True)
def test_missing_images_are_replaced_by_others_if_the_config_says_so(loader, broken):
    loader.dataset.pipeline[0].ignore_empty = True
    loader.num_workers = 2
    names = [name for name, *_ in batches(loader)]
    assert len(names) == 5
    assert names[0] == 'first.jpg'
    assert SECOND not in names
