import pytest
from mmengine.config import Config

from mmsecvit import SecViT
from mmsecvit.apis.config import ConfigError
from mmsecvit.apis.settings import check_display, check_settings

EPOCHS = dict(type='ResumableEpochLoop', max_epochs=2)
ITERATIONS = dict(type='IterBasedTrainLoop', max_iters=2)


def refusal(cfg: dict, splits: tuple[str, ...] = ('train', 'val')) -> str:
    with pytest.raises(ConfigError) as error:
        check_settings(Config(cfg), splits)
    return str(error.value)


def test_transforms_are_dicts_or_functions():
    load = dict(type='LoadImageFromFile')
    inner = dict(type='CocoDataset', pipeline=[load, 'PackDetInputs'])
    cfg = dict(test_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=inner)))
    assert refusal(cfg, ('test',)) == (
        'test_dataloader.dataset.dataset.pipeline.1 must be a dict with the type of a transform, '
        "got 'PackDetInputs'"
    )
    inner['pipeline'][1] = abs
    assert check_settings(Config(cfg), ('test',)) == []


def test_loaders_without_workers_take_nothing_that_workers_need():
    loader = dict(batch_size=2, num_workers=0, persistent_workers=True, prefetch_factor=2)
    cfg = Config({f'{split}_dataloader': dict(loader) for split in ('train', 'val', 'test')})
    messages = check_settings(cfg, ('train', 'val'))
    assert messages == [
        f'{split}_dataloader.num_workers is 0: persistent_workers, prefetch_factor is left out, '
        'which needs worker processes.'
        for split in ('train', 'val')
    ]
    assert cfg.train_dataloader == cfg.val_dataloader == dict(batch_size=2, num_workers=0)
    assert cfg.test_dataloader == loader
    assert check_settings(cfg, ('train', 'val')) == []


def test_loaders_with_workers_stay():
    loader = dict(num_workers=1, persistent_workers=True, prefetch_factor=2)
    cfg = Config(dict(train_dataloader=dict(loader)))
    assert check_settings(cfg, ('train',)) == []
    assert cfg.train_dataloader == loader


@pytest.mark.parametrize('sampler', ['InfiniteSampler', 'mmengine.InfiniteSampler'])
def test_epochs_need_a_sampler_that_ends(sampler):
    loader = dict(num_workers=1, sampler=dict(type=sampler))
    assert refusal(dict(train_cfg=EPOCHS, train_dataloader=loader)) == (
        'train_dataloader.sampler must end, as DefaultSampler does, with '
        'train_cfg=ResumableEpochLoop, got InfiniteSampler, with which the first epoch has no end'
    )
    cfg = Config(dict(train_cfg=ITERATIONS, train_dataloader=loader))
    assert check_settings(cfg, ('train',)) == []
    cfg = Config(dict(train_cfg=EPOCHS, train_dataloader=dict(sampler=dict(type='DefaultSampler'))))
    assert check_settings(cfg, ('train',)) == []


def test_what_counts_epochs_in_iterations_is_said():
    schedule = [
        dict(type='LinearLR', by_epoch=False),
        dict(type='MultiStepLR', milestones=[8]),
        dict(type='CosineAnnealingLR', convert_to_iter_based=True),
    ]
    hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
    cfg = dict(train_cfg=ITERATIONS, param_scheduler=schedule, default_hooks=hooks)
    checkpoint, scheduler = check_settings(Config(cfg), ('train',))
    assert checkpoint.startswith('default_hooks.checkpoint.by_epoch should be False')
    assert scheduler.startswith('param_scheduler.1.by_epoch should be False')
    cfg['train_cfg'] = dict(EPOCHS, max_epochs=12)
    assert check_settings(Config(cfg), ('train',)) == []


def segmenter(**test_cfg) -> dict:
    pytest.importorskip('mmseg')
    backbone = dict(type='SecViT')
    return dict(default_scope='mmseg', model=dict(backbone=backbone, test_cfg=test_cfg))


def slide(crop_size: object = (64, 64), stride: object = (48, 48)) -> dict:
    return segmenter(mode='slide', crop_size=crop_size, stride=stride)


def test_sliding_windows_cover_the_image_and_suit_the_backbone():
    for good in (slide(), slide((32, 64), (32, 64)), segmenter(mode='whole'), segmenter()):
        assert check_settings(Config(good), ('val',)) == []
    small = slide((24, 24), (16, 16))
    assert refusal(small) == (
        'model.test_cfg.crop_size must be at least 32 with SecViT, which takes no smaller images, '
        'got (24, 24)'
    )
    small['model']['backbone']['type'] = SecViT
    assert 'at least 32 with SecViT' in refusal(small)
    small['model']['backbone']['type'] = 'ResNet'
    assert check_settings(Config(small), ('val',)) == []
    assert refusal(slide(stride=(48, 65))) == (
        'model.test_cfg.stride must be at most model.test_cfg.crop_size, (64, 64), or windows '
        'leave gaps between them, got (48, 65)'
    )
    assert check_settings(Config(slide(stride=(48, 65))), ('train',)) == []


@pytest.mark.parametrize(
    ('test_cfg', 'message'),
    [
        (dict(mode='slide', stride=(8, 8)), 'crop_size must be a height and a width .*got None'),
        (dict(mode='slide', crop_size=64, stride=(8, 8)), 'crop_size must be .*got 64'),
        (dict(mode='slide', crop_size=(64, 64), stride=8), 'stride must be a height .*got 8'),
    ],
)
def test_settings_of_sliding_windows_are_pairs(test_cfg, message):
    with pytest.raises(ConfigError, match=rf'^model\.test_cfg\.{message}$'):
        check_settings(Config(segmenter(**test_cfg)), ('test',))


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
def test_weights_by_an_old_argument_are_refused_with_the_new_one(scope):
    pytest.importorskip(scope)
    kind = dict(mmdet='RetinaNet', mmseg='EncoderDecoder')[scope]
    init_cfg = "model.backbone.init_cfg must be dict(type='Pretrained', checkpoint='x.pth')"
    model = dict(type=kind, pretrained='x.pth', backbone=dict(type='SecViT'))
    message = refusal(dict(default_scope=scope, model=model))
    assert message.startswith(f'{init_cfg} instead of model.pretrained')
    model = dict(type=kind, backbone=dict(type='SecViT', pretrained='x.pth'))
    assert refusal(dict(default_scope=scope, model=model)) == (
        f'{init_cfg} instead of model.backbone.pretrained, which SecViT does not take'
    )
    # Without a path it means nothing.
    model = dict(type=kind, pretrained=None, backbone=dict(type='SecViT', pretrained=None))
    cfg = Config(dict(default_scope=scope, model=model))
    (*_, message) = check_settings(cfg, ('train',))
    assert message == 'model.backbone.pretrained=None is left out, which SecViT does not take.'
    assert cfg.model.backbone == dict(type='SecViT')


def test_models_that_take_the_old_argument_keep_it():
    pytest.importorskip('mmpretrain')
    backbone = dict(type='TIMMBackbone', pretrained=True)
    model = dict(type='ImageClassifier', pretrained='x.pth', backbone=backbone)
    cfg = Config(dict(default_scope='mmpretrain', model=model))
    before = cfg.to_dict()
    assert check_settings(cfg, ('train',)) == []
    assert cfg.to_dict() == before


def test_windows_need_a_display(monkeypatch):
    from matplotlib import pyplot

    for name in ('DISPLAY', 'WAYLAND_DISPLAY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr('sys.platform', 'linux')
    with pytest.raises(ConfigError, match='^show needs a display for its windows, but neither DIS'):
        check_display()
    monkeypatch.setenv('DISPLAY', ':0')
    pyplot.switch_backend('agg')
    with pytest.raises(ConfigError, match="matplotlib draws with 'agg', which has none"):
        check_display()


def test_a_misspelled_argument_of_a_backbone_is_refused_with_the_similar_one():
    def message(**arguments):
        model = dict(type='RetinaNet', backbone=dict(type='SecViT', **arguments))
        return refusal(dict(model=model, default_scope='mmdet'), ('test',))

    assert message(arch='tiny', clustersize=98) == (
        'model.backbone.clustersize is no argument of SecViT: cluster_size may be meant'
    )
    assert message(xyz=1).startswith('model.backbone.xyz is no argument of SecViT: it takes arch, ')


@pytest.mark.parametrize('scope', ['', 'mmdet.'])
def test_constructors_that_do_not_know_our_layers_are_refused(scope):
    model = dict(type='RetinaNet', backbone=dict(type='SecViT'))
    optim_wrapper = dict(constructor=f'{scope}LearningRateDecayOptimizerConstructor')
    message = refusal(dict(model=model, optim_wrapper=optim_wrapper))
    assert message.startswith('optim_wrapper.constructor LearningRateDecayOptimizerConstructor ')
    assert "take 'LayerDecayOptimWrapperConstructor'" in message
    model['backbone']['type'] = 'ConvNeXt'
    check_settings(Config(dict(model=model, optim_wrapper=optim_wrapper)), ('train',))


def test_schedules_may_be_a_tuple_or_those_of_several_optimizers():
    step = dict(type='StepLR', step_size=1)
    for schedules, name in (((step,), '0'), (dict(generator=[step], critic=step), 'generator.0')):
        cfg = Config(dict(train_cfg=ITERATIONS, param_scheduler=schedules))
        first = check_settings(cfg, ('train',))[0]
        assert first.startswith(f'param_scheduler.{name}.by_epoch should be False')


def test_a_model_may_have_several_backbones():
    backbones = [dict(type='SecViT'), dict(type='SecViT')]
    assert check_settings(Config(dict(model=dict(backbone=backbones))), ('train',)) == []


def test_an_interval_of_validation_is_at_least_one():
    cfg = dict(train_cfg=dict(EPOCHS, val_interval=0), val_cfg=dict())
    assert refusal(cfg).startswith('train_cfg.val_interval must be at least 1, got 0')
    assert check_settings(Config(dict(cfg, val_cfg=None)), ('train',)) == []
