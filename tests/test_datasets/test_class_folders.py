import shutil
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmsecvit.datasets import check_data
from mmsecvit.datasets.checks import find_faults

pytest.importorskip('mmpretrain')
NAMES = ('daisy', 'rose', 'tulip')


@pytest.fixture
def flowers(tmp_path) -> Config:
    """A classifier's config, with an image in each of three folders of classes."""
    cfg = Config(dict(default_scope='mmpretrain', model=dict(head=dict(num_classes=3))))
    for split in ('train', 'val'):
        dataset = dict(type='CustomDataset', data_root=str(tmp_path), data_prefix=split)
        cfg[f'{split}_dataloader'] = dict(dataset=dataset)
        for name in NAMES:
            make_image(tmp_path / split / name / 'x.jpg')
    return cfg


def make_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(path)


def set_names(cfg: Config, names) -> None:
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].dataset.metainfo = dict(classes=names)


def find_kinds(cfg: Config) -> list[tuple[str, str]]:
    return [(finding.kind, finding.level) for finding in find_faults(cfg, ('train', 'val'))]


def test_good_folders_have_no_faults(flowers):
    assert find_kinds(flowers) == []
    for names in (NAMES, ('Daisy', 'Rose', 'Tulip'), ('a small one', 'one with thorns', 'another')):
        set_names(flowers, names)
        assert find_kinds(flowers) == []


@pytest.mark.parametrize('kind', ['CustomDataset', 'ImageNet'])
def test_folders_of_other_splits_must_be_those_of_training(flowers, tmp_path, kind):
    set_names(flowers, NAMES)
    for split in ('train', 'val'):
        flowers[f'{split}_dataloader'].dataset.type = kind
    (tmp_path / 'val/daisy').rename(tmp_path / 'val/violet')
    message = (
        rf'^val_dataloader.dataset.data_prefix must have the folders of {tmp_path}/train '
        r'\(train_dataloader.dataset\), since the order of the folders numbers the classes, but '
        rf"{tmp_path}/val has no 'daisy' and has 'violet' in addition$"
    )
    with pytest.raises(ValueError, match=message):
        check_data(flowers, ('train', 'val'))
    assert check_data(flowers, ('train',)) == []


def test_a_folder_that_is_missing_moves_the_numbers_of_the_next(flowers, tmp_path):
    shutil.rmtree(tmp_path / 'val/daisy')
    with pytest.raises(ValueError, match="val has no 'daisy'"):
        check_data(flowers, ('val',))
    make_image(tmp_path / 'val/daisy/x.jpg')
    # Without the last one, the others keep theirs.
    shutil.rmtree(tmp_path / 'val/tulip')
    assert find_kinds(flowers) == [('number of folders', 'warning')]
    # Where training is elsewhere, nothing is known.
    flowers.train_dataloader.dataset.data_root = 'elsewhere'
    assert [level for _, level in find_kinds(flowers)] == ['error', 'warning']


def test_names_in_another_order_than_the_folders_are_refused(flowers, tmp_path):
    set_names(flowers, ('Tulip', 'rose', 'daisy'))
    message = (
        '^train_dataloader.dataset.metainfo.classes must be in the alphabetical order of the '
        f'folders in {tmp_path}/train, which number the classes, but it has '
        "'Tulip for the folder daisy', 'daisy for the folder tulip'$"
    )
    with pytest.raises(ValueError, match=message):
        check_data(flowers, ('train',))
    dataset = flowers.train_dataloader.dataset
    del dataset['metainfo']
    dataset.classes = ['tulip', 'rose', 'daisy']
    with pytest.raises(ValueError, match='in the alphabetical order'):
        check_data(flowers, ('train',))
    # A file of names is meant.
    dataset.classes = str(tmp_path / 'names.txt')
    (tmp_path / 'names.txt').write_text('\n'.join(NAMES))
    assert check_data(flowers, ('train',)) == []


def test_numbers_are_sorted_as_words(flowers, tmp_path):
    flowers.model.head.num_classes = 11
    for split in ('train', 'val'):
        shutil.rmtree(tmp_path / split)
        for i in range(11):
            make_image(tmp_path / split / str(i) / 'x.jpg')
    set_names(flowers, tuple(map(str, range(11))))
    with pytest.raises(ValueError, match="'2 for the folder 10', '3 for the folder 2'"):
        check_data(flowers, ('train',))


@pytest.mark.parametrize('name', ['.ipynb_checkpoints', '__MACOSX'])
def test_folders_that_are_no_classes_are_named(flowers, tmp_path, name):
    make_image(tmp_path / 'train' / name / 'x.jpg')
    message = f'mmpretrain takes {tmp_path}/train/{name} for a class, too: remove the folder$'
    with pytest.raises(ValueError, match=message):
        check_data(flowers, ('train',))


def test_the_number_of_folders_is_that_of_names_and_outputs(flowers, tmp_path):
    flowers.model.head.num_classes = 2
    message = rf'^model.head.num_classes must be the number of folders in {tmp_path}/train .* got 2'
    with pytest.raises(ValueError, match=message):
        check_data(flowers, ('train',))
    # More outputs do no harm.
    flowers.model.head.num_classes = 4
    assert find_kinds(flowers) == [('number of folders', 'warning')] * 2
    set_names(flowers, ('daisy', 'rose', 'tulip', 'violet'))
    message = 'metainfo.classes must have a name for each folder .* which has 3, .* it has 4, '
    with pytest.raises(ValueError, match=message):
        check_data(flowers, ('train',))
    # ImageNet has a thousand names of its own.
    dataset = flowers.train_dataloader.dataset
    del dataset['metainfo']
    dataset.type = 'ImageNet'
    with pytest.raises(ValueError, match='which has 3, .* it has 1000, '):
        check_data(flowers, ('train',))


@pytest.fixture
def listed(flowers, tmp_path) -> Config:
    """The images of `flowers`, of which a list has the paths and labels."""
    dataset = flowers.train_dataloader.dataset
    dataset.update(ann_file='train.txt', data_prefix='train')
    set_names(flowers, NAMES)
    write_list(tmp_path, [f'{name}/x.jpg {i}' for i, name in enumerate(NAMES)])
    return flowers


def write_list(root: Path, lines: list[str]) -> None:
    (root / 'train.txt').write_text('\n'.join(lines))


def test_a_good_list_has_no_faults(listed):
    assert check_data(listed, ('train', 'val')) == []


@pytest.mark.parametrize(
    ('labels', 'words'),
    [
        ((1, 2, 3), "labels from 0 to 2, .* 3 lines .* 1 have .* 3'; count the classes from 0$"),
        ((0, 2, -1), "labels from 0 to 2, .* 1 have others, line 3: 'tulip/x.jpg -1'$"),
        (('', 1, 2), "a path, a space and the number .* 1 have not, line 1: 'daisy/x.jpg '$"),
        (('daisy', 1, 2), "1 have not, line 1: 'daisy/x.jpg daisy'$"),
    ],
)
def test_labels_of_a_list_are_compared_with_the_classes(listed, tmp_path, labels, words):
    lines = [f'{name}/x.jpg {label}' for name, label in zip(NAMES, labels, strict=True)]
    write_list(tmp_path, lines)
    with pytest.raises(ValueError, match=f'^train_dataloader.dataset.ann_file must have .*{words}'):
        check_data(listed, ('train',))


def test_a_blank_line_of_a_list_is_named(listed, tmp_path):
    write_list(tmp_path, [f'{name}/x.jpg {i}' for i, name in enumerate(NAMES)] + ['', ''])
    with pytest.raises(ValueError, match='of 4 lines of .* 1 have not, line 4 is blank$'):
        check_data(listed, ('train',))


def test_classes_without_images_in_a_list_are_suspicious(listed, tmp_path):
    write_list(tmp_path, ['daisy/x.jpg 0', 'tulip/x.jpg 2'])
    (warning,) = check_data(listed, ('train',))
    assert warning == (
        f"{tmp_path}/train.txt (train_dataloader.dataset.ann_file) has no image of 'rose'"
    )


def test_a_list_is_one_file_with_lines(listed, tmp_path):
    write_list(tmp_path, [])
    with pytest.raises(ValueError, match='a line for each image, but .*/train.txt is empty$'):
        check_data(listed, ('train',))
    listed.train_dataloader.dataset.ann_file = ['train.txt']
    with pytest.raises(ValueError, match=r"ann_file must be the path of one file, got \['train.t"):
        check_data(listed, ('train',))


def test_images_and_lists_that_do_not_exist_are_named(listed, tmp_path):
    write_list(tmp_path, ['daisy/x.jpg 0', 'daisy/y.jpg 0'])
    message = 'ann_file must name files that exist, but 1 of 2 do not, .*/train/daisy/y.jpg'
    with pytest.raises(FileNotFoundError, match=message):
        check_data(listed, ('train',))
    (tmp_path / 'train.txt').unlink()
    message = f'^train_dataloader.dataset.ann_file must exist, but {tmp_path}/train.txt does not$'
    with pytest.raises(FileNotFoundError, match=message):
        check_data(listed, ('train',))


def test_a_data_set_without_labels_needs_no_folders(flowers, tmp_path):
    make_image(tmp_path / 'test/x.jpg')
    dataset = dict(type='CustomDataset', data_root=str(tmp_path), data_prefix='test')
    flowers.test_dataloader = dict(dataset=dict(with_label=False, **dataset))
    assert check_data(flowers, ('test',)) == []


def test_classes_of_ones_own_are_checked_as_their_base(flowers, tmp_path):
    from mmpretrain.datasets import CustomDataset

    class Flowers(CustomDataset):
        METAINFO = dict(classes=('tulip', 'rose', 'daisy'))

        def __init__(self, data_root, data_prefix, **kwargs):
            super().__init__(data_root=data_root, data_prefix=data_prefix, **kwargs)

    class Strict(CustomDataset):
        def __init__(self, data_root, data_prefix):
            super().__init__(data_root=data_root, data_prefix=data_prefix)

    flowers.train_dataloader.dataset.type = Flowers
    with pytest.raises(ValueError, match='in the alphabetical order'):
        check_data(flowers, ('train',))
    flowers.train_dataloader.dataset.type = Strict
    assert check_data(flowers, ('train',)) == []


def test_images_of_a_list_in_another_store_are_not_looked_for(listed, tmp_path):
    shutil.rmtree(tmp_path / 'train')
    loader = dict(type='LoadImageFromFile', backend_args=dict(backend='lmdb'))
    listed.train_dataloader.dataset.pipeline = [loader]
    assert check_data(listed, ('train',)) == []
    (finding,) = find_faults(listed, ('train',), iter)
    assert (finding.kind, finding.level) == ('remote', 'warning')


def test_a_class_without_images_is_refused_only_in_training(flowers, tmp_path):
    (tmp_path / 'val/daisy/x.jpg').unlink()
    (warning,) = check_data(flowers, ('train', 'val'))
    option = 'val_dataloader.dataset.data_prefix'
    assert warning == f'{tmp_path}/val/daisy ({option}) has no images: its class is not scored'
    (tmp_path / 'train/daisy/x.jpg').unlink()
    with pytest.raises(ValueError, match='there are none in .*train/daisy: fill or remove'):
        check_data(flowers, ('train',))
    # Without any image, no data set can be built.
    for name in NAMES[1:]:
        (tmp_path / 'val' / name / 'x.jpg').unlink()
    with pytest.raises(ValueError, match='there are none in .*val/daisy: fill or remove'):
        check_data(flowers, ('val',))


def test_labels_that_no_head_uses_may_be_any(flowers, tmp_path):
    dataset = flowers.train_dataloader.dataset
    dataset.update(type='ImageNet', ann_file='train.txt')
    write_list(tmp_path, ['daisy/x.jpg 0', 'rose/x.jpg 20000'])
    flowers.model.head.num_classes = 1000
    with pytest.raises(ValueError, match='must have labels from 0 to 999'):
        check_data(flowers, ('train',))
    del flowers.model.head['num_classes']  # as that of a masked autoencoder
    assert check_data(flowers, ('train',)) == []


def test_a_file_where_a_folder_is_meant_is_named(flowers, tmp_path):
    write_list(tmp_path, [])
    dataset = flowers.train_dataloader.dataset
    dataset.data_prefix = 'train.txt'
    message = f'train_dataloader.dataset.data_prefix must be a folder, but {tmp_path}/train.txt is'
    with pytest.raises(ValueError, match=f'^{message} a file'):
        check_data(flowers, ('train',))
    dataset.update(data_prefix='train', ann_file='train')
    with pytest.raises(ValueError, match=f'ann_file must be a file, but {tmp_path}/train is'):
        check_data(flowers, ('train',))


def test_images_with_suffixes_that_are_not_looked_at_are_named(flowers, tmp_path):
    for i in range(5):
        make_image(tmp_path / f'train/rose/{i}.webp')
    (warning,) = check_data(flowers, ('train', 'val'))
    assert warning == (
        f'train_dataloader.dataset leaves out 5 images in {tmp_path}/train, whose names do not end '
        'with one of its extensions, .bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif: '
        "'rose/0.webp', 'rose/1.webp', 'rose/2.webp', 'rose/3.webp', 'rose/4.webp'"
    )
    flowers.train_dataloader.dataset.extensions = ('.jpg', '.webp')
    assert check_data(flowers, ('train', 'val')) == []


def test_links_of_folders_are_followed(flowers, tmp_path):
    (tmp_path / 'train/rose').rename(tmp_path / 'roses')
    (tmp_path / 'train/rose').mkdir()
    (tmp_path / 'train/rose/red').symlink_to(tmp_path / 'roses')
    assert find_kinds(flowers) == []
