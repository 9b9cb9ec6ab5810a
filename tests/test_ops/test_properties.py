"""Properties that hold for tokens of any number, width, dtype and place in memory."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch.autograd import gradcheck, gradgradcheck

from mmsecvit.ops import cluster_bounds, kmeans_order, sec_attention, semantic_order
from mmsecvit.ops.backends.triton import AVAILABLE
from mmsecvit.ops.clustering import invert_order

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = pytest.mark.usefixtures('on_the_gpu')
ANY_DTYPE = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def contiguous(x):
    return x.contiguous()


def tokens_first(x):
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def channels_first(x):
    return x.mT.contiguous().mT


def inside_qkv(x):
    """A third of a channels-last map (B, L, 3, heads, d)."""
    return torch.stack([x, x, x], 3).permute(0, 2, 3, 1, 4).contiguous()[:, :, 1].transpose(1, 2)


def every_second_row(x):
    return x.repeat_interleave(2, dim=2)[:, :, ::2]


def every_second_channel(x):
    return x.repeat_interleave(2, dim=3)[..., ::2]


def expanded(x):
    """Heads that are equal, and one memory."""
    return x[:, :1].expand_as(x)


# Of the same values. All but the first are not contiguous.
LAYOUTS = [
    contiguous,
    tokens_first,
    channels_first,
    inside_qkv,
    every_second_row,
    every_second_channel,
]


@st.composite
def tokens(draw, count=1, dtypes=ANY_DTYPE, min_dims=1, min_length=1, max_length=40):
    """Random (B, heads, L, d), ``count`` of them, each in a layout of its own."""
    shape = [
        draw(st.integers(low, high))
        for low, high in ((1, 3), (1, 3), (min_length, max_length), (min_dims, 16))
    ]
    generator = torch.Generator('cpu').manual_seed(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(dtypes))
    drawn = []
    for _ in range(count):
        x = torch.randn(shape, generator=generator, device='cpu').to(DEVICE, dtype)
        layout = draw(st.sampled_from([*LAYOUTS, expanded]))
        drawn.append(layout(x))
    return drawn if count > 1 else drawn[0]


def random_order(x):
    # Depends on the shape only, so that an example can be repeated.
    generator = torch.Generator('cpu').manual_seed(0)
    return torch.rand(x.shape[:3], generator=generator, device='cpu').argsort(-1).to(x.device)


def least_gap(k, num_clusters):
    """Of the similarities (Eq. 2-3, float64) on both sides of a boundary between clusters."""
    k = k.double()
    similarity = torch.cosine_similarity(k, k.mean(-2, keepdim=True), dim=-1).sort(-1).values
    inner = cluster_bounds(k.shape[2], num_clusters)[1:-1]
    return min((similarity[..., i] - similarity[..., i - 1] for i in inner), key=torch.min).min()


def companions(k, num_clusters, backend='sdpa'):
    """Who attends to whom, (B, heads, L, L): by uniform attention to one-hot values."""
    length = k.shape[2]
    k = torch.nn.functional.pad(k.float(), (0, max(length - k.shape[3], 0)))
    values = torch.eye(length).expand(*k.shape[:2], length, length)
    values = torch.nn.functional.pad(values, (0, k.shape[3] - length))
    out = sec_attention(torch.zeros_like(k), k, values, num_clusters, backend=backend)
    return out[..., :length]


@given(tokens())
def test_order_is_a_permutation_that_its_inverse_undoes(k):
    order = semantic_order(k)
    ranks = torch.arange(k.shape[2]).expand_as(order)
    assert torch.equal(order.sort(-1).values, ranks)
    inverse = invert_order(order)
    assert torch.equal(order.gather(-1, inverse), ranks)
    assert torch.equal(inverse.gather(-1, order), ranks)


@given(tokens(), st.integers(1, 45))
def test_kmeans_order_is_a_permutation(k, num_clusters):
    order = kmeans_order(k, num_clusters)
    assert torch.equal(order.sort(-1).values, torch.arange(k.shape[2]).expand_as(order))


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
@given(k=tokens(), num_clusters=st.integers(1, 45))
def test_clusters_part_the_tokens_into_almost_equal_sizes(backend, k, num_clusters):
    length = k.shape[2]
    weights = companions(k, num_clusters, backend)
    together = weights > 0
    sizes = together.sum(-1)
    number = (1 / sizes).sum(-1).round()  # each token of a cluster of n weighs 1 / n
    # To be together is an equivalence relation: everyone has the same companions as they have.
    assert together.diagonal(dim1=-2, dim2=-1).all()
    assert torch.equal(together, together.mT)
    assert torch.equal((together.float() @ together.float()) > 0, together)
    assert (number == min(num_clusters, length)).all()
    assert sizes.max() - sizes.min() <= 1
    torch.testing.assert_close(weights, together / sizes.unsqueeze(-1))


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
@given(qkv=tokens(3, [torch.float64], min_dims=3, min_length=2), num_clusters=st.integers(2, 8))
def test_permuting_the_tokens_permutes_the_output(backend, qkv, num_clusters):
    assume(least_gap(qkv[1], num_clusters) > 1e-5)
    moved = random_order(qkv[0])[0, 0]
    out = sec_attention(*qkv, num_clusters, backend=backend)
    out_of_moved = sec_attention(*(x[:, :, moved] for x in qkv), num_clusters, backend=backend)
    torch.testing.assert_close(out_of_moved, out[:, :, moved], rtol=1e-12, atol=1e-12)


@settings(suppress_health_check=[HealthCheck.filter_too_much])
@given(
    tokens(dtypes=[torch.float64, torch.float32], min_dims=3, min_length=2),
    st.integers(2, 8),
    st.floats(1e-6, 1e4),
)
def test_the_scale_of_the_keys_leaves_the_clusters_alone(k, num_clusters, scale):
    assume(least_gap(k, num_clusters) > 1e-5)
    assert torch.equal(companions(k * scale, num_clusters), companions(k, num_clusters))


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
@given(qkv=tokens(3, [torch.float64]), num_clusters=st.integers(1, 45))
def test_no_image_depends_on_its_batch(backend, qkv, num_clusters):
    order = semantic_order(qkv[1])
    together = sec_attention(*qkv, num_clusters, backend=backend)
    for i in range(len(together)):
        alone = [x[i : i + 1] for x in qkv]
        assert torch.equal(semantic_order(alone[1]), order[i : i + 1])
        out = sec_attention(*alone, num_clusters, backend=backend)
        torch.testing.assert_close(out, together[i : i + 1], rtol=1e-12, atol=1e-12)


@given(tokens())
def test_where_tokens_lie_in_memory_does_not_decide_their_order(k):
    order = semantic_order(k)
    for layout in LAYOUTS:
        assert torch.equal(semantic_order(layout(k)), order), layout.__name__


@given(tokens(), st.integers(1, 45))
def test_equal_tokens_keep_raster_order(k, num_clusters):
    for layout in LAYOUTS:
        tied = layout(k[:, :, :1].expand_as(k))
        order = semantic_order(tied)
        assert torch.equal(order, torch.arange(k.shape[2]).expand_as(order)), layout.__name__


def assert_as_exact_as_plain_attention(backend, qkv, num_clusters, scale):
    order = random_order(qkv[0])
    exact, plain, out = (
        sec_attention(*inputs, num_clusters, scale=scale, order=order, backend=name)
        for inputs, name in (
            ([x.double() for x in qkv], 'reference'),
            (qkv, 'reference'),
            (qkv, backend),
        )
    )
    assert out.dtype == qkv[0].dtype
    if out.dtype is torch.float64:  # nothing here is more exact than the other
        torch.testing.assert_close(out, exact, rtol=1e-13, atol=1e-13)
        return
    # For where plain attention happens to be exact: the output is a mean of values, which may
    # cancel while their rounding and that of the logits' terms, which moves the weights, do not.
    q, k, v = (x.double().abs() for x in qkv)
    rounding = torch.finfo(out.dtype).eps * v.max() * (1 + scale * (q @ k.mT).max())
    assert (out - exact).abs().max() <= 2 * ((plain - exact).abs().max() + rounding)


@given(tokens(3), st.integers(1, 45), st.floats(0.1, 2))
def test_sdpa_agrees_with_float64(qkv, num_clusters, scale):
    assert_as_exact_as_plain_attention('sdpa', qkv, num_clusters, scale)


@pytest.mark.skipif(
    not AVAILABLE or (DEVICE == 'cpu' and Version(np.__version__) >= Version('2.4')),
    reason='needs Triton, and on the CPU its interpreter, which needs NumPy below 2.4',
)
# Each example takes the interpreter a second.
@settings(max_examples=5)
@given(tokens(3, ANY_DTYPE[1:], max_length=20), st.integers(1, 8), st.floats(0.1, 2))
def test_triton_agrees_with_float64(qkv, num_clusters, scale):
    assert_as_exact_as_plain_attention('triton', qkv, num_clusters, scale)


@settings(max_examples=5)
@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
@given(qkv=tokens(3, [torch.float64], max_length=6), num_clusters=st.integers(1, 4))
def test_gradients_are_right_to_the_second_order(backend, qkv, num_clusters):
    # No memory twice, of which numerical gradients know nothing, and little of it.
    q, k, v = (x[:1, :2, :, :3].clone(memory_format=torch.contiguous_format) for x in qkv)
    order = random_order(q)

    def attend(q, k, v):
        return sec_attention(q, k, v, num_clusters, order=order, backend=backend)

    inputs = [x.requires_grad_() for x in (q, k, v)]
    assert gradcheck(attend, inputs)
    # Torch's fused kernels have none; since 2.3 one can ask for those that have.
    kernels = pytest.importorskip('torch.nn.attention')
    with kernels.sdpa_kernel(kernels.SDPBackend.MATH):
        assert gradgradcheck(attend, inputs)
