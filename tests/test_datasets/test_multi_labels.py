"""Files of several labels for each image: each test states what a file has and what is said."""

import json

import pytest
from mmengine.config import Config

from mmsecvit.datasets import check_data

pytest.importorskip('mmpretrain')
NAMES = ('daisy', 'rose', 'tulip')


def check(root, labels: list, classes: list | None = None) -> list[str]:
    images = [dict(img_path=f'{i}.jpg', gt_label=label) for i, label in enumerate(labels)]
    metainfo = dict(classes=classes) if classes else {}
    (root / 'multi.json').write_text(json.dumps(dict(metainfo=metainfo, data_list=images)))
    dataset = dict(type='MultiLabelDataset', data_root=str(root), ann_file='multi.json')
    dataset.update(metainfo=dict(classes=NAMES), pipeline=[])
    head = dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=8)
    cfg = Config(dict(default_scope='mmpretrain', model=dict(head=head)))
    cfg.train_dataloader = dict(dataset=dataset)
    return check_data(cfg, ('train',))


def test_numbers_of_classes_are_taken(tmp_path):
    assert check(tmp_path, [[0, 1], [2], [], 1], list(NAMES)) == []
    assert check(tmp_path, [[0, 1], [1, 0]]) == []
    assert check(tmp_path, [[0.0, 0.5, 1.0]]) == []


@pytest.mark.parametrize('label', [[0, 3], [-1], 3, ['rose']])
def test_what_is_no_class_is_refused(tmp_path, label):
    message = 'from 0 to 2 as gt_label, but in .*multi.json, 1 of 2 images have others: 1.jpg has'
    with pytest.raises(ValueError, match=message):
        check(tmp_path, [[0], label])


def test_vectors_are_suspected(tmp_path):
    (warning,) = check(tmp_path, [[0, 0, 1], [0, 1, 0]])
    assert warning.endswith(
        'values of 0 and 1, as in [0, 0, 1]: these are read as the classes 0 and 1, not as a vector'
    )
    assert check(tmp_path, [[0, 0, 1], [2]]) == []


def test_classes_in_another_order_than_the_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="not in the same places: 'tulip', 'daisy'$"):
        check(tmp_path, [[0]], ['tulip', 'rose', 'daisy'])
