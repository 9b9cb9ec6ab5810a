import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmsecvit.apis import export
from mmsecvit.apis.exported_testing import ModelFromFile

pytestmark = pytest.mark.skipif(
    any(
        pytest.importorskip(name) is None for name in ('mmdet', 'onnx', 'onnxscript', 'onnxruntime')
    ),
    reason='needs the extra `export`',
)
BASE = """
custom_imports = dict(imports=['mmsecvit'])
default_scope = '{scope}'
backbone = dict(
    type='SecViT',
    arch=dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)),
    variant='released',
    norm_cfg=dict(type='SyncBN'),
    out_norm=True,
)
fpn = dict(type='FPN', in_channels=[16, 16, 32, 32], out_channels=16, num_outs=5)
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
            strides=[4, 8, 16, 32, 64],
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
    featmap_strides=[4, 8, 16, 32],
    finest_scale=14,  # these boxes are small: all levels have some
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
            type='AnchorGenerator', scales=[4], ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]
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
            if 'head' in name:  # far from 0.5, so that rounding changes no order
                torch.nn.init.normal_(weight, std=spread)
        torch.save(dict(state_dict=model.state_dict()), checkpoint)
        from mmengine.model import revert_sync_batchnorm

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


@pytest.mark.slow
@pytest.mark.parametrize(
    'text',
    [
        RETINANET,
        TWO_STAGES.format(stages=1, agnostic=False),
        TWO_STAGES.format(stages=3, agnostic=True),
        TWO_STAGES.format(stages=3, agnostic=False),
    ],
    ids=['retinanet', 'mask_rcnn', 'agnostic_cascade', 'cascade'],
)
def test_an_exported_detector_finds_what_mmdet_finds(tmp_path, files, text):
    spread = 0.1 if text == RETINANET else 0.3
    config, checkpoint, model = files('mmdet', DETECTOR + text, spread)
    exported = export(config, checkpoint, tmp_path / 'x.onnx')
    image = image_of(64, 96)
    expected = detect(model, image, (128, 192))
    found = detect(ModelFromFile(exported.path), image, (128, 192))
    assert len(expected) > 5
    assert found.labels.tolist() == expected.labels.tolist()
    torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-4)
    torch.testing.assert_close(found.bboxes, expected.bboxes, rtol=0, atol=1e-2)
    if 'masks' in expected:
        assert (found.masks != expected.masks).float().mean() < 1e-3
