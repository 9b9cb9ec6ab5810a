"""Half precision: nothing overflows, and no more is lost than in plain attention."""

import pytest
import torch

from mmsecvit.ops import kmeans_order, sec_attention, semantic_order, window_attention

pytestmark = pytest.mark.usefixtures('on_the_gpu')

HALF = [torch.float16, torch.bfloat16]
# From below float16's smallest normal number to where a product of two overflows it.
SCALES = [1e-6, 1e-3, 1e3, 1e4]


def random_qkv(scale, dtype, length=50, dims=32):
    return torch.randn(3, 2, 2, length, dims).clamp(-1, 1).mul(scale).to(dtype)


def zero_keys(qkv):
    qkv[1] = 0
    return qkv


def some_zero_keys(qkv):
    qkv[1, :, :, ::3] = 0
    return qkv


def one_token_everywhere(qkv):
    return qkv[:, :, :, :1].expand_as(qkv)


def as_drawn(qkv):
    return qkv


@pytest.mark.parametrize('change', [as_drawn, zero_keys, some_zero_keys, one_token_everywhere])
@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('dtype', HALF)
@pytest.mark.parametrize('autocast', [False, True])
def test_attention_and_its_gradients_stay_finite(dtype, scale, change, autocast):
    qkv = change(random_qkv(scale, dtype))
    qkv = (qkv.float() if autocast else qkv).requires_grad_()
    for num_clusters in (1, 4, 7):
        with torch.autocast(qkv.device.type, dtype, enabled=autocast):
            out = sec_attention(*qkv, num_clusters)
        assert out.isfinite().all()
        # A mean of values, weighted: it cannot leave their range but by rounding.
        assert out.abs().max() <= qkv[2].abs().max() * (1 + torch.finfo(dtype).eps)
        # The backward pass computes logits anew, which float32 has to tell apart.
        if scale < 1e4:
            (grad,) = torch.autograd.grad(out.float().mean(), qkv)
            assert grad.isfinite().all()


@pytest.mark.parametrize('dtype', HALF)
def test_one_token_everywhere_attends_to_itself(dtype):
    qkv = one_token_everywhere(random_qkv(1, dtype))
    out = sec_attention(*qkv, 4)
    torch.testing.assert_close(out, qkv[2], rtol=torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize('scale', SCALES)
@pytest.mark.parametrize('dtype', HALF)
def test_orders_are_those_of_the_same_keys_in_float64(dtype, scale):
    # Eq. 2-3 in float64; neighbors in the order may only be swapped within float32's rounding.
    k = random_qkv(scale, dtype)[1]
    exact = torch.cosine_similarity(k.double(), k.double().mean(-2, keepdim=True), dim=-1, eps=0)
    ordered = exact.gather(-1, semantic_order(k))
    rounding = (k.shape[2] + k.shape[3]) * torch.finfo(torch.float32).eps
    assert ordered.diff(dim=-1).min() > -rounding
    members = torch.arange(k.shape[2]).expand(k.shape[:3])
    assert torch.equal(kmeans_order(k, 4).sort(-1).values, members)


def plain_attention(q, k, v, order, num_clusters):
    """Attention of each cluster as it is written, every step in the dtype of the inputs."""
    length = q.shape[2]
    out = torch.empty_like(v)
    for b in range(q.shape[0]):
        for h in range(q.shape[1]):
            for c in range(num_clusters):
                one = order[b, h, c * length // num_clusters : (c + 1) * length // num_clusters]
                logits = q[b, h, one] @ k[b, h, one].mT * q.shape[-1] ** -0.5
                out[b, h, one] = torch.softmax(logits, -1) @ v[b, h, one]
    return out


@pytest.mark.parametrize(('length', 'num_clusters', 'dims'), [(96, 4, 32), (97, 5, 16), (64, 1, 8)])
@pytest.mark.parametrize('scale', [1e-3, 1, 4])
@pytest.mark.parametrize('dtype', HALF)
def test_values_and_gradients_are_as_exact_as_plain_attention(
    dtype, scale, length, num_clusters, dims
):
    qkv = random_qkv(scale, dtype, length, dims)
    order = semantic_order(qkv[1])
    weights = torch.randn(2, 2, length, dims).to(dtype)

    def value_and_gradient(attend, dtype):
        inputs = qkv.to(dtype).requires_grad_()
        out = attend(*inputs)
        (grad,) = torch.autograd.grad(out, inputs, weights.to(dtype))
        return out.double(), *grad.double()

    def plain(q, k, v):
        return plain_attention(q, k, v, order, num_clusters)

    def own(q, k, v):
        return sec_attention(q, k, v, num_clusters, order=order)

    exact = value_and_gradient(plain, torch.float64)
    expected, got = value_and_gradient(plain, dtype), value_and_gradient(own, dtype)
    for x, plain_x, own_x in zip(exact, expected, got, strict=True):
        rounding = torch.finfo(dtype).eps * x.abs().max()
        assert (own_x - x).abs().max() <= 2 * (plain_x - x).abs().max() + rounding


@pytest.mark.parametrize('scale', SCALES[:-1])
@pytest.mark.parametrize('dtype', HALF)
def test_window_attention_and_its_gradients_stay_finite(dtype, scale):
    qkv = random_qkv(scale, dtype, length=9 * 5).requires_grad_()
    out = window_attention(*qkv, (9, 5), (7, 7))
    (grad,) = torch.autograd.grad(out.float().mean(), qkv)
    assert out.isfinite().all()
    assert grad.isfinite().all()
