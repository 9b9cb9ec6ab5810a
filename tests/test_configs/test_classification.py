from copy import deepcopy
from functools import cache
from math import cos, log, pi
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR, LinearLR, build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmsecvit import list_models
from mmsecvit.ops.windows import window_runs

pytest.importorskip('mmpretrain')

CONFIGS = Path(__file__).parents[2] / 'configs'
IMAGENET = sorted(path.stem for path in CONFIGS.glob('*_in1k.py'))
# mmpretrain's own schedules: the highest learning rate and the epochs of warm-up.
BASELINES = dict(swin_t=(1e-3, 20), swin_s=(1e-3, 20), convnext_t=(4e-3, 20))
# Table 8: the type and size of the backbone, its last channels, and its stochastic depth.
NETWORKS = dict(
    secvit_t=('SecViT', 'tiny', 512, 0.1),
    secvit_s=('SecViT', 'small', 512, 0.15),
    secvit_b=('SecViT', 'base', 512, 0.4),
    secvit_l=('SecViT', 'large', 640, 0.5),
    sec_swin_t=('SECSwin', 'tiny', 768, None),
    sec_swin_s=('SECSwin', 'small', 768, None),
    sec_fastervit_0=('SECFasterViT', '0', 512, None),
    sec_fastervit_1=('SECFasterViT', '1', 640, None),
)
ABLATIONS = dict(
    wo_lce=dict(lce=False),
    wo_cpe=dict(cpe=False),
    wo_conv_stem=dict(stem='patch'),
    cswin=dict(attention='cswin'),
)
MICRO_ABLATIONS = ABLATIONS | dict(
    window=dict(attention='window'),
    kmeans=dict(attention='kmeans'),
    one_cluster=dict(num_clusters=(1, 1, 1, 1)),
)


@cache
def read(name):
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name):
    # mmengine takes about a second to find the toolbox's base configs.
    return deepcopy(read(name))


def build(name, device='meta'):
    import mmpretrain.models  # noqa: F401

    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device(device):
        return MODELS.build(load(name).model)


def millions(model):
    return sum(p.numel() for p in model.parameters()) / 1e6


# Counted. Table 8 has 15, 27, 55, 96, 29, 50, 25 and 41, Table 6 has 14 without the stem.
@pytest.mark.parametrize(
    ('name', 'params'),
    [
        ('secvit_t', 14.98),
        ('secvit_s', 26.78),
        ('secvit_b', 54.68),
        ('secvit_l', 96.50),
        ('sec_swin_t', 28.27),
        ('sec_swin_s', 49.56),
        ('sec_fastervit_0', 25.00),
        ('sec_fastervit_1', 40.76),
        ('swin_t', 28.29),
        ('swin_s', 49.61),
        ('convnext_t', 28.59),
        ('secvit_t_wo_conv_stem', 14.09),
        ('secvit_t_cswin', 14.98),
    ],
)
def test_parameters(name, params):
    # The toolbox's networks cannot be built on meta.
    device = 'cpu' if name.startswith(('swin', 'convnext')) else 'meta'
    assert millions(build(f'{name}_in1k', device)) == pytest.approx(params, abs=0.006)


@pytest.mark.parametrize('name', list_models())
def test_recipe_is_that_of_appendix_b(name):
    cfg = load(f'{name}_in1k')
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    optimizer = cfg.optim_wrapper.optimizer
    assert optimizer.type == 'AdamW'
    assert (optimizer.lr, optimizer.weight_decay) == (1e-3, 0.05)
    assert 'clip_grad' not in cfg.optim_wrapper

    train = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert train['RandomResizedCrop'].scale == 224
    assert train['RandomFlip'].prob == 0.5
    augment = train['RandAugment']
    assert augment.policies == 'timm_increasing'
    assert (augment.num_policies, augment.magnitude_level, augment.magnitude_std) == (2, 9, 0.5)
    assert (train['RandomErasing'].erase_prob, train['RandomErasing'].mode) == (0.25, 'rand')
    crop = [step for step in cfg.test_dataloader.dataset.pipeline if step.type == 'CenterCrop']
    assert crop[0].crop_size == 224

    mixing = [(a.type, a.alpha) for a in cfg.model.train_cfg.augments]
    assert mixing == [('Mixup', 0.8), ('CutMix', 1.0)]
    loss = cfg.model.head.loss
    assert (loss.type, loss.label_smooth_val) == ('LabelSmoothLoss', 0.1)
    assert [(h.type, h.momentum) for h in cfg.custom_hooks] == [('EMAHook', 4e-5)]
    assert cfg.default_hooks.checkpoint.save_best == 'accuracy/top1'


@pytest.mark.parametrize('name', NETWORKS)
def test_network_is_that_of_table_8(name):
    kind, arch, channels, drop_path_rate = NETWORKS[name]
    cfg = load(f'{name}_in1k')
    backbone = dict(cfg.model.backbone)
    assert backbone.pop('drop_path_rate', None) == drop_path_rate
    assert backbone.pop('variant', None) == ('released' if kind == 'SecViT' else None)
    assert backbone == dict(type=kind, arch=arch, out_indices=(3,))
    if kind == 'SecViT':
        assert dict(cfg.model.neck) == dict(type='SecViTNeck', in_channels=channels)
        channels = 1024
    else:
        assert dict(cfg.model.neck) == dict(type='GlobalAveragePooling')
    head = cfg.model.head
    assert (head.type, head.num_classes, head.in_channels) == ('LinearClsHead', 1000, channels)
    assert dict(cfg.data_preprocessor) == dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    )


@pytest.mark.parametrize('name', IMAGENET)
def test_learning_rate_rises_in_warm_up_and_falls_along_a_cosine(name):
    cfg = load(name)
    peak, warm_up = BASELINES.get(name.removesuffix('_in1k'), (1e-3, 5))
    steps_per_epoch = 10  # instead of ImageNet's 1,251
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    schedulers = []
    for scheduler_cfg in cfg.param_scheduler:
        kind = {'LinearLR': LinearLR, 'CosineAnnealingLR': CosineAnnealingLR}[
            scheduler_cfg.pop('type')
        ]
        scheduler_cfg.pop('_scope_', None)
        scheduler_cfg.setdefault('end', 300)  # as the runner does
        if scheduler_cfg.pop('convert_to_iter_based', False):
            schedulers.append(
                kind.build_iter_from_epoch(optimizer, epoch_length=steps_per_epoch, **scheduler_cfg)
            )
        else:
            schedulers.append(kind(optimizer, **scheduler_cfg))

    rates = []
    for _ in range(300):
        for _ in range(steps_per_epoch):
            rates.append(optimizer.param_groups[0]['lr'])
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()
    # The first epoch, then the last step of the warm-up and the epoch after it.
    last_step = warm_up * steps_per_epoch - 1
    rising = [peak * (1e-3 + (1 - 1e-3) * step / last_step) for step in range(10)]
    assert rates[0] == pytest.approx(peak / 1000)
    assert rates[:10] == pytest.approx(rising)
    assert rates[last_step : last_step + 11] == pytest.approx([peak] * 11)
    # On the cosine, all steps of an epoch have one rate.
    for epoch in (warm_up + 1, warm_up + 100, 299):
        progress = (epoch - warm_up) / (300 - warm_up)
        falling = 1e-5 + (peak - 1e-5) * (1 + cos(pi * progress)) / 2
        steps = slice(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        assert rates[steps] == pytest.approx([falling] * 10)


@pytest.mark.parametrize('name', ['sec_swin_t', 'sec_fastervit_0'])
def test_one_step_and_a_prediction(name):
    from mmpretrain.structures import DataSample

    cfg = load(f'{name}_in1k')
    cfg.model.backbone.drop_path_rate = 0.0
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor)).train()
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    images = list(torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8))
    samples = [DataSample().set_gt_label(label) for label in (3, 999)]
    before = {n: p.detach().clone() for n, p in model.backbone.named_parameters()}
    np.random.seed(0)  # of Mixup and CutMix
    data = model.data_preprocessor(dict(inputs=images, data_samples=samples), training=True)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    optim_wrapper.backward(loss)
    optim_wrapper.step()
    # The cross entropy of an untrained network for 1,000 classes.
    assert loss.item() == pytest.approx(log(1000), rel=0.2)
    for parameter_name, p in model.backbone.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), parameter_name
        if p.dim() > 1:  # biases before a batch norm get rounding only
            assert not torch.equal(p, before[parameter_name]), parameter_name

    model.eval()
    predictions = model.val_step(dict(inputs=images, data_samples=samples))
    x = torch.stack(images).flip(1).float()
    mean, std = cfg.data_preprocessor.mean, cfg.data_preprocessor.std
    x = (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        scores = model.head.fc(model.backbone(x)[-1].mean((2, 3))).softmax(1)
    for prediction, expected in zip(predictions, scores, strict=True):
        torch.testing.assert_close(prediction.pred_score, expected)
        assert prediction.pred_label.item() == expected.argmax()


@pytest.mark.parametrize('name', ['secvit_b', 'sec_swin_t', 'sec_fastervit_0'])
def test_norms_biases_and_layer_scale_and_only_they_are_free_of_weight_decay(name):
    model = build(f'{name}_in1k')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        optimizer = build_optim_wrapper(model, load(f'{name}_in1k').optim_wrapper).optimizer
    decay = {p: g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    norms = (nn.LayerNorm, nn.modules.batchnorm._BatchNorm)
    of_norms = {p for m in model.modules() if isinstance(m, norms) for p in m.parameters()}
    for parameter_name, p in model.named_parameters():
        free = p in of_norms or parameter_name.endswith('.bias') or '.scale' in parameter_name
        assert decay[p] == (0.0 if free else 0.05), parameter_name


@pytest.mark.parametrize('name', BASELINES)
def test_baselines_keep_the_toolboxs_recipe(name):
    peak, warm_up = BASELINES[name]
    cfg = load(f'{name}_in1k')
    assert cfg.train_cfg.max_epochs == 300
    assert cfg.param_scheduler[0].end == warm_up
    assert cfg.optim_wrapper.optimizer.lr == peak


@pytest.mark.parametrize('data', ['in1k', 'cifar10'])
@pytest.mark.parametrize('name', ABLATIONS)
def test_an_ablation_differs_in_its_option_alone(name, data):
    full, ablation = load(f'secvit_t_{data}'), load(f'secvit_t_{name}_{data}')
    full.model.backbone.update(ABLATIONS[name])
    assert ablation.to_dict() == full.to_dict()


@pytest.mark.parametrize('name', MICRO_ABLATIONS)
def test_a_micro_ablation_differs_in_its_option_alone(name):
    full, ablation = load('secvit_micro_sec_cifar10'), load(f'secvit_micro_{name}_cifar10')
    full.model.backbone.update(MICRO_ABLATIONS[name])
    assert ablation.to_dict() == full.to_dict()


def test_micro_networks_attend_in_groups_of_like_sizes():
    sides = (16, 8, 4, 2)  # of the four maps at 64x64
    clusters = load('secvit_micro_sec_cifar10').model.backbone.num_clusters
    assert [n * n / c for n, c in zip(sides, clusters, strict=True)] == [32, 16, 16, 4]
    windows = [{size for _, _, size in window_runs(n, 7)} for n in sides]
    assert windows == [{5, 6}, {4}, {4}, {2}]


@pytest.mark.parametrize('clusters', [(64, 16, 4), (64, 16, 2), (64, 8, 2)])
def test_cluster_settings_of_table_7(clusters):
    name = 'secvit_s_clusters_' + '_'.join(map(str, clusters)) + '_in1k'
    backbone = build(name).backbone
    assert [stage[0].attn.num_clusters for stage in backbone.stages] == [*clusters, 1]
    assert len(backbone.stages[2]) == 18


@pytest.mark.parametrize(
    'name',
    ['secvit_t', 'swin_t', 'sec_swin_t', 'secvit_micro', *(f'secvit_t_{a}' for a in ABLATIONS)],
)
def test_cifar10_runs_share_everything_but_the_network(name):
    cfg, other = load(f'{name}_cifar10'), load('secvit_t_cifar10')
    assert cfg.model.head.num_classes == 10
    assert cfg.train_dataloader.dataset.type == 'CIFAR10'
    for key in ('param_scheduler', 'optim_wrapper', 'train_cfg', 'test_evaluator'):
        assert cfg[key] == other[key]
    if name != 'secvit_micro':
        assert cfg.train_dataloader == other.train_dataloader
        assert cfg.test_dataloader == other.test_dataloader


@pytest.mark.parametrize('name', ['swin_t', 'sec_swin_t'])
def test_cifar10_networks_begin_alike(name):
    model = build(f'{name}_cifar10', 'cpu')
    model.init_weights()
    linear = model.get_submodule('backbone.stages.2.blocks.0.attn.w_msa.proj')
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not linear.bias.any()


@pytest.mark.parametrize('name', ['secvit_t', 'swin_t', 'sec_swin_t', 'secvit_t_cswin'])
def test_cifar10_networks_take_96_pixels(name):
    model = build(f'{name}_cifar10', 'cpu').eval()
    assert model(torch.zeros(1, 3, 96, 96)).shape == (1, 10)
