from fractions import Fraction
from pathlib import Path

import pytest

from mmsecvit.analysis import Complexity, complexity_table, count_complexity, total

CONFIGS = Path(__file__).parents[2] / 'configs'
DIMS, DEPTHS, HEADS, CLUSTERS = (16, 16, 32, 32), (1, 2, 1, 1), (1, 2, 2, 4), (32, 8, 2, 1)
CLASSIFIER = f"""
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmsecvit'])
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SecViT',
        arch=dict(embed_dims={DIMS}, depths={DEPTHS}, num_heads={HEADS}),
        variant='released',
        out_indices=(3,),
        out_norm=True,
    ),
    neck=dict(type='SecViTNeck', in_channels=32, out_channels=64),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
"""
TRANSFORMER = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
        img_size=64,
        patch_size=16,
    ),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=16),
)
"""


def write(tmp_path, text):
    path = tmp_path / 'config.py'
    path.write_text(text)
    return path


def cluster_sizes(length, n):
    """Return sizes that differ by at most one."""
    return [length // n + (i < length % n) for i in range(n)]


def test_counts_are_those_of_the_closed_form(tmp_path):
    # 468, 117, 35 and 12 tokens: in three stages the clusters have two sizes.
    parts = count_complexity(write(tmp_path, CLASSIFIER), (72, 104))
    half = 36 * 52 * 8
    tokens = [18 * 26, 9 * 13, 5 * 7, 3 * 4]
    # Convolutions, and batch norm as one product and one sum.
    convs = half * 9 * (3 + 8 + 8) + tokens[0] * 16 * 9 * 8
    assert parts['stem'].module_flops == convs + 2 * (3 * half + tokens[0] * 16)
    for i, (c, length) in enumerate(zip(DIMS, tokens, strict=True)):
        cpe, lce, norms = 9 * c, 25 * c, 2 * 5 * c
        linear = (3 + 1 + 3 + 3) * c * c
        ffn_conv = 9 * 3 * c
        expected = DEPTHS[i] * length * (cpe + lce + norms + linear + ffn_conv)
        if i > 0:
            expected += length * c * (9 * DIMS[i - 1] + 2)
        squares = sum(size**2 for size in cluster_sizes(length, CLUSTERS[i]))
        part = parts[f'stage {i + 1}']
        assert part.module_flops == expected
        assert part.attention_flops == DEPTHS[i] * 2 * squares * c
    assert parts['out_norms'].module_flops == 5 * 32 * 12
    assert parts['neck'].module_flops == 12 * 64 * (32 + 2)
    assert parts['head'] == Complexity(64 * 10 + 10, 64 * 10, 0)
    assert list(parts)[-4:] == ['stage 4', 'out_norms', 'neck', 'head']


def test_the_cost_of_clusters_of_one_size_grows_with_the_pixels(tmp_path):
    options = {'model.backbone.num_clusters': None, 'model.backbone.cluster_size': 12}
    config = write(tmp_path, CLASSIFIER)
    for height, width in ((72, 104), (144, 208), (288, 416)):
        parts = count_complexity(config, (height, width), options)
        for i, c in enumerate(DIMS):
            length = -(-height // 2 ** (i + 2)) * -(-width // 2 ** (i + 2))
            number = max(1, round(Fraction(length, 12)))
            squares = sum(size**2 for size in cluster_sizes(length, number))
            assert parts[f'stage {i + 1}'].attention_flops == DEPTHS[i] * 2 * squares * c
            # A fixed number of clusters would cost up to 16 times as much here.
            assert squares <= 1.5 * 12 * length


def test_fused_attention_of_other_networks_is_counted(tmp_path):
    parts = count_complexity(write(tmp_path, TRANSFORMER), (64, 64))
    tokens = 4 * 4 + 1
    assert parts['backbone'].attention_flops == 3 * 2 * tokens**2 * 16
    linear = tokens * (3 + 1 + 2 + 2) * 16 * 16 * 3
    norms = tokens * 16 * 5 * (2 * 3 + 1)
    assert parts['backbone'].module_flops == 16 * 3 * 16 * 16 * 16 + linear + norms


def test_secvit_t(tmp_path):
    options = {
        'model.backbone': dict(_delete_=True, type='SecViT', arch='tiny', variant='released'),
        'model.neck': dict(in_channels=512, out_channels=1024),
        'model.head': dict(in_channels=1024, num_classes=1000),
    }
    whole = total(count_complexity(write(tmp_path, CLASSIFIER), cfg_options=options))
    # Table 8 has 15 M and 2.5 G, without the products of attention.
    assert whole.parameters / 1e6 == pytest.approx(14.98, abs=0.005)
    assert whole.module_flops / 1e9 == pytest.approx(2.51, abs=0.005)
    assert whole.flops / 1e9 == pytest.approx(2.72, abs=0.005)


def test_images_have_the_channels_of_the_backbone(tmp_path):
    config = write(tmp_path, CLASSIFIER)
    rgb, more = (
        count_complexity(config, (64, 64), {'model.backbone.in_channels': channels})
        for channels in (3, 5)
    )
    # A 3x3 convolution with stride 2 to 8 channels.
    assert more['stem'].module_flops - rgb['stem'].module_flops == 2 * 9 * 8 * 32 * 32
    assert more['stem'].parameters - rgb['stem'].parameters == 2 * 9 * 8


def test_roi_heads_see_a_thousand_boxes_and_a_hundred_masks():
    parts = count_complexity(CONFIGS / 'mask_rcnn_secvit_digits.py', (64, 96))
    box = 7 * 7 * 48 * 256 + 256 * 256 + 256 * (11 + 4)
    assert parts['bbox_head'].module_flops == 1000 * box
    mask = 7 * 7 * 48 * (2 * 9 * 48 + 4 * 48) + 14 * 14 * 48
    assert parts['mask_head'].module_flops == 100 * mask
    assert list(parts)[-4:] == ['neck', 'rpn_head', 'bbox_head', 'mask_head']


def test_table():
    parts = dict(stem=Complexity(40_000, 300_000_000, 0), head=Complexity(10, 20, 5_000_000))
    assert complexity_table(parts).splitlines()[2:] == [
        '| stem | 0.04 | 0.30 | 0.00 | 0.30 |',
        '| head | 0.00 | 0.00 | 0.01 | 0.01 |',
        '| total | 0.04 | 0.30 | 0.01 | 0.31 |',
    ]


@pytest.mark.parametrize(
    ('text', 'shape', 'message'),
    [
        ('default_scope = "mmdet"', None, 'config must have a model, but .*config.py has none'),
        (
            CLASSIFIER,
            (31, 64),
            r'shape must be a height and a width of at least 32, got \(31, 64\)',
        ),
        (CLASSIFIER, (64,), r'shape must be a height and a width of at least 32, got \(64,\)'),
        (
            CLASSIFIER.replace('default_scope', 'scope'),
            None,
            'shape must be given unless default_scope is one of mmdet, mmseg, mmpretrain',
        ),
    ],
)
def test_bad_arguments_are_named(tmp_path, text, shape, message):
    with pytest.raises(ValueError, match=message):
        count_complexity(write(tmp_path, text), shape)


TOOLBOX_MODEL = """
_base_ = 'mmdet::{base}'
custom_imports = dict(imports=['mmsecvit'])
backbone = dict(
    _delete_=True,
    type='SecViT',
    variant='released',
    arch=dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)),
    out_indices={stages},
)
"""
CONDITIONAL_DETR = """
model = dict(
    backbone=backbone,
    neck=dict(in_channels=[32]),
    num_queries=7,
    encoder=dict(num_layers=1),
    decoder=dict(num_layers=1),
)
"""
SPARSE_RCNN = """
model = dict(
    backbone=backbone, neck=dict(in_channels=[16, 16, 32, 32]), rpn_head=dict(num_proposals=7)
)
"""
SOFT_TEACHER = """
model = dict(detector=dict(backbone=backbone, neck=dict(in_channels=[16, 16, 32, 32])))
"""


def count_toolbox_model(tmp_path, base, stages, text):
    pytest.importorskip('mmdet')
    config = write(tmp_path, TOOLBOX_MODEL.format(base=base, stages=stages) + text)
    return count_complexity(config, (64, 96))


@pytest.mark.slow
def test_transformers_that_need_data_samples_are_counted(tmp_path):
    base = 'conditional_detr/conditional-detr_r50_8xb2-50e_coco.py'
    parts = count_toolbox_model(tmp_path, base, (3,), CONDITIONAL_DETR)
    tokens = 2 * 3
    # A 1x1 convolution, and group norm.
    assert 0 <= parts['neck'].module_flops - tokens * 32 * 256 <= 6 * tokens * 256
    assert parts['encoder'].module_flops > tokens * 2 * 256 * 2048
    assert parts['bbox_head'].module_flops >= 7 * 256 * 80


@pytest.mark.slow
def test_learned_proposals_are_counted_as_many_as_there_are(tmp_path):
    base = 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py'
    parts = count_toolbox_model(tmp_path, base, (0, 1, 2, 3), SPARSE_RCNN)
    # Six stages classify seven proposals each.
    assert 6 * 7 * 256 * 80 < parts['bbox_head'].module_flops < 10**10


@pytest.mark.slow
def test_a_detector_that_a_model_holds_twice_is_counted_once(tmp_path):
    base = 'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py'
    parts = count_toolbox_model(tmp_path, base, (0, 1, 2, 3), SOFT_TEACHER)
    assert parts['bbox_head'].module_flops >= 1000 * 256 * 7 * 7 * 1024
    assert list(parts)[-3:] == ['neck', 'rpn_head', 'bbox_head']
