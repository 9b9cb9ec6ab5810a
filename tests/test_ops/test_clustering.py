from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from mmsecvit.ops import cluster_bounds, count_clusters, kmeans_order, semantic_order
from mmsecvit.ops.clustering import invert_order, permute_rows

pytestmark = pytest.mark.usefixtures('on_the_gpu')


@given(st.integers(1, 500), st.integers(1, 600))
def test_cluster_bounds_cut_into_sizes_that_differ_by_at_most_one(length, n):
    bounds = cluster_bounds(length, n)
    sizes = np.diff(bounds)
    assert (bounds[0], bounds[-1]) == (0, length)
    assert len(sizes) == min(n, length)
    assert sizes.min() >= 1
    assert sizes.max() - sizes.min() <= 1


def test_cluster_bounds_are_those_of_the_paper_where_n_divides_the_length():
    assert cluster_bounds(3136, 32) == list(range(0, 3137, 98))


def test_cluster_bounds_of_uneven_clusters():
    assert cluster_bounds(10, 4) == [0, 2, 5, 7, 10]


@pytest.mark.parametrize(('length', 'n', 'name'), [(0, 1, 'length'), (4, 0, 'n'), (4, -1, 'n')])
def test_cluster_bounds_refuse_what_is_below_one(length, n, name):
    with pytest.raises(ValueError, match=f'^{name} must be at least 1, got'):
        cluster_bounds(length, n)


@given(st.integers(1, 10**7), st.integers(1, 2000))
def test_the_number_of_clusters_is_the_rounded_ratio(length, cluster_size):
    number = count_clusters(length, cluster_size)
    assert number == max(1, round(Fraction(length, cluster_size)))
    assert 1 <= number <= length
    assert Fraction(length, number) <= Fraction(3, 2) * cluster_size


@pytest.mark.parametrize('size', [1, 2, 3, 4, 49, 98, 99])
def test_halves_go_to_the_even_number_of_clusters(size):
    for length in range(1, 8 * size):
        assert count_clusters(length, size) == max(1, round(Fraction(length, size)))


def similarity_to_mean(k: torch.Tensor) -> np.ndarray:
    """Eq. 2 and 3 in float64."""
    k = k.double().cpu().numpy()
    center = k.mean(axis=-2, keepdims=True)
    return (k * center).sum(-1) / (np.linalg.norm(k, axis=-1) * np.linalg.norm(center, axis=-1))


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_order_sorts_by_cosine_similarity_to_the_mean_key(dtype):
    k = torch.randn(2, 3, 50, 8).to(dtype)
    order = semantic_order(k)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort(-1).values, torch.arange(50).expand(2, 3, 50))
    ordered = np.take_along_axis(similarity_to_mean(k), order.cpu().numpy(), -1)
    # Neighbors may be swapped within the rounding of a mean of 50 keys and a product of 8 channels.
    assert np.diff(ordered).min() > -(50 + 8) * np.finfo(np.float32).eps


def test_order_does_not_depend_on_the_scale_of_the_keys():
    k = torch.randn(2, 3, 50, 8)
    assert torch.equal(semantic_order(k), semantic_order(k * 2**20))


def test_ties_keep_raster_order():
    k = torch.randn(1, 2, 1, 8).expand(1, 2, 40, 8)
    assert torch.equal(semantic_order(k), torch.arange(40).expand(1, 2, 40))


def test_zero_keys_are_in_the_middle():
    k = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-0.5, 0.0]])[None, None]
    assert semantic_order(k).tolist() == [[[2, 1, 0]]]


def test_half_precision_orders_as_its_values_in_float32_and_so_does_autocast():
    k = torch.randn(1, 2, 300, 16).bfloat16()
    expected = semantic_order(k.float())
    assert torch.equal(semantic_order(k), expected)
    with torch.autocast(k.device.type, torch.bfloat16):
        assert torch.equal(semantic_order(k.float()), expected)


def test_half_precision_keys_near_both_ends_of_its_range_keep_their_order():
    k = torch.randn(1, 1, 100, 32).half()
    # Powers of two are exact as long as nothing leaves the range of normal numbers.
    for scale in (2.0**-10, 2.0**13):
        assert torch.equal(semantic_order(k.float() * scale), semantic_order(k))
        scaled = (k.float() * scale).half()
        assert torch.equal(semantic_order(scaled), semantic_order(scaled.float()))


def test_inverse_undoes_the_order():
    order = torch.rand(2, 3, 17).argsort(-1)
    ranks = torch.arange(17).expand(2, 3, 17)
    assert torch.equal(order.gather(-1, invert_order(order)), ranks)


def test_gradients_of_permuting_rows_are_right_to_the_second_order():
    x = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.randperm(5)
    inverse = invert_order(rows)
    assert torch.equal(permute_rows(x, rows, inverse), x[rows])
    assert gradcheck(lambda t: permute_rows(t, rows, inverse), x)
    assert gradgradcheck(lambda t: permute_rows(t, rows, inverse).square(), x)


def test_kmeans_finds_groups_of_equal_size():
    # Thirty keys around each of four directions, dispersed so that the first of each quarter, where
    # centers start, are of different groups. The keys' lengths play no part.
    group = (torch.arange(120) + torch.arange(120) // 30) % 4
    assert group.bincount().tolist() == [30] * 4
    directions = torch.eye(4)[group] + 0.1 * torch.randn(120, 4)
    k = (directions * torch.rand(120, 1).add(0.1)).expand(2, 3, 120, 4)
    found = group[kmeans_order(k, 4)].unflatten(-1, (4, 30))
    assert torch.equal(found, found[..., :1].expand_as(found))


@pytest.mark.parametrize('num_clusters', [1, 3, 7, 50])
def test_kmeans_order_is_a_permutation_and_deterministic(num_clusters):
    k = torch.randn(2, 3, 40, 8)
    order = kmeans_order(k, num_clusters)
    assert torch.equal(order.sort(-1).values, torch.arange(40).expand(2, 3, 40))
    assert torch.equal(kmeans_order(k[1:], num_clusters), order[1:])


def test_tensors_without_memory_have_an_order_too():
    k = torch.empty(2, 3, 40, 8, device='meta')
    for order in (semantic_order(k), kmeans_order(k, 4)):
        assert (order.shape, order.dtype, order.device.type) == ((2, 3, 40), torch.int64, 'meta')
