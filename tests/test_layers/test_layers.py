import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmsecvit.layers import (
    FFN,
    SECA,
    DepthwiseConv2d,
    conv_stem,
    downsampling,
    rotary_table,
    rotate,
)

pytestmark = pytest.mark.usefixtures('on_the_gpu')


def seca_from_golden(case):
    """SECA with a golden case's weights, and the case's input with channels last."""
    x = case['input'].permute(0, 2, 3, 1).to(torch.get_default_device())
    seca = SECA(x.shape[-1], case['heads'], case['clusters'])
    names = {'lepe': 'lce', 'out_proj': 'proj', 'qkv': 'qkv'}
    weights = {}
    for key, value in case['state_dict'].items():
        module, kind = key.split('.')
        value = value.flatten(1) if module != 'lepe' and kind == 'weight' else value
        weights[f'{names[module]}.{kind}'] = value
    seca.load_state_dict(weights)
    return seca, x


@pytest.mark.parametrize('case', range(4))
def test_seca_matches_the_released_attention(golden, case):
    case = golden['seca'][case]
    seca, x = seca_from_golden(case)
    # Two sums over the channels: those of queries, keys and values, and that of the projection.
    rounding = 2 * x.shape[-1] * torch.finfo(torch.float32).eps
    out, expected = seca(x).permute(0, 3, 1, 2).cpu(), case['output']
    assert (out - expected).abs().max() <= rounding * expected.abs().max()
    nn.init.zeros_(seca.lce.weight)
    nn.init.zeros_(seca.lce.bias)
    out, expected = seca(x).permute(0, 3, 1, 2).cpu(), case['output_without_lce']
    assert (out - expected).abs().max() <= rounding * expected.abs().max()


def test_seca_adds_the_local_context_of_the_values_before_the_projection():
    # Eq. 6, with attention written out for a single cluster.
    seca = SECA(8, num_heads=2, num_clusters=1).double()
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    q, k, v = seca.qkv(x).flatten(1, 2).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    attended = (torch.softmax(q @ k.mT / 2, -1) @ v).transpose(1, 2).reshape(2, 4, 5, 8)
    v_map = v.transpose(1, 2).reshape(2, 4, 5, 8).permute(0, 3, 1, 2)
    local = F.conv2d(v_map, seca.lce.weight, seca.lce.bias, padding=2, groups=8)
    torch.testing.assert_close(seca(x), seca.proj(attended + local.permute(0, 2, 3, 1)))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ((10, 3, 2), 'embed_dims must be a multiple of num_heads, got 10 and 3'),
        ((8, 2, 0), 'num_clusters must be an integer of at least 1, got 0'),
        ((8, 2, 4, 'fast'), "backend must be one of auto, reference, sdpa, triton, got 'fast'"),
    ],
)
def test_seca_names_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        SECA(*arguments)


def test_ffn_is_two_linear_layers_with_gelu_between():
    ffn = FFN(6, 18).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    hidden = x @ ffn.fc1.weight.T + ffn.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(ffn(x), hidden @ ffn.fc2.weight.T + ffn.fc2.bias)


def test_ffn_of_the_released_network_adds_a_convolution_to_the_hidden_map():
    ffn = FFN(6, 18, with_conv=True).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    hidden = F.gelu(ffn.fc1(x))
    conv = F.conv2d(
        hidden.permute(0, 3, 1, 2), ffn.conv.weight, ffn.conv.bias, padding=1, groups=18
    )
    torch.testing.assert_close(ffn(x), ffn.fc2(hidden + conv.permute(0, 2, 3, 1)))


def test_a_depthwise_convolution_is_added_to_its_map():
    conv = DepthwiseConv2d(6, kernel_size=3).double()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    expected = F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=1, groups=6)
    torch.testing.assert_close(conv.add_to(x), x + expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize('final_act', [True, False])
@pytest.mark.parametrize('size', [(32, 32), (33, 46), (35, 63)])
def test_stem_has_strides_2_1_1_2_at_half_the_channels(final_act, size):
    stem = conv_stem(12, dict(type='BN'), final_act)
    convs = [m for m in stem if isinstance(m, nn.Conv2d)]
    assert [(c.stride[0], c.out_channels) for c in convs] == [(2, 6), (1, 6), (1, 6), (2, 12)]
    assert sum(isinstance(m, nn.GELU) for m in stem) == (4 if final_act else 3)
    assert sum(isinstance(m, nn.BatchNorm2d) for m in stem) == 4
    expected = (2, 12, -(-size[0] // 4), -(-size[1] // 4))
    assert stem(torch.randn(2, 3, *size)).shape == expected


@pytest.mark.parametrize('size', [(8, 8), (7, 9)])
def test_downsampling_halves_and_rounds_up(size):
    out = downsampling(4, 10, dict(type='BN'))(torch.randn(2, 4, *size))
    assert out.shape == (2, 10, -(-size[0] // 2), -(-size[1] // 2))


def test_rotation_turns_channel_pairs_by_frequency_times_row_then_column():
    height, width, dims = 3, 5, 16
    x = torch.randn(2, 3, height * width, dims, dtype=torch.float64)
    table = rotary_table(height, width, dims, torch.float64, x.device)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    expected = torch.empty_like(pairs)
    for token in range(height * width):
        for pair in range(dims // 2):
            frequency = 10000 ** -((pair % (dims // 4)) / (dims // 4 - 1))
            position = token // width if pair < dims // 4 else token % width
            turn = torch.exp(torch.tensor(1j * frequency * position))
            expected[:, :, token, pair] = pairs[:, :, token, pair] * turn
    torch.testing.assert_close(rotate(x, table), torch.view_as_real(expected).flatten(-2))


def test_rotated_products_depend_on_relative_position_only():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64).expand(2, 1, 1, 36, 8)
    table = rotary_table(6, 6, 8, torch.float64, q.device)
    products = (rotate(q, table) @ rotate(k, table).mT)[0, 0].view(6, 6, 6, 6)
    torch.testing.assert_close(products[0, 1, 2, 4], products[3, 2, 5, 5])
    assert not torch.isclose(products[0, 1, 2, 4], products[0, 1, 4, 2])


def test_rotation_keeps_the_dtype_of_half_precision():
    x = torch.randn(1, 1, 12, 8)
    table = rotary_table(3, 4, 8, torch.float32, x.device)
    half = rotate(x.bfloat16(), table)
    assert half.dtype == torch.bfloat16
    assert torch.equal(half, rotate(x.bfloat16().float(), table).bfloat16())
