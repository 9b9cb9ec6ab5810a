"""Test what the toolboxes' data sets do with bad data under the configs here."""

import json
from pathlib import Path

import cv2
import mmcv
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from mmsecvit.datasets import DamagedImageError, DataError, MissingImageError, set_image_backend

pytest.importorskip('mmdet')
CONFIG = Path(__file__).parents[2] / 'configs' / 'retinanet_secvit_t_1x.py'
CAT, UNKNOWN = 3, 9
SECOND = 'second.jpg'


def annotation(image, box, category=CAT):
    area = box[2] * box[3]
    return dict(image_id=image, bbox=box, category_id=category, area=area, iscrowd=0)


@pytest.fixture
def loader(tmp_path):
    """Config of a loader of seven images of 64x64, otherwise set as in the config."""
    rng = np.random.default_rng(0)
    names = ['first.jpg', SECOND, 'gray.png', 'alpha.png']
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
    set_image_backend(cfg)
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
    """Yield the image's name, the input's shape and the boxes of each batch of one epoch."""
    for batch in Runner.build_dataloader(loader, seed=0):
        (inputs,), (sample,) = batch['inputs'], batch['data_samples']
        boxes = sample.gt_instances.bboxes.tensor.tolist()
        yield Path(sample.img_path).name, tuple(inputs.shape), boxes


def test_what_cannot_be_trained_on_is_left_out(loader):
    boxes = [[8.0, 8.0, 24.0, 24.0]]
    assert [*batches(loader)] == [
        ('first.jpg', (3, 64, 64), boxes),
        (SECOND, (3, 64, 64), boxes),
        ('gray.png', (3, 64, 64), boxes),
        ('alpha.png', (3, 64, 64), boxes),
        # It has an annotation, though no valid one, and serves as background.
        ('flat.jpg', (3, 64, 64), []),
    ]


@pytest.fixture(params=['empty', 'text', 'only a header', 'half'])
def broken(request, tmp_path, loader):
    """Break the second image."""
    path = tmp_path / 'images' / SECOND
    if request.param == 'missing':
        path.unlink()
    else:
        whole = path.read_bytes()
        content = {'empty': b'', 'text': b'<html>', 'only a header': whole[:20]}
        content['half'] = whole[: len(whole) // 2]
        path.write_bytes(content[request.param])
    return request.param


@pytest.mark.parametrize('num_workers', [0, 2])
def test_an_unreadable_image_ends_training_with_its_name(loader, broken, num_workers, tmp_path):
    loader.num_workers = num_workers
    done = []
    with pytest.raises(DamagedImageError) as raised:
        for name, *_ in batches(loader):
            done.append(name)
    assert done == ['first.jpg']
    faults = {'empty': 'empty', 'text': 'no image', 'only a header': 'no image', 'half': 'cut off'}
    path = tmp_path / 'images' / SECOND
    fault = faults[broken]
    assert str(raised.value) == f'image file {path} must be readable, but is not: {fault}'


def test_a_missing_image_ends_training_before_it_begins(loader, tmp_path):
    path = tmp_path / 'images' / SECOND
    path.rename(path.with_suffix('.jpeg'))
    with pytest.raises(DataError, match=f'1 of 5 files do not exist, the first is {path}$'):
        Runner.build_dataloader(loader, seed=0)
    loader.dataset.indices = 1
    assert [name for name, *_ in batches(loader)] == ['first.jpg']
    (tmp_path / 'images').rename(tmp_path / 'elsewhere')
    with pytest.raises(DataError, match='1 of 1 files do not exist'):
        Runner.build_dataloader(loader, seed=0)


def test_sizes_that_are_not_those_of_the_images_are_said(loader, tmp_path, caplog):
    MMLogger.get_current_instance().addHandler(caplog.handler)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for name, size in ((SECOND, (64, 48)), ('first.jpg', (64, 64))):
        Image.new('RGB', size).save(tmp_path / 'images' / name, exif=exif)
    text = (tmp_path / 'train.json').read_text()
    Runner.build_dataloader(loader, seed=0)
    has = 'another height and width than the image of 1 of 5 images that were looked at'
    assert f'{has}, such as {tmp_path}/images/{SECOND}' in caplog.text
    content = json.loads(text)
    content['images'][1].update(height=64, width=48)
    (tmp_path / 'train.json').write_text(json.dumps(content))
    caplog.clear()
    Runner.build_dataloader(loader, seed=0)
    MMLogger.get_current_instance().removeHandler(caplog.handler)
    assert 'another height and width' not in caplog.text


def test_mmcv_does_not_name_an_empty_image(loader, tmp_path):
    """Test the reason for the backend: a failure here means that it has one reason less."""
    loader.dataset.pipeline[0].pop('backend_args')
    (tmp_path / 'images' / SECOND).write_bytes(b'')
    with pytest.raises(cv2.error) as raised:
        [*batches(loader)]
    assert SECOND not in str(raised.value)


def flip_middle(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize('num_workers', [0, 1])
@pytest.mark.parametrize(
    ('break_file', 'fault'),
    [
        (None, None),
        (lambda whole: b'', 'empty'),
        (lambda whole: b'<html>', 'no image'),
        (lambda whole: whole[:2], 'no image'),
        (lambda whole: whole[:-30], 'cut off'),
        (flip_middle, 'damaged'),
    ],
)
def test_an_unreadable_segmentation_map_ends_training_with_its_name(
    tmp_path, break_file, fault, num_workers
):
    pytest.importorskip('mmseg')
    pixels = np.random.default_rng(0).integers(0, 150, (64, 64), dtype=np.uint8)
    for folder, name in (('images', 'street.jpg'), ('maps', 'street.png')):
        mmcv.imwrite(pixels, str(tmp_path / folder / name))
    path = tmp_path / 'maps' / 'street.png'
    if break_file is None:
        path.unlink()
    else:
        path.write_bytes(break_file(path.read_bytes()))
    cfg = Config.fromfile(CONFIG.with_name('upernet_secvit_t_160k.py'))
    set_image_backend(cfg)
    loader = cfg.train_dataloader
    loader.num_workers = num_workers
    loader.persistent_workers = False
    loader.dataset.data_root = str(tmp_path)
    loader.dataset.data_prefix = dict(img_path='images', seg_map_path='maps')
    with DefaultScope.overwrite_default_scope('mmseg'):
        batches = Runner.build_dataloader(loader, seed=0)
        with pytest.raises((ValueError, FileNotFoundError)) as raised:
            next(iter(batches))
    if fault is None:
        assert isinstance(raised.value, MissingImageError)
        assert str(raised.value) == f'image file {path} does not exist'
    else:
        assert isinstance(raised.value, DamagedImageError)
        assert str(raised.value) == f'image file {path} must be readable, but is not: {fault}'


@pytest.mark.parametrize('broken', ['missing', 'empty', 'half'], indirect=True)
def test_unreadable_images_are_replaced_by_others_if_the_config_says_so(loader, broken):
    loader.dataset.pipeline[0].ignore_empty = True
    loader.num_workers = 2
    names = [name for name, *_ in batches(loader)]
    assert len(names) == 5
    assert names[0] == 'first.jpg'
    assert SECOND not in names
