"""The ablations of Tables 6 and 7."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmsecvit import SecViT, SecViTNeck
from mmsecvit.layers import CrossShapedAttention, KMeansAttention, WindowAttention

MICRO = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 2, 1), num_heads=(2, 2, 2, 4))


def classifier(arch='tiny', device='meta', **options):
    """Build the released network with its head, by default on the device meta."""
    with torch.device(device):
        backbone = SecViT(arch, 'released', attention_backend='reference', **options)
        return nn.Sequential(backbone, SecViTNeck(512), nn.Flatten(), nn.Linear(1024, 1000)).eval()


def millions(model):
    return sum(p.numel() for p in model.parameters()) / 1e6


def giga_multiply_adds(model):
    """Count those of the modules, as the paper does, and those of the two products of attention."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        maps = model[0](torch.zeros(1, 3, 224, 224))
        model[3](model[1](maps)[0])
    flops = counter.get_flop_counts()['Global']
    products = flops.pop(torch.ops.aten.bmm, 0)
    return sum(flops.values()) / 2e9, products / 2e9


# Parameters and FLOPs of Table 6.
@pytest.mark.parametrize(
    ('options', 'params', 'flops'),
    [
        (dict(), 15, 2.5),
        (dict(lce=False), 15, 2.5),
        (dict(cpe=False), 15, 2.5),
        (dict(stem='patch'), 14, 2.1),
    ],
)
def test_parameters_and_flops_of_table_6(options, params, flops):
    model = classifier(device='cpu', **options)
    assert round(millions(model)) == params
    assert giga_multiply_adds(model)[0] == pytest.approx(flops, abs=0.05)


@pytest.mark.parametrize('attention', ['window', 'cswin', 'kmeans'])
def test_no_rival_attention_has_parameters_of_its_own(attention):
    model = classifier(attention=attention)
    shapes = {name: p.shape for name, p in classifier().named_parameters()}
    assert {name: p.shape for name, p in model.named_parameters()} == shapes


def test_what_each_part_weighs():
    # Each channel of each block has 25 or 9 weights and a bias.
    channels = 2 * 64 + 2 * 128 + 9 * 256 + 2 * 512
    full = millions(classifier())
    assert (full - millions(classifier(lce=False))) * 1e6 == pytest.approx(26 * channels)
    assert (full - millions(classifier(cpe=False))) * 1e6 == pytest.approx(10 * channels)
    # 3x3 convolutions with biases and batch norms; a 4x4 one; 5 of the 9 weights of each kernel.
    stem = 9 * (3 * 32 + 2 * 32 * 32 + 32 * 64) + 3 * (3 * 32 + 64)
    patch = 16 * 3 * 64 + 3 * 64
    downsampling = 5 * (64 * 128 + 128 * 256 + 256 * 512)
    saved = (full - millions(classifier(stem='patch'))) * 1e6
    assert saved == pytest.approx(stem - patch + downsampling)


@pytest.mark.slow
def test_fewer_clusters_cost_more_as_in_table_7():
    settings = [(64, 16, 4, 1), (64, 16, 2, 1), (64, 8, 2, 1), (32, 8, 2, 1)]
    flops = [giga_multiply_adds(classifier('small', 'cpu', num_clusters=n)) for n in settings]
    modules, products = zip(*flops, strict=True)
    assert len(set(modules)) == 1
    # Of convolutions and linear layers only.
    assert modules[0] == pytest.approx(4.4, abs=0.06)
    assert list(products) == sorted(set(products))
    # Two products of (L / n) x (L / n) x C in each of n clusters, in each block.
    expected = sum(
        depth * 2 * length**2 // n * dims
        for depth, length, n, dims in zip(
            (3, 4, 18, 4), (3136, 784, 196, 49), (32, 8, 2, 1), (64, 128, 256, 512), strict=True
        )
    )
    assert products[-1] == pytest.approx(expected / 1e9)


@pytest.mark.parametrize('options', [dict(stem='patch'), dict(attention='window')])
@pytest.mark.parametrize('size', [(32, 32), (47, 70)])
def test_pyramid_of_any_size(options, size):
    outs = SecViT(MICRO, 'released', **options)(torch.randn(2, 3, *size))
    for i, (out, channels) in enumerate(zip(outs, MICRO['embed_dims'], strict=True)):
        stride = 2 ** (i + 2)
        assert out.shape == (2, channels, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize('attention', ['window', 'cswin', 'kmeans'])
def test_where_one_group_holds_the_map_all_attentions_agree(attention):
    # At 32x32 the third stage has 2x2 tokens: every window holds all of them.
    options = dict(num_clusters=(1, 1, 1, 1))
    own = SecViT(MICRO, 'released', **options).eval()
    rival = SecViT(MICRO, 'released', attention=attention, **options).eval()
    rival.load_state_dict(own.state_dict())
    x = torch.randn(1, 2, 2, 32)
    rotary = own.block_inputs(2, x)
    for block, other in zip(own.stages[2], rival.stages[2], strict=True):
        torch.testing.assert_close(other(x, *rotary), block(x, *rotary))


def test_stripes_are_those_of_cswin_and_windows_those_of_swin():
    attentions = {
        name: [stage[0].attn for stage in SecViT(MICRO, attention=name).stages]
        for name in ('cswin', 'window', 'kmeans')
    }
    assert all(isinstance(attn, CrossShapedAttention) for attn in attentions['cswin'])
    assert [attn.stripe for attn in attentions['cswin']] == [1, 2, 7, 7]
    assert all(isinstance(attn, WindowAttention) for attn in attentions['window'])
    assert [attn.window for attn in attentions['window']] == [7, 7, 7, 7]
    assert all(isinstance(attn, KMeansAttention) for attn in attentions['kmeans'])
    assert [attn.num_clusters for attn in attentions['kmeans']] == [32, 8, 2, 1]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(attention='swin'), "attention must be one of sec, window, cswin, kmeans, got 'swin'"),
        (dict(stem='linear'), "stem must be conv or patch, got 'linear'"),
        (dict(arch='base', attention='cswin'), 'num_heads must be even for cross-shaped windows'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SecViT(**arguments)
