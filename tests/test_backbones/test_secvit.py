import re

import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from mmsecvit import SecViT, SecViTNeck
from mmsecvit.backbones.secvit import SecViTBlock
from mmsecvit.checkpoints import from_released
from mmsecvit.layers import SECA

MICRO = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))
FOUR_CLUSTERS = 'num_clusters must be four integers of at least 1, got '


def part(state_dict, prefix):
    return {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}


@pytest.mark.parametrize('case', range(2))
@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
def test_released_variant_matches_the_authors_network(golden, case, backend):
    config, case, rounding = golden['config'], golden['cases'][case], golden['rounding']
    backbone = SecViT(
        arch=dict(
            embed_dims=config['embed_dims'],
            depths=config['depths'],
            num_heads=config['num_heads'],
            layer_scale=config['layerscales'],
        ),
        variant='released',
        num_clusters=config['num_clusters'],
        attention_backend=backend,
    )
    neck = SecViTNeck(config['embed_dims'][-1], config['projection'])
    fc = nn.Linear(config['projection'], config['num_classes'])
    weights = from_released(golden['state_dict'])
    backbone.load_state_dict(part(weights, 'backbone.'))
    neck.load_state_dict(part(weights, 'neck.'))
    fc.load_state_dict(part(weights, 'head.fc.'))
    backbone.eval()
    neck.eval()
    with torch.no_grad():
        outs = backbone(case['input'])
        logits = fc(neck(outs)[0])
    for out, expected in zip((*outs, logits), (*case['stages'], case['logits']), strict=True):
        assert (out - expected).abs().max() <= rounding * expected.abs().max()


# The released network with its head, with and without the FFN's convolution (Table 8 has 15, 27, 55
# and 96).
@pytest.mark.parametrize(
    ('arch', 'released', 'without_ffn_conv'),
    [
        ('tiny', 14.98, 14.87),
        ('small', 26.78, 26.56),
        ('base', 54.68, 54.26),
        ('large', 96.50, 95.92),
    ],
)
def test_parameters(arch, released, without_ffn_conv):
    counts = {}
    for variant in ('paper', 'released'):
        backbone = SecViT(arch, variant)
        width = backbone.downsamples[-1].conv.out_channels
        model = nn.ModuleList([backbone, SecViTNeck(width), nn.Linear(1024, 1000)])
        names_and_sizes = [(n, p.numel()) for n, p in model.named_parameters()]
        counts[variant] = sum(size for _, size in names_and_sizes)
        if variant == 'released':
            layer_scale = sum(size for name, size in names_and_sizes if '.scale' in name)
    assert counts['released'] / 1e6 == pytest.approx(released, abs=0.006)
    assert (counts['paper'] + layer_scale) / 1e6 == pytest.approx(without_ffn_conv, abs=0.006)


@pytest.mark.parametrize(
    ('arch', 'depths', 'channels', 'heads', 'drop_path_rate'),
    [
        ('t', [2, 2, 9, 2], [64, 128, 256, 512], [2, 4, 8, 16], 0.1),
        ('s', [3, 4, 18, 4], [64, 128, 256, 512], [2, 4, 8, 16], 0.15),
        ('b', [4, 8, 26, 8], [80, 160, 320, 512], [5, 5, 10, 16], 0.4),
        ('l', [4, 8, 26, 8], [112, 224, 448, 640], [7, 7, 14, 20], 0.5),
    ],
)
def test_architectures_are_those_of_table_8(arch, depths, channels, heads, drop_path_rate):
    backbone = SecViT(arch)
    assert [len(stage) for stage in backbone.stages] == depths
    assert [stage[0].norm1.normalized_shape[0] for stage in backbone.stages] == channels
    assert [stage[0].attn.num_heads for stage in backbone.stages] == heads
    assert [stage[0].attn.num_clusters for stage in backbone.stages] == [32, 8, 2, 1]
    assert [stage[0].ffn.fc1.out_features for stage in backbone.stages] == [3 * c for c in channels]
    rates = [block.drop_path.drop_prob for stage in backbone.stages for block in stage]
    last = sum(depths) - 1
    assert rates == pytest.approx([drop_path_rate * i / last for i in range(last + 1)])


def test_block_is_eq_1():
    block = (
        SecViTBlock(8, SECA(8, num_heads=2, num_clusters=4), feedforward_channels=24)
        .double()
        .eval()
    )
    x_in = torch.randn(2, 5, 6, 8, dtype=torch.float64)
    cpe = F.conv2d(x_in.permute(0, 3, 1, 2), block.cpe.weight, block.cpe.bias, padding=1, groups=8)
    x = cpe.permute(0, 2, 3, 1) + x_in
    norm1 = F.layer_norm(x, (8,), block.norm1.weight, block.norm1.bias, 1e-6)
    y = block.attn(norm1) + x
    norm2 = F.layer_norm(y, (8,), block.norm2.weight, block.norm2.bias, 1e-6)
    torch.testing.assert_close(block(x_in), block.ffn(norm2) + y)


def test_layer_scale_starts_at_1e_6_in_the_stages_that_have_it():
    backbone = SecViT(dict(MICRO, layer_scale=(False, False, True, True)), 'released')
    scales = {n: p for n, p in backbone.named_parameters() if '.scale' in n}
    assert {n.split('.')[1] for n in scales} == {'2', '3'}
    assert len(scales) == 2 * 3
    assert all(torch.equal(p, torch.full_like(p, 1e-6)) for p in scales.values())


@pytest.mark.parametrize('variant', ['paper', 'released'])
@pytest.mark.parametrize('size', [(32, 32), (33, 61), (47, 32), (97, 130)])
def test_pyramid_of_any_size(variant, size):
    backbone = SecViT(MICRO, variant)
    outs = backbone(torch.randn(2, 3, *size))
    for i, (out, channels) in enumerate(zip(outs, MICRO['embed_dims'], strict=True)):
        stride = 2 ** (i + 2)
        assert out.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))
        assert out.is_contiguous()


def test_out_indices_choose_the_same_maps_without_building_the_rest():
    full = SecViT(MICRO, 'released').eval()
    some = SecViT(MICRO, 'released', out_indices=(0, 2)).eval()
    assert len(some.stages) == 3
    some.load_state_dict(full.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    for out, expected in zip(some(x), (full(x)[0], full(x)[2]), strict=True):
        torch.testing.assert_close(out, expected)


def test_out_norm_normalizes_the_channels_of_each_map():
    backbone = SecViT(MICRO, out_norm=True, out_indices=(1, 3))
    plain = SecViT(MICRO, out_indices=(1, 3))
    plain.load_state_dict(backbone.state_dict(), strict=False)
    x = torch.randn(2, 3, 64, 96)
    for out, raw in zip(backbone.eval()(x), plain.eval()(x), strict=True):
        mean, var = raw.mean(1, keepdim=True), raw.var(1, keepdim=True, correction=0)
        torch.testing.assert_close(out, (raw - mean) / (var + 1e-6).sqrt())


def test_norm_cfg_decides_stem_and_downsampling():
    backbone = SecViT(MICRO, norm_cfg=dict(type='SyncBN'))
    norms = [m for m in backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 4 + 3
    assert all(isinstance(m, nn.SyncBatchNorm) for m in norms)


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2, 4])
def test_frozen_stages_are_left_as_they_are_and_all_others_learn(frozen_stages):
    backbone = SecViT(
        MICRO, 'released', out_norm=True, frozen_stages=frozen_stages, drop_path_rate=0.0
    )
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    backbone.train()
    x = torch.randn(2, 3, 64, 64, requires_grad=True)
    sum(out.square().mean() for out in backbone(x)).backward()

    frozen = [r'stem'] if frozen_stages >= 0 else []
    for i in range(frozen_stages):
        frozen += [rf'stages\.{i}', rf'downsamples\.{i - 1}', rf'out_norms\.{i}']
    is_frozen = re.compile('|'.join(rf'{name}\.' for name in frozen) or r'$^')
    for name, p in backbone.named_parameters():
        assert p.requires_grad == (is_frozen.match(name) is None), name
        assert (p.grad is not None) == p.requires_grad, name
    for name, buffer in backbone.named_buffers():
        if name.endswith('running_mean'):
            assert torch.equal(buffer, before[name]) == bool(is_frozen.match(name)), name


def test_norm_eval_keeps_running_statistics():
    for norm_eval in (True, False):
        backbone = SecViT(MICRO, norm_eval=norm_eval).train()
        backbone(torch.randn(2, 3, 64, 64))
        unchanged = torch.equal(backbone.stem[1].running_mean, torch.zeros(8))
        assert unchanged == norm_eval


def test_activation_checkpointing_changes_no_value_and_no_gradient():
    plain = SecViT(MICRO, 'released', drop_path_rate=0.5).double()
    saving = SecViT(MICRO, 'released', drop_path_rate=0.5, with_cp=True).double()
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    results = []
    for backbone in (plain, saving):
        torch.manual_seed(1)
        outs = backbone.train()(x)
        sum(out.square().sum() for out in outs).backward()
        results.append((outs, [p.grad for p in backbone.parameters()]))
    torch.testing.assert_close(results[1], results[0])


def test_gradients_have_the_strides_of_their_parameters():
    # With other strides, DDP warns and copies them at every step.
    backbone = SecViT(MICRO, 'released', drop_path_rate=0.0).train()
    sum(out.square().mean() for out in backbone(torch.randn(2, 3, 64, 64))).backward()
    for name, p in backbone.named_parameters():
        assert p.grad.stride() == p.stride(), name


def test_stochastic_depth_drops_whole_branches_of_samples():
    block = SecViTBlock(8, SECA(8, 2, 2), 24, drop_path_rate=0.5).train()
    nn.init.zeros_(block.cpe.weight)
    nn.init.zeros_(block.cpe.bias)
    x = torch.randn(64, 2, 2, 8)
    kept = (block(x) != x).flatten(1).any(1)
    # Each of the two branches is kept with probability 1/2, so about 3/4 of the samples change.
    assert 0.5 < kept.float().mean() < 0.95


def test_images_of_a_batch_do_not_depend_on_each_other():
    backbone = SecViT(MICRO, 'released').double().eval()
    x = torch.randn(3, 3, 40, 56, dtype=torch.float64)
    together = backbone(x)
    for i in range(3):
        for out, expected in zip(together, backbone(x[i : i + 1]), strict=True):
            torch.testing.assert_close(out[i : i + 1], expected)


def test_bfloat16_autocast_stays_close_to_float32():
    backbone = SecViT(MICRO, 'released').eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        exact = backbone(x)[0]
        with torch.autocast('cpu', torch.bfloat16):
            close = backbone(x)[0]
    assert (close - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_compiles_to_one_graph():
    backbone = SecViT(MICRO, 'released').eval()
    graphs = CompileCounterWithBackend('eager')
    compiled = torch.compile(backbone, backend=graphs, fullgraph=True, dynamic=False)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), backbone(x))
    assert graphs.frame_count == 1


@pytest.mark.slow
def test_compiles_once_for_all_sizes():
    # Two stages: tracing symbolic sizes is slow, and the other stages would add nothing.
    backbone = SecViT(MICRO, 'released', out_indices=(0, 1)).eval()
    graphs = CompileCounterWithBackend('eager')
    compiled = torch.compile(backbone, backend=graphs, fullgraph=True, dynamic=True)
    counts = []
    for size in [(64, 96), (128, 64), (96, 160)]:
        x = torch.randn(2, 3, *size)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), backbone(x))
        counts.append(graphs.frame_count)
    assert counts == [counts[0]] * 3


def test_default_initialization_of_linear_layers_is_a_narrow_normal():
    backbone = SecViT('tiny')
    backbone.init_weights()
    weights = torch.cat(
        [m.weight.flatten() for m in backbone.modules() if isinstance(m, nn.Linear)]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.01)
    biases = torch.cat([m.bias for m in backbone.modules() if isinstance(m, nn.Linear)])
    assert torch.equal(biases, torch.zeros_like(biases))


@pytest.mark.parametrize('toolbox', ['mmdet', 'mmseg', 'mmpretrain'])
def test_every_toolbox_finds_the_backbone(toolbox):
    pytest.importorskip(toolbox)
    with DefaultScope.overwrite_default_scope(toolbox):
        backbone = MODELS.build(dict(type='SecViT', arch='tiny', out_norm=True))
    assert type(backbone) is SecViT


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='huge'), "arch must be one of tiny, .*, t, s, b, l or a dict, got 'huge'"),
        (dict(arch=['tiny']), r"arch must be one of .* or a dict, got \['tiny'\]"),
        (dict(arch=5), 'arch must be one of .* or a dict, got 5'),
        (dict(arch=dict(depths=(1,) * 4)), 'arch must have the keys depths, embed_dims, num_heads'),
        (dict(arch=dict(MICRO, width=2)), 'arch must have the keys'),
        (
            dict(arch=dict(MICRO, depths=(1, 1))),
            r"arch\['depths'\] must be four integers of at least 1, got \(1, 1\)",
        ),
        (
            dict(arch=dict(MICRO, embed_dims='wide')),
            r"arch\['embed_dims'\] must be four integers of at least 1, got 'wide'",
        ),
        (
            dict(arch=dict(MICRO, num_heads=(0, 2, 2, 4))),
            r"arch\['num_heads'\] must be four integers of at least 1, got \(0, 2, 2, 4\)",
        ),
        (
            dict(arch=dict(MICRO, layer_scale=True)),
            r"arch\['layer_scale'\] must have four entries, got True",
        ),
        (
            dict(arch=dict(MICRO, ffn_ratio='3')),
            r"arch\['ffn_ratio'\] must be a positive number, got '3'",
        ),
        (
            # This error comes before the one about multiples of 4.
            dict(arch=dict(MICRO, num_heads=(1, 3, 2, 4)), variant='released'),
            r"arch\['embed_dims'\] must be multiples of arch\['num_heads'\], "
            r'got \(16, 16, 32, 32\) and \(1, 3, 2, 4\)',
        ),
        (
            dict(arch=dict(MICRO, num_heads=(8, 2, 2, 4)), variant='released'),
            'arch must have head dimensions that are multiples of 4',
        ),
        (dict(variant='swin'), "variant must be one of paper, released, got 'swin'"),
        (dict(variant=['paper']), r"variant must be one of paper, released, got \['paper'\]"),
        (dict(num_clusters=(32, 8)), FOUR_CLUSTERS + r'\(32, 8\)'),
        (dict(num_clusters=(32, 8, 0, 1)), FOUR_CLUSTERS + r'\(32, 8, 0, 1\)'),
        (dict(num_clusters=(32, 8, 2.0, 1)), FOUR_CLUSTERS + r'\(32, 8, 2.0, 1\)'),
        (dict(num_clusters=(32, 8, 2, True)), FOUR_CLUSTERS + r'\(32, 8, 2, True\)'),
        (dict(num_clusters=8), FOUR_CLUSTERS + '8'),
        (dict(num_clusters=8.0), FOUR_CLUSTERS + '8.0'),
        (dict(num_clusters='many'), FOUR_CLUSTERS + "'many'"),
        (dict(out_indices=(0, 4)), 'out_indices must be rising stages among 0 to 3'),
        (dict(out_indices=(3, 0)), 'out_indices must be rising stages among 0 to 3'),
        (dict(out_indices=3), 'out_indices must be rising stages among 0 to 3, got 3'),
        (dict(out_indices=()), 'out_indices must be rising stages among 0 to 3'),
        (dict(frozen_stages=5), 'frozen_stages must be from -1 to 4, got 5'),
        (dict(drop_path_rate=1.0), r'drop_path_rate must be in \[0, 1\), got 1.0'),
        (dict(drop_path_rate='0.1'), r"drop_path_rate must be in \[0, 1\), got '0.1'"),
        (dict(attention_backend='fast'), 'backend must be one of auto, reference, sdpa'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SecViT(**arguments)


@pytest.mark.parametrize(
    'x',
    [
        torch.zeros(3, 64, 64),
        torch.zeros(1, 1, 64, 64),
        torch.zeros(1, 3, 31, 64),
        torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
    ],
)
def test_bad_images_are_refused(x):
    with pytest.raises(ValueError, match=r'x must be floating images of the shape \(B, 3, H, W\)'):
        SecViT(MICRO)(x)
