"""Test what is found in data sets in PASCAL VOC's format."""

import shutil

import pytest
from mmengine.config import Config

from mmsecvit.datasets import check_data

datasets = pytest.importorskip('mmdet.datasets')
OBJECT = (
    '<object><name>{}</name><bndbox><xmin>8</xmin><ymin>19</ymin><xmax>48</xmax><ymax>59</ymax>'
    '</bndbox></object>'
)


def write(root, names=('balloon', 'kite'), edit=lambda text: text) -> None:
    """Write two XML files, one object of each name in each, of which the second is edited."""
    (root / 'Annotations').mkdir(parents=True, exist_ok=True)
    objects = ''.join(map(OBJECT.format, names))
    text = f'<annotation><size><width>128</width><height>96</height></size>{objects}</annotation>'
    (root / 'Annotations/0.xml').write_text(text)
    (root / 'Annotations/1.xml').write_text(edit(text))
    (root / 'train.txt').write_text('0\n1\n')


@pytest.fixture
def cfg(tmp_path) -> Config:
    write(tmp_path)
    dataset = dict(
        type='VOCDataset',
        data_root=str(tmp_path),
        ann_file='train.txt',
        data_prefix=dict(sub_data_root=''),
        metainfo=dict(classes=('balloon', 'kite')),
        pipeline=[dict(type='LoadImageFromFile')],
    )
    loader = dict(dataset=dict(type='RepeatDataset', times=3, dataset=dataset))
    tested = dict(dataset=dict(dataset, test_mode=True))
    return Config(dict(default_scope='mmdet', train_dataloader=loader, test_dataloader=tested))


def test_nothing_is_found_in_right_files(cfg, tmp_path):
    assert check_data(cfg, ('train', 'test')) == []
    write(tmp_path, edit=lambda text: text.replace('19<', '19.5<'))
    assert check_data(cfg, ('train', 'test')) == []
    write(tmp_path, edit=lambda text: '<annotation></annotation>')
    assert check_data(cfg, ('train', 'test')) == []
    write(tmp_path, ())
    assert check_data(cfg, ('test',)) == []


def test_names_that_are_no_class_are_counted(cfg, tmp_path):
    write(tmp_path, ('balloon', 'tree', 'tree'))
    (message,) = check_data(cfg, ('train',))
    setting = 'train_dataloader.dataset.dataset'
    assert message == (
        f'{setting}.metainfo.classes lacks the names of 4 of 6 objects in the XML files of '
        f'{setting}.ann_file {tmp_path}/train.txt, which are '
        "left out: 'tree'"
    )


@pytest.mark.parametrize('split', ['train', 'test'])
def test_a_split_without_an_object_of_the_classes_is_refused(cfg, tmp_path, split):
    write(tmp_path, ('Balloon', 'Kite'))
    message = "metainfo.classes must have .* are 'Balloon', 'Kite', got 'balloon', 'kite'$"
    with pytest.raises(ValueError, match=message):
        check_data(cfg, (split,))


def test_training_needs_an_object_in_one_of_its_data_sets(cfg, tmp_path):
    write(tmp_path, ())
    with pytest.raises(ValueError, match=r'ann_file .*train.txt must have objects$'):
        check_data(cfg, ('train',))
    first = cfg.train_dataloader.dataset.dataset
    second = dict(first, data_root=str(tmp_path / 'second'))
    cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[first, second])
    for names in ((), ('tree',)):
        write(tmp_path, names)
        write(tmp_path / 'second', ('kite',))
        assert len(check_data(cfg, ('train',))) == 1
        write(tmp_path / 'second', names)
        with pytest.raises(ValueError, match='datasets.0.* must have .*1 more'):
            check_data(cfg, ('train',))


@pytest.mark.parametrize(
    ('edit', 'reason'),
    [
        (lambda text: text[:60], 'unclosed token|no element'),
        (lambda text: '', 'no element found'),
        (lambda text: text.replace('<xmin>8</xmin>', ''), 'a part of an object or of the size'),
        (lambda text: text.replace('<name>kite</name>', ''), 'a part of an object or of the size'),
        (lambda text: text.replace('<width>128</width>', ''), 'a part of an object or of the size'),
        (lambda text: text.replace('>128<', '>wide<'), "'wide'"),
    ],
)
def test_damaged_files_are_named(cfg, tmp_path, edit, reason):
    write(tmp_path, edit=edit)
    message = rf'train.txt must name XML .* but 1 of 2 are not: {tmp_path}/Annotations/1.xml \(.*'
    with pytest.raises(ValueError, match=f'{message}({reason})'):
        check_data(cfg, ('train',))


def test_missing_files_are_named(cfg, tmp_path):
    (tmp_path / 'Annotations/1.xml').unlink()
    with pytest.raises(FileNotFoundError, match='but 1 of 2 do not, the first is .*1.xml'):
        check_data(cfg, ('train',))
    shutil.rmtree(tmp_path / 'Annotations')
    with pytest.raises(FileNotFoundError, match='but 2 of 2 do not'):
        check_data(cfg, ('train',))


def test_inverted_boxes_are_said(cfg, tmp_path):
    write(tmp_path, edit=lambda text: text.replace('<xmin>8', '<xmin>60'))
    (message,) = check_data(cfg, ('train',))
    assert message.endswith(
        f'names 1 XML files with an xmin or ymin above xmax or ymax, such as {tmp_path}'
        '/Annotations/1.xml'
    )


def test_readers_of_ones_own_are_left_alone(cfg, tmp_path):
    class MyDataset(datasets.XMLDataset):
        def parse_data_info(self, img_info):
            return img_info

    write(tmp_path, ('tree',))
    cfg.test_dataloader.dataset.type = MyDataset
    assert check_data(cfg, ('test',)) == []
