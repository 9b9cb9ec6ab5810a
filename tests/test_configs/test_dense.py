"""The 32 experiments on COCO and ADE20K: schedules, sizes, one step of each, and evaluators."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData, PixelData
from PIL import Image
from pycocotools.coco import COCO
from torch import nn

from mmsecvit.apis.config_changes import without_sync_batch_norm
from mmsecvit.apis.schedules import check_iterations, check_schedules

CONFIGS = Path(__file__).parents[2] / 'configs'
ARCHS = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}
DETECTORS = ('mask_rcnn', 'cascade_mask_rcnn', 'retinanet')
SEGMENTERS = {'semantic_fpn': '80k', 'upernet': '160k'}
DETECTION = [f'{f}_secvit_{s}_{e}' for f in DETECTORS for s in ARCHS for e in ('1x', '3x')]
SEGMENTATION = [f'{f}_secvit_{s}_{e}' for f, e in SEGMENTERS.items() for s in ARCHS]
# One of each kind, and the others of other sizes.
FIRST = [f'{f}_secvit_t_{e}' for f, e in (dict.fromkeys(DETECTORS, '1x') | SEGMENTERS).items()]
OTHERS = [x for x in DETECTION + SEGMENTATION if x not in FIRST and not x.endswith('3x')]


@cache
def read(name: str) -> Config:
    return Config.fromfile(CONFIGS / f'{name}.py')


def load(name: str) -> Config:
    # mmengine takes more than a second to find the toolbox's base configs.
    return deepcopy(read(name))


def on_small_images(cfg: Config, coco_excerpt: Path, ade20k_excerpt: Path) -> Config:
    """Let an experiment run on a CPU, on images of at most 160x128, of one size in a batch."""
    segments = cfg.default_scope == 'mmseg'
    root = str(ade20k_excerpt if segments else coco_excerpt)
    options = {'model.backbone.drop_path_rate': 0.0}
    for split in ('train', 'val'):
        options |= {
            f'{split}_dataloader.dataset.data_root': root,
            f'{split}_dataloader.num_workers': 0,
            f'{split}_dataloader.persistent_workers': False,
        }
    if segments:
        options |= {
            'train_dataloader.dataset.pipeline.2.scale': (256, 128),
            'train_dataloader.dataset.pipeline.3.crop_size': (128, 128),
            'val_dataloader.dataset.pipeline.1.scale': (256, 128),
            'model.data_preprocessor.size': (128, 128),
        }
    else:
        resize = dict(type='Resize', scale=(160, 128), keep_ratio=True)
        options |= {
            'train_dataloader.dataset.pipeline.2': resize,
            'val_dataloader.dataset.pipeline.1': resize,
            'val_evaluator.ann_file': f'{root}/annotations/instances_val2017.json',
        }
    cfg.merge_from_dict(options)
    cfg.model = without_sync_batch_norm(cfg.model)
    # Scores of an untrained network are low: keep its predictions nevertheless.
    if 'roi_head' in cfg.model:
        cfg.model.test_cfg.rcnn.score_thr = 0.0
        # Fewer RoIs: their heads would take most of the time.
        cfg.model.test_cfg.rpn.max_per_img = 32
        rcnn = cfg.model.train_cfg.rcnn
        for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
            stage.sampler.num = 32
        cfg.model.test_cfg.rcnn.max_per_img = 10
    elif not segments:
        cfg.model.test_cfg.score_thr = 0.0
    return cfg


@pytest.mark.parametrize('name', DETECTION)
def test_recipe_of_detection_is_the_papers(name):
    cfg = load(name)
    epochs, milestones = (12, [8, 11]) if name.endswith('1x') else (36, [27, 33])
    assert cfg.train_cfg.max_epochs == epochs
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.by_epoch) == ('LinearLR', False)
    assert (steps.type, steps.end, steps.milestones) == ('MultiStepLR', epochs, milestones)
    decay = 1e-4 if name.startswith('retinanet') else 0.05
    assert dict(cfg.optim_wrapper.optimizer) == dict(type='AdamW', lr=1e-4, weight_decay=decay)
    assert cfg.optim_wrapper.paramwise_cfg == dict(norm_decay_mult=0.0)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16

    train_resize = cfg.train_dataloader.dataset.pipeline[2]
    scale = (1333, 800) if name.endswith('1x') else [(1333, 480), (1333, 800)]
    kind = 'Resize' if name.endswith('1x') else 'RandomResize'
    assert (train_resize.type, train_resize.scale, train_resize.keep_ratio) == (kind, scale, True)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (1333, 800)
    masks = not name.startswith('retinanet')
    assert cfg.train_dataloader.dataset.pipeline[1].get('with_mask', False) == masks
    assert cfg.test_evaluator.metric == (['bbox', 'segm'] if masks else 'bbox')
    assert cfg.default_hooks.checkpoint.save_best == 'coco/bbox_mAP'


@pytest.mark.parametrize('name', SEGMENTATION)
def test_recipe_of_segmentation_is_pvts_and_swins(name):
    cfg = load(name)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    assert cfg.model.data_preprocessor['size'] == (512, 512)
    pipeline = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert pipeline['RandomResize'].scale == (2048, 512)
    assert pipeline['RandomResize'].ratio_range == (0.5, 2.0)
    assert pipeline['RandomCrop'].crop_size == (512, 512)
    assert cfg.test_dataloader.dataset.pipeline[1].scale == (2048, 512)
    optimizer = dict(cfg.optim_wrapper.optimizer)
    poly = cfg.param_scheduler[-1]
    if name.startswith('semantic_fpn'):
        assert optimizer == dict(type='AdamW', lr=1e-4, weight_decay=1e-4)
        assert cfg.train_cfg.max_iters == 80_000
        assert (poly.type, poly.power, poly.begin, poly.end) == ('PolyLR', 0.9, 0, 80_000)
    else:
        assert optimizer == dict(type='AdamW', lr=6e-5, weight_decay=0.01)
        assert cfg.train_cfg.max_iters == 160_000
        warm_up = cfg.param_scheduler[0]
        assert (warm_up.type, warm_up.by_epoch, warm_up.end) == ('LinearLR', False, 1500)
        assert (poly.type, poly.power, poly.begin, poly.end) == ('PolyLR', 1.0, 1500, 160_000)
        assert (cfg.model.auxiliary_head.type, cfg.model.auxiliary_head.in_index) == ('FCNHead', 2)
    heads = [head for name, head in cfg.model.items() if name.endswith('head')]
    assert {head.num_classes for head in heads} == {150}
    assert cfg.default_hooks.checkpoint.save_best == 'mIoU'


@pytest.mark.parametrize('name', DETECTION + SEGMENTATION)
def test_backbone_is_the_released_one_with_norms_for_dense_prediction(name):
    backbone = load(name).model.backbone
    assert backbone.type == 'SecViT'
    assert backbone.arch == ARCHS[name.split('_')[-2]]
    assert backbone.variant == 'released'
    assert backbone.norm_cfg.type == 'SyncBN'
    assert backbone.out_norm


# Counted with the toolboxes' heads. Tables 3-5 have the same millions, except 130 for UperNet-L.
MILLIONS = {
    'mask_rcnn_secvit_{}_1x': dict(t=33.58, s=45.37, b=73.31, l=115.08),
    'cascade_mask_rcnn_secvit_{}_3x': dict(s=83.21, b=111.15),
    'retinanet_secvit_{}_1x': dict(t=23.66, s=35.46, b=63.39, l=105.45),
    'semantic_fpn_secvit_{}_80k': dict(t=17.68, s=29.47, b=57.41, l=99.18),
    'upernet_secvit_{}_160k': dict(s=55.53, b=83.64, l=126.59),
}


@pytest.mark.parametrize(
    ('name', 'millions'),
    [(name.format(size), m) for name, sizes in MILLIONS.items() for size, m in sizes.items()],
)
def test_parameters(name, millions):
    cfg = load(name)
    with torch.device('meta'), DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    total = sum(p.numel() for p in model.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=0.01)


def test_cascades_heads_are_those_of_swin_and_convnext():
    heads = load('cascade_mask_rcnn_secvit_t_1x').model.roi_head.bbox_head
    assert [head.bbox_coder.target_stds for head in heads] == [
        [0.1, 0.1, 0.2, 0.2],
        [0.05, 0.05, 0.1, 0.1],
        [0.033, 0.033, 0.067, 0.067],
    ]
    for head in heads:
        assert (head.type, head.num_shared_convs, head.num_shared_fcs) == ('ConvFCBBoxHead', 4, 1)
        assert (head.norm_cfg.type, head.loss_bbox.type) == ('SyncBN', 'GIoULoss')
        assert not head.reg_class_agnostic


def test_norms_and_only_norms_are_free_of_weight_decay():
    cfg = load('mask_rcnn_secvit_t_1x')
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    of_norms = {
        p
        for m in model.modules()
        if isinstance(m, (nn.LayerNorm, nn.modules.batchnorm._BatchNorm))
        for p in m.parameters()
    }
    groups = {0.0: set(), 0.05: set()}
    for group in optimizer.param_groups:
        groups[group['weight_decay']].update(group['params'])
    assert groups[0.0] == of_norms
    assert groups[0.05] == set(model.parameters()) - of_norms


def check_one_step(cfg: Config) -> None:
    """Train the whole backbone for a step, and evaluate the predictions for an image."""
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model).train()
        optim_wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        data = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
        first = next(model.backbone.downsample(0).parameters())
        before = first.detach().clone()

        data = model.data_preprocessor(data, training=True)
        loss, values = model.parse_losses(model(**data, mode='loss'))
        optim_wrapper.backward(loss)
        assert all(torch.isfinite(value) for value in values.values())
        gradients = {n: p.grad for n, p in model.backbone.named_parameters()}
        assert [
            n for n, grad in gradients.items() if grad is None or not grad.isfinite().all()
        ] == []
        optim_wrapper.step()
        assert not torch.equal(first, before)

        model.eval()
        loader = Runner.build_dataloader(cfg.val_dataloader, seed=0)
        evaluator = Evaluator([cfg.val_evaluator])
        evaluator.dataset_meta = loader.dataset.metainfo
        data = next(iter(loader))
        with torch.no_grad():
            evaluator.process(data_samples=model.val_step(data), data_batch=data)
        metrics = evaluator.evaluate(size=1)
    scores = ['mIoU'] if cfg.default_scope == 'mmseg' else ['coco/bbox_mAP']
    scores += ['coco/segm_mAP'] * ('mask_head' in cfg.model.get('roi_head', ()))
    assert all(0 <= metrics[score] <= 100 for score in scores)


@pytest.mark.parametrize(
    'name', FIRST + [pytest.param(name, marks=pytest.mark.slow) for name in OTHERS]
)
def test_one_step_on_real_images(name, coco_excerpt, ade20k_excerpt):
    check_one_step(on_small_images(load(name), coco_excerpt, ade20k_excerpt))


@pytest.mark.parametrize('size', ARCHS)
@pytest.mark.parametrize('family', DETECTORS)
def test_a_step_of_3x_is_one_of_1x(family, size, coco_excerpt, ade20k_excerpt):
    short, long = (load(f'{family}_secvit_{size}_{epochs}') for epochs in ('1x', '3x'))
    assert long.model == short.model
    # The size of the images is what differs.
    short, long = (on_small_images(cfg, coco_excerpt, ade20k_excerpt) for cfg in (short, long))
    transforms = [[x.type for x in cfg.train_dataloader.dataset.pipeline] for cfg in (short, long)]
    assert transforms[1] == transforms[0]
    for part in ('val_dataloader', 'val_evaluator', 'optim_wrapper'):
        assert long[part] == short[part]


@pytest.mark.parametrize('name', ['mask_rcnn_secvit_t_1x', 'semantic_fpn_secvit_t_80k'])
@pytest.mark.parametrize(
    ('backbone', 'arch', 'channels'),
    [('SECSwin', 'tiny', [96, 192, 384, 768]), ('SECFasterViT', '0', [64, 128, 256, 512])],
)
def test_one_step_with_another_backbone(
    name, backbone, arch, channels, coco_excerpt, ade20k_excerpt
):
    cfg = on_small_images(load(name), coco_excerpt, ade20k_excerpt)
    cfg.merge_from_dict(
        {
            'model.backbone': dict(_delete_=True, type=backbone, arch=arch, drop_path_rate=0.0),
            'model.neck.in_channels': channels,
        }
    )
    check_one_step(cfg)


@pytest.mark.parametrize('family', DETECTORS)
def test_ground_truth_scores_full_marks_in_detection(family, coco_excerpt, ade20k_excerpt):
    """Built from COCO's JSON: a class's label is its place among the sorted category ids."""
    cfg = on_small_images(load(f'{family}_secvit_t_1x'), coco_excerpt, ade20k_excerpt)
    truth = COCO(str(coco_excerpt / 'annotations' / 'instances_val2017.json'))
    labels = {category: label for label, category in enumerate(sorted(truth.cats))}
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        evaluator = Evaluator([cfg.val_evaluator])
        evaluator.dataset_meta = dataset.metainfo
        for i in range(len(dataset)):
            sample = dataset[i]['data_samples']
            own = truth.loadAnns(truth.getAnnIds(sample.img_id, iscrowd=False))
            boxes = torch.tensor([a['bbox'] for a in own], dtype=torch.float64).view(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            masks = np.array([truth.annToMask(a) for a in own]).reshape(-1, *sample.ori_shape)
            sample.pred_instances = InstanceData(
                bboxes=boxes,
                labels=torch.tensor([labels[a['category_id']] for a in own], dtype=torch.long),
                scores=torch.ones(len(own)),
                masks=torch.from_numpy(masks).bool(),
            )
            evaluator.process(data_samples=[sample], data_batch={})
        metrics = evaluator.evaluate(size=len(dataset))
    assert len(dataset) == 5
    assert metrics['coco/bbox_mAP'] == 1.0
    if family != 'retinanet':
        assert metrics['coco/segm_mAP'] == 1.0


@pytest.mark.parametrize('family', SEGMENTERS)
def test_ground_truth_scores_full_marks_in_segmentation(family, coco_excerpt, ade20k_excerpt):
    """Built from the label images: 0 is unlabeled, label n is class n - 1."""
    name = f'{family}_secvit_t_{SEGMENTERS[family]}'
    cfg = on_small_images(load(name), coco_excerpt, ade20k_excerpt)
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build(cfg.val_dataloader.dataset)
        evaluator = Evaluator([cfg.val_evaluator])
        evaluator.dataset_meta = dataset.metainfo
        for i in range(len(dataset)):
            sample = dataset[i]['data_samples']
            file = ade20k_excerpt / 'annotations/validation' / Path(sample.img_path).stem
            labels = torch.from_numpy(np.array(Image.open(file.with_suffix('.png')))).long()
            prediction = (labels - 1).clamp(min=0)
            sample.pred_sem_seg = PixelData(data=prediction[None])
            evaluator.process(data_samples=[sample.to_dict()], data_batch={})
        metrics = evaluator.evaluate(size=len(dataset))
    assert len(dataset) == 5
    assert metrics['mIoU'] == 100.0


def test_the_configs_of_the_page_on_own_data_change_what_they_say(tmp_path):
    blocks = (CONFIGS.parent / 'docs' / 'your_data.md').read_text().split('```python\n')[1:]
    blocks = [block.split('```')[0] for block in blocks if block.startswith("_base_ = './")]
    (small,) = (i for i, block in enumerate(blocks) if 'MultiStepLR' in block)
    found = {}
    for i, block in enumerate(blocks):
        path = tmp_path / f'{i}.py'
        path.write_text(block.replace("'./", f"'{CONFIGS}/"))
        cfg = Config.fromfile(path)
        if i == small:  # 200 images in batches of 2
            assert cfg.param_scheduler[-1].end == cfg.train_cfg.max_epochs
            iterations = 100 * cfg.train_cfg.max_epochs
            assert [*check_schedules(cfg), *check_iterations(cfg, iterations)] == []
        with torch.device('meta'), DefaultScope.overwrite_default_scope(cfg.default_scope):
            found.setdefault(cfg.default_scope, (cfg, MODELS.build(cfg.model)))
    cfg, detector = found['mmdet']
    assert detector.roi_head.bbox_head.fc_cls.out_features == 2 + 1
    assert detector.roi_head.mask_head.conv_logits.out_channels == 2
    assert cfg.test_evaluator.ann_file == 'data/toys/val.json'
    assert cfg.test_dataloader.dataset.metainfo.classes == ('balloon', 'kite')
    cfg, segmenter = found['mmseg']
    assert segmenter.decode_head.num_classes == segmenter.auxiliary_head.num_classes == 3
    assert cfg.test_dataloader.dataset.data_prefix.img_path == 'img/val'
    assert cfg.train_dataloader.dataset.type == 'BaseSegDataset'


def test_odd_sizes_of_images_train_too(coco_excerpt, ade20k_excerpt):
    cfg = on_small_images(load('mask_rcnn_secvit_t_3x'), coco_excerpt, ade20k_excerpt)
    cfg.train_dataloader.dataset.pipeline[2] = dict(
        type='Resize', scale=(333, 160), keep_ratio=False
    )
    cfg.model.data_preprocessor.pad_size_divisor = 1
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model).train()
        data = next(iter(Runner.build_dataloader(cfg.train_dataloader, seed=0)))
    data = model.data_preprocessor(data, training=True)
    assert data['inputs'].shape == (2, 3, 160, 333)
    loss, _ = model.parse_losses(model(**data, mode='loss'))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.backbone.parameters())
