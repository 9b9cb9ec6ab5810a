import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from mmsecvit import apis
from mmsecvit.apis import deployment, export, exported_files
from mmsecvit.apis.deployment import copy_runner
from mmsecvit.apis.exported_files import ExportedFile
from mmsecvit.apis.exported_metadata import default_size, warn_of_size
from mmsecvit.apis.exported_models import whole_model
from mmsecvit.apis.exported_testing import ModelFromFile

for name in ('mmdet', 'mmseg', 'onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(name)

BASE = """
custom_imports = dict(imports=['mmsecvit'])
default_scope = '{scope}'
# Few operators, to trace fast; test_deployment.py exports SecViT.
backbone = dict(
    type='ResNet',
    depth=18,
    base_channels=8,
    num_stages=2,
    strides=(1, 2),
    dilations=(1, 1),
    out_indices=(0, 1),
    norm_cfg=dict(type='SyncBN'),
)
fpn = dict(type='FPN', in_channels=[8, 16], out_channels=16, num_outs=2)
preprocessor = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
)
"""
DETECTOR = """
preprocessor.update(type='DetDataPreprocessor', pad_size_divisor=32)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(96, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]
"""
RETINANET = """
model = dict(
    type='RetinaNet',
    data_preprocessor=preprocessor,
    backbone=backbone,
    neck=fpn,
    bbox_head=dict(
        type='RetinaHead',
        num_classes=3,
        in_channels=16,
        stacked_convs=1,
        feat_channels=16,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[4, 8],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
    ),
    train_cfg=None,
    test_cfg=dict(
        nms_pre=50,
        min_bbox_size=0,
        score_thr=0.6,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=20,
    ),
)
"""
TWO_STAGES = """
stages = {stages}
box_heads = [
    dict(
        type='Shared2FCBBoxHead',
        in_channels=16,
        fc_out_channels=32,
        roi_feat_size=7,
        num_classes=3,
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        reg_class_agnostic={agnostic},
    )
] * stages
box_pooling = dict(
    type='SingleRoIExtractor',
    roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=0),
    out_channels=16,
    featmap_strides=[4, 8],
    finest_scale=14,  # these boxes are small: both levels have some
)
model = dict(
    type='CascadeRCNN' if stages > 1 else 'MaskRCNN',
    data_preprocessor=preprocessor,
    backbone=backbone,
    neck=fpn,
    rpn_head=dict(
        type='RPNHead',
        in_channels=16,
        feat_channels=16,
        anchor_generator=dict(
            type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8]
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder'),
    ),
    roi_head=dict(
        type='CascadeRoIHead' if stages > 1 else 'StandardRoIHead',
        bbox_head=box_heads if stages > 1 else box_heads[0],
        bbox_roi_extractor=box_pooling,
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=1,
            in_channels=16,
            conv_out_channels=16,
            num_classes=3,
            class_agnostic={agnostic},
        ),
        mask_roi_extractor=dict(
            box_pooling, roi_layer=dict(type='RoIAlign', output_size=14, sampling_ratio=0)
        ),
    ),
    train_cfg=None,
    test_cfg=dict(
        rpn=dict(
            nms_pre=100, max_per_img=30, nms=dict(type='nms', iou_threshold=0.7), min_bbox_size=0
        ),
        rcnn=dict(
            score_thr=0.5,
            nms=dict(type='nms', iou_threshold=0.5),
            max_per_img=20,
            mask_thr_binary=0.5,
        ),
    ),
)
if stages > 1:
    model['roi_head'].update(num_stages=stages, stage_loss_weights=[1] * stages)
del stages
"""


SEGMENTER = """
preprocessor.update(type='SegDataPreProcessor')
model = dict(
    type='EncoderDecoder',
    data_preprocessor=preprocessor,
    backbone=backbone,
    decode_head=dict(
        type='FCNHead', in_channels=8, in_index=0, channels=8, num_convs=1, num_classes=3
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
test_dataloader = dict(
    batch_size=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='BaseSegDataset',
        data_root="{root}",
        data_prefix=dict(img_path='img', seg_map_path='ann'),
        metainfo=dict(classes=('a', 'b', 'c'), palette=[[0] * 3, [100] * 3, [200] * 3]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='Resize', scale=(64, 64), keep_ratio=False),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
)
test_cfg = dict(type='TestLoop')
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
"""


@pytest.fixture
def files(tmp_path):
    """Writes a config and random weights; returns both files and the toolbox's model."""

    def write(scope, text, spread=0.3):
        config, checkpoint = tmp_path / f'{scope}.py', str(tmp_path / 'weights.pth')
        config.write_text(BASE.format(scope=scope) + text)
        cfg = Config.fromfile(config)
        __import__(f'{scope}.models')
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope(scope):
            model = MODELS.build(cfg.model)
        for name, weight in model.named_parameters():
            if 'head' in name:  # scores far from each other, so that rounding changes no order
                torch.nn.init.normal_(weight, std=0.02 if 'reg' in name else spread)
            if name.endswith('bias'):
                torch.nn.init.zeros_(weight)
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        return config, checkpoint, revert_sync_batchnorm(model).eval()

    return write


def image_of(height, width):
    """Return smooth noise, (3, H, W) uint8, BGR."""
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return (
        (255 * torch.nn.functional.interpolate(noise, (height, width), mode='bicubic'))
        .clamp(0, 255)[0]
        .byte()
    )


def detect(model, image, ori_shape=None):
    """Let a model predict for an image that the pipeline made of one of another size."""
    from mmdet.structures import DetDataSample

    height, width = image.shape[1:]
    ori_shape = ori_shape or (height, width)
    scale_factor = (width / ori_shape[1], height / ori_shape[0])
    meta = dict(img_shape=(height, width), ori_shape=ori_shape, scale_factor=scale_factor)
    sample = DetDataSample(metainfo=meta)
    with torch.no_grad():
        (found,) = model.test_step(dict(inputs=[image], data_samples=[sample]))
    return found.pred_instances


DETECTORS = {
    'retinanet': RETINANET,
    'mask_rcnn': TWO_STAGES.format(stages=1, agnostic=False),
    'agnostic': TWO_STAGES.format(stages=1, agnostic=True),
    'cascade': TWO_STAGES.format(stages=3, agnostic=False),
    'agnostic_cascade': TWO_STAGES.format(stages=3, agnostic=True),
}


@pytest.mark.parametrize('kind', DETECTORS)
def test_a_whole_detector_finds_what_mmdet_finds(files, kind):
    *_, model = files('mmdet', DETECTOR + DETECTORS[kind], 0.1 if kind == 'retinanet' else 0.2)
    image = image_of(50, 90)  # mmdet pads it
    expected = detect(model, image)
    network = whole_model(model, 'mmdet')
    padded = network.mean.repeat(1, 64, 96)[None]
    padded[..., :50, :90] = image.flip(0)
    with torch.no_grad():
        boxes, scores, labels, *masks = network(padded, torch.tensor([50, 90]))
        unclipped = network(padded, torch.tensor([64, 96]))[0]
    assert len(expected) > 2
    assert not torch.equal(boxes, unclipped)
    assert labels.tolist() == expected.labels.tolist()
    # Both are the same operations in float32, up to the order of sums.
    torch.testing.assert_close(scores, expected.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(boxes, expected.bboxes, rtol=0, atol=1e-3)
    assert [x.shape for x in masks] == [(len(boxes), 28, 28)] * (kind != 'retinanet')


@pytest.mark.slow
def test_an_exported_detector_finds_what_mmdet_finds_at_every_size(tmp_path, files):
    config, checkpoint, model = files('mmdet', DETECTOR + DETECTORS['mask_rcnn'], 0.2)
    exported = export(config, checkpoint, tmp_path / 'x.onnx', dynamic=True)
    from_file = ModelFromFile(ExportedFile(exported.path))
    for height, width in [(64, 96), (32, 32), (100, 70)]:  # mmdet and the file pad the last
        image = image_of(height, width)
        expected = detect(model, image, (2 * height, 2 * width))
        found = detect(from_file, image, (2 * height, 2 * width))
        assert found.labels.tolist() == expected.labels.tolist()
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=0, atol=1e-2)
        assert (found.masks != expected.masks).float().mean() < 1e-3
        assert found.masks.shape[1:] == (2 * height, 2 * width)
    # The mean color becomes zero: with biases of zero, no class has more than a quarter.
    empty = exported(exported.network.mean.repeat(1, 64, 64)[None], torch.tensor([64, 64]))
    assert [tuple(x.shape) for x in empty] == [(0, 4), (0,), (0,), (0, 28, 28)]
    assert {key: exported.metadata[key] for key in ('task', 'part', 'channel_order')} == dict(
        task='detection', part='model', channel_order='RGB'
    )
    assert exported.metadata['classes'] == ['0', '1', '2']
    assert exported.metadata['size'] is None and exported.metadata['divisor'] == 32
    assert exported.metadata['transforms'] == [
        dict(
            type='Resize', scale=[96, 64], keep_ratio=True, interpolation='bilinear', backend='cv2'
        )
    ]
    with pytest.raises(ValueError, match=r'takes images \(1, 3, H, W\) .* multiples of 32, got'):
        exported(torch.zeros(2, 3, 64, 64), torch.tensor([64, 64]))
    exported.network.network.cfg.score_thr = 1
    message = str(deployment.compare(exported, (1, 3, 64, 96)))
    assert re.match(r'64x96: finds [1-9]\d* objects, and PyTorch 0; takes \d+ ms', message)


@pytest.mark.slow
def test_an_exported_segmenter_has_the_metric_of_its_checkpoint(tmp_path, files, monkeypatch):
    rng = np.random.default_rng(0)
    for folder in ('img', 'ann'):
        (tmp_path / folder).mkdir()
    for i in range(2):
        picture = image_of(60, 100).permute(1, 2, 0).numpy() + rng.integers(0, 20, (60, 100, 3))
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(tmp_path / f'img/{i}.jpg')
        labels = rng.integers(0, 3, (60, 100), dtype=np.uint8)
        Image.fromarray(labels).save(tmp_path / f'ann/{i}.png')
    config, checkpoint, _ = files('mmseg', SEGMENTER.format(root=tmp_path), 0.2)
    exported = tmp_path / 'x.onnx'
    written = export(config, checkpoint, exported, size=(64, 64), scores=True)
    runner = Path(deployment.__file__).with_name('run_model.py')
    assert copy_runner(written) == copy_runner(written)  # the second time, it is there
    assert (tmp_path / 'run_model.py').read_bytes() == runner.read_bytes()
    (tmp_path / 'run_model.py').write_text('mine')
    assert 'is another file' in copy_runner(written)
    assert (tmp_path / 'run_model.py').read_text() == 'mine'
    opened, read = [], exported_files._read_onnx
    monkeypatch.setattr(exported_files, '_read_onnx', lambda x: opened.append(x) or read(x))
    metrics = [apis.test(config, str(x), str(tmp_path / 'w')) for x in (checkpoint, exported)]
    assert opened == [exported]
    assert 0 < metrics[0]['mIoU'] < 100
    assert metrics[1]['mIoU'] == pytest.approx(metrics[0]['mIoU'], abs=0.05)
    with pytest.raises(ValueError, match=r'tta needs a checkpoint, got the exported file'):
        apis.test(config, str(exported), tta=True)
    other = {
        'model.decode_head.num_classes': 4,
        'test_dataloader.dataset.metainfo': dict(classes=[*'abcd'], palette=[[9] * 3] * 4),
    }
    with pytest.raises(ValueError, match=r'x.onnx has classes 3, but .*mmseg.py has 4'):
        apis.test(config, str(exported), cfg_options=other)
    large = {'test_dataloader.dataset.pipeline.1.scale': (128, 128)}
    with pytest.raises(ValueError, match=r'takes images of 64x64, got 128x128 of .*0.jpg after'):
        apis.test(config, str(exported), str(tmp_path / 'w'), cfg_options=large)


def test_a_dynamic_segmenter_upsamples_to_every_size(files):
    head = "type='FPNHead', feature_strides=[4, 8], in_channels=[8, 16], in_index=[0, 1],"
    text = SEGMENTER.replace("type='FCNHead', in_channels=8, in_index=0,", head)
    *_, model = files('mmseg', text.replace('num_convs=1, ', ''), 0.2)
    x = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        expected = model(x)  # a quarter of the size, as mmseg computes it
        expected = torch.nn.functional.interpolate(expected, (96, 64), mode='bilinear')
        network = whole_model(model, 'mmseg', with_scores=True).network
        height, width = torch.export.Dim('height'), torch.export.Dim('width')
        program = torch.export.export(
            network, (torch.rand(1, 3, 64, 128),), dynamic_shapes=({2: 32 * height, 3: 32 * width},)
        )
        scores = program.module()(x)[1]
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)


def test_what_differs_from_mmdets_computation_is_refused(tmp_path, files):
    config, checkpoint, _ = files('mmdet', DETECTOR + RETINANET)
    text = config.read_text()
    for old, new, message in [
        ("type='RetinaHead'", "type='RetinaSepBNHead', num_ins=5", 'model.bbox_head must be one'),
        ("type='nms'", "type='soft_nms'", "model.test_cfg.nms.type must be 'nms' to be exported"),
        ("type='Resize', scale", "type='Pad', size", 'pipeline must resize by Resize'),
        ("default_scope = 'mmdet'", "default_scope = 'mmagic'", 'only models of mmpretrain, mmseg'),
    ]:
        config.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=f'{message}.*with --part backbone'):
            export(config, checkpoint, tmp_path / 'x.pt2', 'torch_export')
    resize = "dict(type='Resize', scale=(96, 64), keep_ratio=True)"
    config.write_text(text.replace(resize, "'Resize'"))
    with pytest.raises(ValueError, match=r'must resize by .*, got Resize: export the backbone'):
        export(config, checkpoint, tmp_path / 'x.pt2', 'torch_export')
    config.write_text(text.replace("type='Resize', scale", "type='Pad', size"))
    with pytest.raises(ValueError, match=r'must resize by .*: give the size .* with --size'):
        export(config, checkpoint, tmp_path / 'x.pt2', 'torch_export', part='backbone')
    config.write_text(text)
    for options, message in [
        (dict(size=(16, 64)), r'size must be .* of 32 to 16384, got \(16, 64\)'),
        (dict(size=(64, 20000)), r'size must be .* of 32 to 16384, got \(64, 20000\)'),
        (dict(size=(64, 64), dynamic=True), 'size must be left out of a dynamic file'),
        (dict(part='head'), "part must be model or backbone, got 'head'"),
        (dict(scores=True), 'scores are for segmenters'),
        (dict(cfg_options={'model.test_cfg.nms.type': 'soft_nms'}), "type must be 'nms' to be exp"),
    ]:
        with pytest.raises(ValueError, match=message):
            export(config, checkpoint, tmp_path / 'x.pt2', 'torch_export', **options)
    assert not [*tmp_path.glob('*.pt2')]
    (tmp_path / 'x.onnx').write_text('no')
    with pytest.raises(ValueError, match=r'x.onnx is no exported network'):
        ExportedFile(tmp_path / 'x.onnx')


@pytest.mark.parametrize(
    ('scope', 'scale', 'keep_ratio', 'expected'),
    [
        ('mmdet', (90, 60), True, (64, 96)),
        ('mmdet', (60, 90), True, (64, 96)),  # for landscapes, whichever side comes first
        ('mmdet', (60, 90), False, (96, 64)),
        ('mmpretrain', (60, 90), False, (90, 60)),  # not padded
    ],
)
def test_the_default_size_is_that_of_the_test_pipeline(scope, scale, keep_ratio, expected):
    pipeline = [dict(type='Resize', scale=scale, keep_ratio=keep_ratio)]
    cfg = Config(dict(default_scope=scope, model={}, test_pipeline=pipeline))
    assert default_size(cfg) == expected


RESIZE = dict(type='Resize', scale=[90, 60], keep_ratio=True)
STRETCH = RESIZE | dict(keep_ratio=False)
CROP = dict(type='CenterCrop', crop_size=[64, 96])


@pytest.mark.parametrize(
    ('task', 'transform', 'size', 'warning'),
    [
        ('detection', RESIZE, [96, 96], ''),  # for landscapes and portraits
        ('detection', RESIZE, [64, 97], 'with sides of at most 90: all that is gained is padding'),
        ('detection', STRETCH, [64, 96], ''),
        ('detection', STRETCH, [96, 96], 'images of 60x90: all that is gained is padding'),
        ('detection', STRETCH, [32, 96], 'images of 60x90: run_model.py and tools/test.py will re'),
        ('classification', CROP, [64, 96], ''),
        ('classification', CROP, [96, 96], 'images of 64x96: run_model.py and tools/test.py will'),
        ('classification', STRETCH, [60, 90], ''),
        ('classification', RESIZE, [96, 96], ''),
    ],
)
def test_a_size_that_the_test_pipeline_does_not_make_is_named(
    caplog, monkeypatch, task, transform, size, warning
):
    monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [caplog.handler])
    warn_of_size(dict(task=task, size=size, transforms=[transform]))
    assert warning in caplog.text
    assert bool(warning) == bool(caplog.text)
