"""Label images: each test states by hand what the files have and what must be said of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmsecvit.datasets import check_data
from mmsecvit.datasets.checks import find_faults

pytest.importorskip('mmseg')
PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')]
RESIZE = dict(type='RandomResize', scale=(64, 32), ratio_range=(1, 2), keep_ratio=True)
SIZE = (12, 16)


@pytest.fixture
def streets(tmp_path) -> Config:
    """A segmenter's config, with two images and label images of the classes 0, 1 and 2."""
    dataset = dict(
        type='BaseSegDataset',
        data_root=str(tmp_path),
        metainfo=dict(classes=('road', 'car', 'rest')),
        pipeline=PIPELINE,
    )
    cfg = Config(dict(default_scope='mmseg', val_evaluator=dict(type='IoUMetric')))
    heads = [dict(type=kind, num_classes=3) for kind in ('UPerHead', 'FCNHead')]
    cfg.model = dict(decode_head=heads[0], auxiliary_head=heads[1])
    for split in ('train', 'val'):
        prefix = dict(img_path=f'img/{split}', seg_map_path=f'ann/{split}')
        cfg[f'{split}_dataloader'] = dict(dataset=dict(data_prefix=prefix, **dataset))
        for i in range(2):
            save(tmp_path / 'img' / split / f'{i}.jpg', np.zeros((*SIZE, 3), np.uint8))
            save(tmp_path / 'ann' / split / f'{i}.png', label())
    return cfg


def label() -> np.ndarray:
    values = np.zeros(SIZE, np.uint8)
    values[4:] = 1
    values[8:] = 2
    return values


def save(path: Path, image: np.ndarray | Image.Image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    # A TIFF file may have the name of a PNG file; Pillow looks into it.
    image.save(path, format='TIFF' if image.mode == 'I' else None, **options)


def relabel(root: Path, split: str, change) -> None:
    """Write other label images of a split."""
    for path in (root / 'ann' / split).iterdir():
        save(path, change(label()))


def kinds(cfg: Config, splits=('train', 'val'), track=None) -> dict[str, tuple[str, int]]:
    found = list(find_faults(cfg, splits, track))
    assert len({finding.kind for finding in found}) == len(found), found
    return {finding.kind: (finding.level, finding.count) for finding in found}


def test_good_label_images_have_no_faults(streets, tmp_path):
    assert kinds(streets) == kinds(streets, track=iter) == {}
    relabel(tmp_path, 'train', lambda x: np.where(x == 2, 255, x).astype(np.uint8))  # ignored
    assert kinds(streets) == {}
    assert kinds(streets, track=iter) == {'class without pixels': ('warning', 1)}


def palette(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values).convert('P')
    image.putdata(values.ravel().tolist())
    image.putpalette([128, 64, 128, 0, 0, 142, 0, 0, 0])
    return image


@pytest.mark.parametrize(
    'change',
    [palette, lambda x: x.astype(np.uint16), lambda x: x.astype(np.int32)],
    ids=['palette', '16 bits', '32 bits'],
)
def test_other_formats_of_label_images_are_taken(streets, tmp_path, change):
    relabel(tmp_path, 'train', change)
    assert kinds(streets) == {}


def with_seven(values):
    values[0] = 7
    return values


VALUES = 'have values from 0 to 2, for 3 classes, or 255, which is ignored, but 2 of all 2 do not: '


@pytest.mark.parametrize(
    ('change', 'kind', 'words'),
    [
        (with_seven, 'values', VALUES + '.*/ann/val/0.png has 7$'),
        (lambda x: x + 1, 'values', VALUES + '.* has 3; if .* at 1, set reduce_zero_label=True$'),
        (lambda x: np.dstack([x] * 3), 'channels', 'have one channel, .* has 3$'),
        (lambda x: np.dstack([x] * 4), 'channels', 'have one channel, .* has 4$'),
        (lambda x: x[::2, ::2], 'other size', '.* has 8x6 pixels, and its image 16x12$'),
        (lambda x: x * np.uint16(200), 'bits', '.* has 400, which is read as 144$'),
    ],
)
def test_wrong_label_images_are_refused(streets, tmp_path, change, kind, words):
    relabel(tmp_path, 'val', change)
    assert kinds(streets) == kinds(streets, track=iter) == {kind: ('error', 2)}
    message = f'^label images of val_dataloader.dataset must {words}'
    with pytest.raises(ValueError, match=message):
        check_data(streets, ('train', 'val'))
    assert check_data(streets, ('train',)) == []


def test_values_that_a_cut_to_8_bits_makes_ignored_are_taken(streets, tmp_path):
    relabel(tmp_path, 'train', lambda x: np.where(x == 2, 65535, x).astype(np.uint16))
    relabel(tmp_path, 'val', lambda x: np.where(x == 2, -1, x).astype(np.int32))
    # Both are read as 255.
    assert kinds(streets) == {}


def test_zero_is_unlabeled_where_the_config_says_so(streets, tmp_path):
    streets.train_dataloader.dataset.reduce_zero_label = True
    relabel(tmp_path, 'train', lambda x: x + 1)
    assert kinds(streets, ('train',), iter) == {}
    relabel(tmp_path, 'train', lambda x: x * 0)
    with pytest.raises(ValueError, match='have only 0 or 255, of which 0 or 255 is ignored'):
        check_data(streets, ('train',))
    relabel(tmp_path, 'train', lambda x: x + 2)
    message = r'values from 1 to 3, for 3 classes, or 0 or 255, which .* has 4$'
    with pytest.raises(ValueError, match=message):
        check_data(streets, ('train',))


def test_classes_from_0_are_suspected_where_0_is_unlabeled(streets, tmp_path):
    for split in ('train', 'val'):
        streets[f'{split}_dataloader'].dataset.reduce_zero_label = True
    for warning in check_data(streets, ('train', 'val')):
        assert warning.endswith(
            'show the last class by the value 3, but all 2 have only 0 or 255, which is ignored as '
            'reduce_zero_label=True, and 1 to 2; if the classes begin at 0, set '
            'reduce_zero_label=False'
        )
    assert len(check_data(streets, ('train', 'val'))) == 2
    assert kinds(streets, ('train',), iter) == {'last class without pixels': ('warning', 2)}
    # A class in between is missing, too, or 0 is: the classes may begin at 1.
    relabel(tmp_path, 'train', lambda x: np.where(x == 1, 2, x))
    save(tmp_path / 'ann' / 'train' / '0.png', label() * 0 + 1)
    assert kinds(streets, ('train',)) == {'last class without pixels': ('warning', 2)}
    relabel(tmp_path, 'train', lambda x: np.where(x == 1, 3, x))
    assert kinds(streets, ('train',)) == {}
    relabel(tmp_path, 'train', lambda x: np.clip(x, 1, None))
    assert kinds(streets, ('train',)) == {}


def test_zero_is_a_class_in_all_splits_or_in_none(streets, tmp_path):
    relabel(tmp_path, 'train', lambda x: x + 1)
    streets.train_dataloader.dataset.reduce_zero_label = True
    message = (
        'val_dataloader.dataset.reduce_zero_label, False, must have the value of '
        'train_dataloader.dataset.reduce_zero_label, True: '
    )
    with pytest.raises(ValueError, match=message):
        check_data(streets, ('train', 'val'))
    with pytest.raises(ValueError, match=message):
        check_data(streets, ('val',))
    assert check_data(streets, ('train',)) == []
    # Label images of another source may count otherwise.
    streets.val_dataloader.dataset.data_root = f'{tmp_path}/'
    (warning,) = check_data(streets, ('train', 'val'))
    assert 'False, differs from train_dataloader' in warning


def test_the_value_that_is_ignored_is_the_heads(streets, tmp_path):
    relabel(tmp_path, 'train', lambda x: np.where(x == 2, 9, x).astype(np.uint8))
    relabel(tmp_path, 'val', lambda x: np.where(x == 2, 9, x).astype(np.uint8))
    streets.model.decode_head.ignore_index = 9
    # The auxiliary head would fail.
    assert kinds(streets) == {'values': ('error', 2)}
    streets.model.auxiliary_head.ignore_index = 9
    assert kinds(streets) == {}


def test_the_classes_that_a_config_chooses_are_those_that_count(tmp_path, streets):
    # Cityscapes' first class is road, its 14th is car. The others become 255.
    dataset = streets.train_dataloader.dataset
    dataset.update(type='CityscapesDataset', img_suffix='.jpg', seg_map_suffix='.png')
    dataset.metainfo = dict(classes=('car', 'road'))
    for head in streets.model.values():
        head.num_classes = 2
    relabel(tmp_path, 'train', lambda x: np.array([0, 13, 5], np.uint8)[x])
    assert kinds(streets, ('train',), iter) == {}
    relabel(tmp_path, 'train', lambda x: np.array([0, 13, 33], np.uint8)[x])
    with pytest.raises(ValueError, match='has 33$'):
        check_data(streets, ('train',))


def test_only_0_and_255_teach_nothing(streets, tmp_path):
    for head in streets.model.values():
        head.num_classes = 2
    for split in ('train', 'val'):
        streets[f'{split}_dataloader'].dataset.metainfo = dict(classes=('back', 'crack'))
        relabel(tmp_path, split, lambda x: (x > 0).astype(np.uint8) * 255)
    message = 'must show 2 classes .* all 2 have only 0 and 255, of which 255 is ignored'
    with pytest.raises(ValueError, match=message):
        check_data(streets, ('train', 'val'))
    # In validation it may happen.
    (warning,) = check_data(streets, ('val',))
    assert '0 and 255' in warning
    # Some images may show nothing.
    save(tmp_path / 'ann' / 'train' / '0.png', label() // 2)
    assert check_data(streets, ('train',)) == []


def test_a_sigmoid_with_one_output_has_two_values(streets, tmp_path):
    for split in ('train', 'val'):
        streets[f'{split}_dataloader'].dataset.metainfo = dict(classes=('crack',))
        relabel(tmp_path, split, lambda x: x // 2)
    for head in streets.model.values():
        head.update(num_classes=1, out_channels=1)
    assert kinds(streets) == {}


def test_label_images_of_another_scale_may_be_resized_in_training(streets, tmp_path):
    relabel(tmp_path, 'train', lambda x: x[::2, ::2])
    assert kinds(streets) == {'other size': ('error', 2)}
    streets.train_dataloader.dataset.pipeline.append(RESIZE)
    assert kinds(streets) == {'other scale': ('warning', 2)}
    relabel(tmp_path, 'train', lambda x: x[::2])
    assert kinds(streets) == {'other size': ('error', 2)}


def test_images_that_are_turned_when_they_are_read_are_named(streets, tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn
    image = Image.fromarray(np.zeros((*SIZE, 3), np.uint8))
    save(tmp_path / 'img/train/0.jpg', image, exif=exif)
    message = 'has 16x12 pixels, and its image 12x16, as it is turned by its EXIF orientation$'
    with pytest.raises(ValueError, match=message):
        check_data(streets, ('train',))
    # The label image is turned, too.
    save(tmp_path / 'ann/train/0.png', np.rot90(label(), 3))
    assert kinds(streets) == {}
    # Half a turn does not show in the size.
    exif[274] = 3
    save(tmp_path / 'img/train/0.jpg', image, exif=exif)
    save(tmp_path / 'ann/train/0.png', label())
    assert kinds(streets) == {'turned': ('warning', 1)}
    # A pipeline may leave images as they are.
    loader = dict(type='LoadImageFromFile', color_type='color_ignore_orientation')
    streets.train_dataloader.dataset.pipeline[0] = loader
    exif[274] = 6
    save(tmp_path / 'img/train/0.jpg', image, exif=exif)
    assert kinds(streets) == {}


def test_suffixes_of_images_that_are_not_looked_at_are_named(streets, tmp_path):
    (tmp_path / 'img/train/1.jpg').rename(tmp_path / 'img/train/1.JPG')
    (warning,) = check_data(streets, ('train',))
    assert warning.startswith('train_dataloader.dataset leaves out 1 images in')
    assert warning.endswith("with its img_suffix, '.jpg': '1.JPG'")
    (tmp_path / 'img/train/0.jpg').rename(tmp_path / 'img/train/0.png')
    message = r"train_dataloader.dataset.img_suffix must .* '.jpg': there are .*\.png \(1\)"
    with pytest.raises(ValueError, match=message):
        check_data(streets, ('train',))


def test_missing_label_images_and_images_are_named(streets, tmp_path):
    (tmp_path / 'ann/train/1.png').rename(tmp_path / 'ann/train/1.bmp')
    message = (
        r'^train_dataloader.dataset.data_prefix.seg_map_path must name files that exist, but 1 '
        rf'of 2 do not, the first is {tmp_path}/ann/train/1.png \(the files there end with '
    )
    with pytest.raises(FileNotFoundError, match=message):
        check_data(streets, ('train', 'val'))
    (tmp_path / 'list.txt').write_text('0\nx\n')
    streets.val_dataloader.dataset.ann_file = 'list.txt'
    with pytest.raises(FileNotFoundError, match=r'ann_file must name .* is .*img/val/x.jpg'):
        check_data(streets, ('val',))


def test_a_data_set_without_label_images_does_not_load_them(streets):
    del streets.val_dataloader.dataset.data_prefix['seg_map_path']
    with pytest.raises(ValueError, match='data_prefix has no seg_map_path'):
        check_data(streets, ('val',))
    streets.val_dataloader.dataset.pipeline = PIPELINE[:1]
    streets.val_evaluator.update(format_only=True, output_dir='out')
    assert check_data(streets, ('val',)) == []
    streets.val_dataloader.dataset.data_prefix.seg_map_path = None
    with pytest.raises(ValueError, match='data_prefix.seg_map_path must be a path, got None'):
        check_data(streets, ('val',))


def test_damaged_label_images_are_named(streets, tmp_path):
    (tmp_path / 'ann/train/1.png').write_bytes(b'')
    with pytest.raises(ValueError, match=f'do not: {tmp_path}/ann/train/1.png is empty$'):
        check_data(streets, ('train',))


def test_of_a_transform_of_the_users_own_nothing_is_certain(streets, tmp_path):
    from mmengine.registry import TRANSFORMS

    @TRANSFORMS.register_module(force=True)
    class SevenIsTwo:
        pass

    relabel(tmp_path, 'train', with_seven)
    streets.train_dataloader.dataset.pipeline.append(dict(type='SevenIsTwo'))
    try:
        assert kinds(streets) == {'values': ('warning', 2)}
    finally:
        TRANSFORMS.module_dict.pop('SevenIsTwo')


def test_of_many_label_images_a_sample_is_read(streets, tmp_path):
    for i in range(2, 250):
        for kind, suffix in (('img', 'jpg'), ('ann', 'png')):
            link = tmp_path / kind / 'train' / f'{i}.{suffix}'
            link.symlink_to(link.with_name(f'1.{suffix}'))
    save(tmp_path / 'ann/train/1.png', with_seven(label()))
    message = r'but 99 of the 100 that were read \(of 250\) do not'
    with pytest.raises(ValueError, match=message):
        check_data(streets, ('train',))
    assert kinds(streets, track=iter) == {'values': ('error', 249)}


def test_data_sets_inside_others_are_checked(streets, tmp_path):
    relabel(tmp_path, 'train', with_seven)
    inner = streets.train_dataloader.dataset
    streets.train_dataloader.dataset = dict(
        type='RepeatDataset', times=2, dataset=dict(type='ConcatDataset', datasets=[inner])
    )
    with pytest.raises(ValueError, match='of train_dataloader.dataset.dataset.datasets.0 must'):
        check_data(streets, ('train',))


def test_16_bits_of_images_are_cut(streets, tmp_path):
    for split in ('train', 'val'):
        streets[f'{split}_dataloader'].dataset.img_suffix = '.png'
        for i in range(2):
            save(tmp_path / 'img' / split / f'{i}.png', np.full(SIZE, 900, np.uint16))
            (tmp_path / 'img' / split / f'{i}.jpg').unlink()
    found = list(find_faults(streets, ('train', 'val')))
    assert [(f.kind, f.level, f.count) for f in found] == [('more than 8 bits', 'warning', 2)] * 2
    for split in ('train', 'val'):
        streets[f'{split}_dataloader'].dataset.pipeline[0].color_type = 'unchanged'
    assert kinds(streets) == {}


@pytest.mark.parametrize(
    'chosen', [dict(backend_args=dict(backend='lmdb')), dict(file_client_args=dict(backend='lmdb'))]
)
def test_images_and_label_images_in_another_store_are_not_looked_for(streets, tmp_path, chosen):
    shutil.rmtree(tmp_path / 'img/train')
    (tmp_path / 'list.txt').write_text('0\n1\n')
    dataset = streets.train_dataloader.dataset
    dataset.ann_file = 'list.txt'
    dataset.pipeline[0].update(chosen)
    # Label images on disk are checked in any case.
    assert kinds(streets, ('train',)) == {}
    assert kinds(streets, ('train',), iter) == {'remote': ('warning', 1)}
    (tmp_path / 'ann/train/1.png').unlink()
    assert kinds(streets, ('train',)) == {'missing': ('error', 1)}
    shutil.rmtree(tmp_path / 'ann/train')
    dataset.pipeline[1].update(chosen)
    assert kinds(streets, ('train',)) == {}
    # Files on disk may be chosen by name, too.
    dataset.pipeline[0] = dict(type='LoadImageFromFile', file_client_args=dict(backend='disk'))
    assert kinds(streets, ('train',)) == {'missing': ('error', 2)}


def test_a_list_is_one_file(streets):
    streets.train_dataloader.dataset.ann_file = ['train.txt', 'val.txt']
    with pytest.raises(ValueError, match=r"ann_file must be the path of one file, got \['train.t"):
        check_data(streets, ('train',))


def test_links_of_folders_are_followed(streets, tmp_path):
    for kind in ('img', 'ann'):
        (tmp_path / kind / 'train').rename(tmp_path / f'{kind}_city')
        (tmp_path / kind / 'train').mkdir()
        (tmp_path / kind / 'train' / 'city').symlink_to(tmp_path / f'{kind}_city')
    assert kinds(streets) == {}
    (tmp_path / 'img_city/1.jpg').rename(tmp_path / 'img_city/1.JPG')
    assert kinds(streets) == {'other suffix': ('warning', 1)}


@pytest.mark.parametrize(
    ('lines', 'has'),
    [('0\n1\n\n', 'line 3 of 3 is blank'), ('\n', 'line 1 of 1'), ('', 'it is empty')],
)
def test_blank_lines_of_a_list_are_named(streets, tmp_path, lines, has):
    dataset = streets.train_dataloader.dataset
    dataset.ann_file = 'train.txt'
    (tmp_path / 'train.txt').write_text(lines)
    with pytest.raises(ValueError, match=f'ann_file {tmp_path}/train.txt must name .*, but {has}'):
        check_data(streets, ('train',))
    (tmp_path / 'train.txt').write_text('0\n1\n')
    assert check_data(streets, ('train',)) == []
