from mmengine.config import Config

from mmsecvit.datasets.class_order import find_other_numbers


def config(train, val, **options) -> Config:
    def loader(classes):
        return dict(dataset=dict(data_root='x', metainfo=dict(classes=classes), **options))

    return Config(dict(train_dataloader=loader(train), val_dataloader=loader(val)))


def test_classes_in_another_order_than_in_training_are_found():
    classes = ('road', 'car', 'rest')
    assert not [*find_other_numbers(config(classes, list(classes)), ('train', 'val'))]
    assert not [*find_other_numbers(config(classes, ('road', 'bus')), ('train', 'val'))]
    cfg = config(classes, ('car', 'road', 'rest'))
    (finding,) = find_other_numbers(cfg, ('train', 'val'))
    assert finding.message == (
        'val_dataloader.dataset.metainfo.classes must have the order of train_dataloader.dataset.'
        "metainfo.classes, since labels are places in it, but not in the same places: 'car', 'road'"
    )
    assert not [*find_other_numbers(cfg, ('train',))]


def test_names_that_are_read_with_each_image_may_have_any_order():
    cfg = config(('road', 'car'), ('car', 'road'), return_classes=True)
    assert not [*find_other_numbers(cfg, ('train', 'val'))]


def test_data_sets_with_classes_of_their_own_are_left_alone():
    cfg = config(('road', 'car'), 'names.txt')
    del cfg.train_dataloader.dataset.metainfo
    assert not [*find_other_numbers(cfg, ('train', 'val'))]


def test_names_that_two_classes_have_are_not_compared():
    classes = ('crane', 'dog', 'N/A', 'crane', 'N/A', 'cat')
    assert not [*find_other_numbers(config(classes, classes), ('train', 'val'))]
    assert not [*find_other_numbers(config(('crane', 'dog'), classes), ('train', 'val'))]
    moved = ('crane', 'cat', 'N/A', 'crane', 'N/A', 'dog')
    (finding,) = find_other_numbers(config(classes, moved), ('train', 'val'))
    assert finding.message.endswith("but not in the same places: 'cat', 'dog'")
