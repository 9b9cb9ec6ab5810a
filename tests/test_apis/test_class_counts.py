import re

import pytest
from mmengine.config import Config

from mmsecvit.apis.class_counts import check_class_counts
from mmsecvit.apis.config import ConfigError

CLASSES = ('cat', 'dog')


def make_config(scope: str, model: dict, dataset: dict, **others) -> Config:
    """Return a config of one data set, which training and validation share."""
    pytest.importorskip(scope)
    dataset = dict(dict(data_root='data', metainfo=dict(classes=CLASSES)), **dataset)
    loaders = {f'{split}_dataloader': dict(dataset=dataset) for split in ('train', 'val')}
    return Config(dict(default_scope=scope, model=model, **loaders, **others))


def detector(model: dict, **dataset) -> Config:
    return make_config('mmdet', model, dict(dict(type='CocoDataset'), **dataset))


def segmenter(model: dict, **dataset) -> Config:
    return make_config('mmseg', model, dict(dict(type='BaseSegDataset'), **dataset))


def classifier(model: dict, dataset: dict | None = None, **others) -> Config:
    dataset = dict(dict(type='CustomDataset'), **(dataset or {}))
    return make_config('mmpretrain', model, dataset, **others)


def refusal(cfg: Config) -> str:
    with pytest.raises(ConfigError) as error:
        check_class_counts(cfg, ('train', 'val'))
    return str(error.value)


def test_a_detection_head_of_another_number_of_classes_is_named():
    message = (
        'model.bbox_head.num_classes must be the number of classes in '
        'train_dataloader.dataset.metainfo.classes, 2, but is 80'
    )
    assert refusal(detector(dict(bbox_head=dict(num_classes=80)))) == message
    assert check_class_counts(detector(dict(bbox_head=dict(num_classes=2))), ('train',)) == []
    # A cascade has a list of heads, and a semi-supervised detector has a detector inside.
    heads = [dict(num_classes=2), dict(num_classes=3)]
    assert refusal(detector(dict(roi_head=dict(bbox_head=heads)))).endswith('2, but is 3')
    inside = dict(type='SoftTeacher', detector=dict(bbox_head=dict(num_classes=3)))
    assert refusal(detector(inside)).startswith('model.detector.bbox_head.num_classes must')


@pytest.mark.parametrize('number', [3.0, 'three'])
def test_a_number_of_classes_is_an_integer(number):
    message = f'num_classes must be an integer, got {number!r}'
    assert refusal(detector(dict(bbox_head=dict(num_classes=number)))) == (
        f'model.bbox_head.{message}'
    )
    assert refusal(classifier(dict(head=dict(num_classes=number)))) == f'model.head.{message}'


def test_data_sets_inside_others_are_compared():
    cfg = detector(dict(bbox_head=dict(num_classes=3)))
    inner = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=inner)
    assert 'train_dataloader.dataset.dataset.metainfo.classes, 2' in refusal(cfg)


def test_the_classes_of_the_data_sets_type_are_compared():
    message = refusal(detector(dict(bbox_head=dict(num_classes=2)), metainfo=None))
    assert message == (
        'model.bbox_head.num_classes must be the number of classes in '
        'train_dataloader.dataset (CocoDataset without metainfo.classes), 80, but is 2'
    )
    cfg = detector(dict(bbox_head=dict(num_classes=2)), type='CheckedCocoDataset', metainfo=None)
    assert '(CheckedCocoDataset without metainfo.classes), 80, but is 2' in refusal(cfg)
    # Label images may have fewer values than the type has names.
    cfg = segmenter(dict(decode_head=dict(num_classes=2)), type='ADE20KDataset', metainfo=None)
    (warning,) = check_class_counts(cfg, ('train',))
    assert warning == (
        'model.decode_head.num_classes should be the number of classes in '
        'train_dataloader.dataset (ADE20KDataset without metainfo.classes), 150, '
        'but is 2.'
    )


def test_a_mask_head_may_be_agnostic_or_have_more_classes():
    def check(**mask_head):
        cfg = detector(dict(roi_head=dict(mask_head=mask_head)))
        return check_class_counts(cfg, ('train',))

    assert check(num_classes=1, class_agnostic=True) == []
    assert check(num_classes=80)[0].endswith('2, but is 80.')
    with pytest.raises(ConfigError, match=r'^model.roi_head.mask_head.num_classes must be .* 1$'):
        check(num_classes=1)


def test_a_head_that_looks_for_edges_has_classes_of_its_own():
    heads = [dict(type='STDCHead', num_classes=2), dict(type='FCNHead', num_classes=3)]
    cfg = segmenter(dict(auxiliary_head=heads[:1]), metainfo=dict(classes=('a', 'b', 'c')))
    assert check_class_counts(cfg, ('train',)) == []
    cfg.model.auxiliary_head = [*heads, dict(type='FCNHead', num_classes=2)]
    assert refusal(cfg).endswith('3, but is 2')


def test_videos_have_more_classes_than_trackers():
    tracker = dict(detector=dict(bbox_head=dict(num_classes=1)))
    assert (
        check_class_counts(detector(tracker, type='MOTChallengeDataset', metainfo=None), ['train'])
        == []
    )


def test_things_and_stuff_are_counted_apart():
    head = dict(num_things_classes=80, num_stuff_classes=53)
    panoptic = dict(type='CocoPanopticDataset', metainfo=None)
    cfg = detector(dict(panoptic_head=head, panoptic_fusion_head=head), **panoptic)
    assert check_class_counts(cfg, ('train',)) == []
    # Boxes and masks are of things.
    cfg.model.bbox_head = dict(num_classes=80)
    assert check_class_counts(cfg, ('train',)) == []
    cfg.model.panoptic_fusion_head.num_stuff_classes = 54
    assert 'panoptic_fusion_head.num_stuff_classes must be the number of classes of stuff' in (
        refusal(cfg)
    )
    # Instances alone are things.
    cfg = detector(dict(panoptic_head=dict(num_things_classes=80, num_stuff_classes=0)))
    message = refusal(cfg)
    assert message.startswith('model.panoptic_head.num_things_classes must be')
    assert message.endswith('2, got 80')


def test_data_sets_that_give_names_to_the_network_have_no_number():
    cfg = detector(dict(bbox_head=dict(num_classes=256)), return_classes=True)
    assert check_class_counts(cfg, ('train',)) == []


@pytest.mark.parametrize('make', [detector, segmenter])
def test_a_string_of_classes_is_refused(make):
    message = (
        'train_dataloader.dataset.metainfo.classes must be a list of names, or a file with a name '
        "on each line, got the string 'road'; one class is written as ['road']"
    )
    assert refusal(make({}, metainfo=dict(classes='road'))) == message


def test_classes_of_a_classifier_may_be_an_argument():
    cfg = classifier({}, dict(classes='road', metainfo=None))
    assert refusal(cfg).startswith('train_dataloader.dataset.classes must be a list of names')


def test_a_file_of_classes_is_counted(tmp_path):
    path = tmp_path / 'classes.txt'
    path.write_text('cat\ndog\ncow\n')
    metainfo = dict(classes=str(path))
    cfg = detector(dict(bbox_head=dict(num_classes=3)), metainfo=metainfo)
    assert check_class_counts(cfg, ('train',)) == []
    cfg.model.bbox_head.num_classes = 2
    assert refusal(cfg).endswith('3, but is 2')


def test_splits_have_classes_in_one_order():
    cfg = segmenter({})
    cfg.val_dataloader = dict(
        dataset=dict(type='BaseSegDataset', data_root='x', metainfo=dict(classes=CLASSES[::-1]))
    )
    assert refusal(cfg) == (
        'val_dataloader.dataset.metainfo.classes must have the order of '
        "train_dataloader.dataset.metainfo.classes, ['cat', 'dog'], got ['dog', 'cat']"
    )
    # Other names may be of another data set with the same labels.
    cfg.val_dataloader.dataset.metainfo.classes = ('kitten', 'puppy')
    assert check_class_counts(cfg, ('train', 'val')) == []


SOFTMAX = dict(type='CrossEntropyLoss', use_sigmoid=False)
SIGMOID = dict(type='CrossEntropyLoss', use_sigmoid=True)


def test_softmax_needs_two_channels():
    def check(loss, num_classes=1, **head):
        head = dict(head, num_classes=num_classes, loss_decode=loss)
        names = ('crack', 'rest')[:num_classes]
        model = dict(decode_head=[head])
        check_class_counts(segmenter(model, metainfo=dict(classes=names)), ('train',))

    for loss in (SOFTMAX, [SOFTMAX], None):
        with pytest.raises(ConfigError, match='^model.decode_head.num_classes must be at least 2'):
            check(loss)
    with pytest.raises(ConfigError, match='got 2 with one output'):
        check(SOFTMAX, num_classes=2, out_channels=1)
    check(SIGMOID)
    check([SOFTMAX, dict(type='DiceLoss')])
    check(SIGMOID, num_classes=2, out_channels=1)
    check(SOFTMAX, num_classes=2)


@pytest.mark.parametrize('head', [dict(num_classes=1), dict(num_classes=1, out_channels=1)])
def test_one_output_with_a_sigmoid_tells_two_classes_apart(head):
    head = dict(head, loss_decode=SIGMOID)
    assert check_class_counts(segmenter(dict(decode_head=head)), ('train', 'val')) == []
    cfg = segmenter(dict(decode_head=head), metainfo=dict(classes=('a', 'b', 'c')))
    assert refusal(cfg).endswith('3, but is 1')
    cfg = segmenter(dict(decode_head=dict(head, loss_decode=SOFTMAX)))
    assert 'must be at least 2 with softmax' in refusal(cfg)


def test_a_classification_head_has_an_output_for_each_class():
    cfg = classifier(dict(head=dict(num_classes=1)))
    assert refusal(cfg) == (
        'model.head.num_classes must be the number of classes in '
        'train_dataloader.dataset.metainfo.classes, 2, but is 1'
    )
    cfg.model.head.num_classes = 1000
    (warning,) = check_class_counts(cfg, ('train',))
    assert warning.startswith('model.head.num_classes should be')


MIXUP = dict(augments=[dict(type='Mixup', alpha=0.8)])


def test_the_preprocessor_that_makes_vectors_has_the_heads_number():
    cfg = classifier(
        dict(head=dict(num_classes=2), train_cfg=MIXUP), data_preprocessor=dict(num_classes=1000)
    )
    message = (
        'data_preprocessor.num_classes must be that of model.head, 2, since it makes vectors of '
        'the labels, got 1000'
    )
    assert refusal(cfg) == message
    # Without mixing, the number is not used.
    cfg.model.train_cfg = None
    assert check_class_counts(cfg, ('train', 'val')) == []
    cfg.data_preprocessor.to_onehot = True
    assert refusal(cfg) == message
    # The model's own comes first.
    cfg.model.data_preprocessor = dict(num_classes=3, batch_augments=MIXUP)
    assert refusal(cfg).startswith('model.data_preprocessor.num_classes must be')


@pytest.mark.parametrize('index', ['', '.0'])
def test_no_metric_looks_at_more_classes_than_there_are(index):
    metric = dict(type='Accuracy', topk=(1, 5))
    cfg = classifier(dict(head=dict(num_classes=2)), val_evaluator=[metric] if index else metric)
    assert refusal(cfg) == re.sub(
        ' +',
        ' ',
        f'val_evaluator{index}.topk must be at most model.head.num_classes, 2, got (1, 5)',
    )
    assert check_class_counts(cfg, ('train',)) == []


def test_other_toolboxes_are_left_alone():
    assert check_class_counts(Config(dict(model=dict(bbox_head=dict(num_classes=3)))), ()) == []


def test_a_classifier_of_one_class_needs_no_softmax():
    one = dict(metainfo=dict(classes=('cat',)))
    head = dict(type='LinearClsHead', num_classes=1, loss=dict(type='LabelSmoothLoss'))
    assert refusal(classifier(dict(head=head), one)).startswith(
        'model.head.num_classes must be at least 2 with softmax'
    )
    head['loss'] = dict(type='CrossEntropyLoss', use_sigmoid=True)
    assert check_class_counts(classifier(dict(head=head), one), ('train',)) == []
