import pytest
from mmengine.config import Config

from mmsecvit.datasets.unlabeled import find_missing_labels

LOAD, LABELS = dict(type='LoadImageFromFile'), dict(type='LoadAnnotations')


def messages(scope, dataset, evaluator):
    pytest.importorskip(scope)
    cfg = Config(
        dict(
            default_scope=scope,
            test_dataloader=dict(dataset=dataset),
            test_evaluator=evaluator,
        )
    )
    return [finding.message for finding in find_missing_labels(cfg, 'test')]


def test_segmenters_without_label_images_only_predict():
    dataset = dict(type='ADE20KDataset', data_prefix=dict(img_path='img'), pipeline=[LOAD])
    (message,) = messages('mmseg', dataset, [dict(type='IoUMetric')])
    assert message == (
        'test_evaluator.0 (IoUMetric) needs labels, but test_dataloader.dataset has none '
        '(data_prefix has no seg_map_path): set format_only=True and an output_dir, which writes '
        'the predictions'
    )
    writes = dict(type='mmseg.IoUMetric', format_only=True, output_dir='out')
    assert messages('mmseg', dataset, writes) == []
    (message,) = messages('mmseg', dataset | dict(pipeline=[LOAD, LABELS]), writes)
    assert message.startswith('test_dataloader.dataset.pipeline.1 loads labels, but')
    labeled = dataset | dict(data_prefix=dict(img_path='img', seg_map_path=''))
    assert messages('mmseg', labeled, dict(type='IoUMetric')) == []
    assert messages('mmseg', dict(type='BaseSegDataset', data_root='x'), writes) == []


def test_classifiers_without_labels_only_predict():
    for dataset, why in (
        (dict(type='ImageNet', split='test'), "split='test'"),
        (dict(type='CustomDataset', with_label=False), 'with_label=False'),
    ):
        dataset = dict(dataset, data_root='x')
        (message,) = messages('mmpretrain', dataset, dict(type='Accuracy'))
        assert message.startswith('test_evaluator (Accuracy) needs labels, but test_dataloader.da')
        assert why in message
        assert messages('mmpretrain', dataset, dict(type='DumpResults', out_file_path='x')) == []
    labeled = dict(type='CustomDataset', data_root='x', data_prefix='test')
    assert messages('mmpretrain', labeled, dict(type='Accuracy')) == []


def test_data_sets_of_ones_own_may_have_labels_from_anywhere():
    class Own:
        pass

    dataset = dict(type=Own, data_prefix=dict(img_path='img'), pipeline=[LOAD, LABELS])
    assert messages('mmseg', dataset, dict(type='IoUMetric')) == []
