"""The alternatives to semantic clusters, and FasterViT's positions."""

import math
from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from mmsecvit.layers import (
    SECA,
    CrossShapedAttention,
    KMeansAttention,
    WindowAttention,
    WindowPosition,
    patch_stem,
)
from mmsecvit.layers.convolution import downsampling
from mmsecvit.layers.position import WindowBias
from mmsecvit.ops import kmeans_order, sec_attention

pytestmark = pytest.mark.usefixtures('on_the_gpu')


def heads_of(attention, x):
    """Queries, keys and values of each head, (B, heads, L, d)."""
    qkv = attention.qkv(x).flatten(1, 2).unflatten(-1, (3, attention.num_heads, -1))
    return qkv.permute(2, 0, 3, 1, 4)


def project(attention, out, x):
    return attention.proj(out.transpose(1, 2).reshape(x.shape))


def test_window_attention_is_swins_without_shift_and_bias():
    utils = pytest.importorskip('mmpretrain.models.utils')
    swin = utils.ShiftWindowMSA(12, num_heads=3, window_size=7).double()
    own = WindowAttention(12, num_heads=3, lce=False).double()
    own.load_state_dict(swin.w_msa.state_dict(), strict=False)
    torch.nn.init.zeros_(swin.w_msa.relative_position_bias_table)
    x = torch.randn(2, 14, 21, 12, dtype=torch.float64)
    torch.testing.assert_close(own(x), swin(x.flatten(1, 2), (14, 21)).view_as(x))


def test_cross_shaped_windows_are_rows_for_half_of_the_heads_and_columns_for_the_others():
    attention = CrossShapedAttention(8, num_heads=2, stripe=1, lce=False).double()
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    q, k, v = (part.unflatten(2, (3, 5)) for part in heads_of(attention, x))
    row_wise = F.scaled_dot_product_attention(q[:, 0], k[:, 0], v[:, 0])
    q, k, v = (part[:, 1].transpose(1, 2) for part in (q, k, v))
    column_wise = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    out = torch.stack([row_wise, column_wise], 1).flatten(2, 3)
    torch.testing.assert_close(attention(x), project(attention, out, x))


def test_kmeans_attention_attends_in_equal_parts_of_the_kmeans_order():
    attention = KMeansAttention(8, num_heads=2, num_clusters=3, lce=False).double()
    x = torch.randn(2, 4, 5, 8, dtype=torch.float64)
    q, k, v = heads_of(attention, x)
    order = kmeans_order(k, 3)
    out = sec_attention(q, k, v, 3, order=order, backend='reference')
    torch.testing.assert_close(attention(x), project(attention, out, x))


@pytest.mark.parametrize('kind', [SECA, KMeansAttention])
@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
@given(grid=st.tuples(st.integers(1, 9), st.integers(1, 9)), size=st.integers(1, 30))
def test_a_size_of_clusters_is_the_number_that_fits_best(kind, backend, grid, size):
    sized = kind(8, num_heads=2, cluster_size=size, backend=backend)
    number = max(1, round(Fraction(grid[0] * grid[1], size)))
    fixed = kind(8, num_heads=2, num_clusters=number, backend=backend)
    fixed.load_state_dict(sized.state_dict())
    x = torch.randn(2, *grid, 8)
    assert torch.equal(sized(x), fixed(x))


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(), 'num_clusters or cluster_size must be given'),
        (dict(cluster_size=0), 'cluster_size must be an integer of at least 1, got 0'),
        (dict(cluster_size=9.5), 'cluster_size must be an integer of at least 1, got 9.5'),
        (
            dict(num_clusters=4, cluster_size=9),
            'cluster_size and num_clusters exclude each other: .* got 9 and 4',
        ),
    ],
)
def test_a_number_or_a_size_of_clusters_is_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        SECA(8, 2, **options)


def test_the_layer_says_which_clusters_it_has():
    assert 'num_clusters=4' in repr(SECA(8, 2, 4))
    assert 'cluster_size=9' in repr(SECA(8, 2, cluster_size=9))


def test_without_lce_only_the_local_context_is_missing():
    with_lce, without = SECA(8, 2, 4), SECA(8, 2, 4, lce=False)
    without.load_state_dict(with_lce.state_dict(), strict=False)
    x = torch.randn(2, 4, 5, 8)
    torch.nn.init.zeros_(with_lce.lce.weight)
    torch.nn.init.zeros_(with_lce.lce.bias)
    torch.testing.assert_close(without(x), with_lce(x))
    assert 'lce.weight' not in without.state_dict()


def test_stripes_want_an_even_number_of_heads():
    with pytest.raises(ValueError, match='num_heads must be even for cross-shaped windows, got 5'):
        CrossShapedAttention(80, 5, 1)


@pytest.mark.parametrize('size', [(32, 32), (33, 47)])
def test_patch_stem_sees_each_pixel_once(size):
    stem = patch_stem(6, dict(type='BN')).double().eval()
    x = torch.randn(1, 3, *size, dtype=torch.float64)
    padded = F.pad(x, (0, -size[1] % 4, 0, -size[0] % 4))
    patches = padded.unfold(2, 4, 4).unfold(3, 4, 4)
    expected = torch.einsum('bchwij,ocij->bohw', patches, stem.conv.weight)
    expected = (expected + stem.conv.bias[:, None, None]) / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(stem(x), expected)


def test_two_by_two_downsampling_halves_and_rounds_up():
    layer = downsampling(4, 10, dict(type='BN'), kernel_size=2)
    assert layer.conv.weight.shape == (10, 4, 2, 2)
    assert layer(torch.randn(2, 4, 7, 8)).shape == (2, 10, 4, 4)


def test_position_in_the_window_repeats_from_window_to_window():
    position = WindowPosition(6, window=7)
    out = position(14, 10)  # columns are cut into two windows of 5
    torch.testing.assert_close(out[7:], out[:7])
    torch.testing.assert_close(out[:, 5:], out[:, :5])
    place = torch.tensor([-1 + 2 / 6 * 3, -1 + 2 / 6 * 4])
    torch.testing.assert_close(out[3, 4], position.mlp(place))


def test_bias_depends_on_the_logarithm_of_the_distance():
    bias = WindowBias(num_heads=3, window=7)
    out = bias()
    assert out.shape == (3, 7, 7, 7, 7)
    for (i, j), (k, m) in [((0, 0), (0, 0)), ((6, 1), (2, 4)), ((0, 6), (6, 0))]:
        steps = [8 * (i - k) / 6, 8 * (j - m) / 6]
        logs = [math.copysign(math.log(abs(s) + 1, 8), s) for s in steps]
        expected = 16 * torch.sigmoid(bias.mlp(torch.tensor(logs)))
        torch.testing.assert_close(out[:, i, j, k, m], expected)
