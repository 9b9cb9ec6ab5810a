import re

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmsecvit.ops import sec_attention, semantic_order

pytestmark = pytest.mark.usefixtures('on_the_gpu')

# Cluster counts that divide the length and that do not, one cluster, and more than tokens.
LENGTHS_AND_CLUSTERS = [(64, 8), (63, 8), (100, 7), (49, 1), (7, 7), (5, 9), (1, 32)]


def paper_attention(q, k, v, num_clusters):
    """Eq. 2-5 in NumPy and float64, head by head."""
    q, k, v = (x.double().cpu().numpy() for x in (q, k, v))
    batch, heads, length, dims = q.shape
    out = np.empty_like(q)
    num_clusters = min(num_clusters, length)
    for b, h in np.ndindex(batch, heads):
        center = k[b, h].mean(0)
        norms = np.linalg.norm(k[b, h], axis=1) * np.linalg.norm(center)
        # Descending as in the text: which end is first changes no cluster of equal sizes.
        index = np.argsort(k[b, h] @ center / norms)
        for c in range(num_clusters):
            members = index[c * length // num_clusters : (c + 1) * length // num_clusters]
            logits = q[b, h, members] @ k[b, h, members].T / np.sqrt(dims)
            weights = np.exp(logits - logits.max(1, keepdims=True))
            weights /= weights.sum(1, keepdims=True)
            out[b, h, members] = weights @ v[b, h, members]
    return torch.tensor(out)


@pytest.mark.parametrize(('length', 'num_clusters'), LENGTHS_AND_CLUSTERS)
def test_reference_is_the_papers_equations(length, num_clusters):
    q, k, v = torch.randn(3, 2, 3, length, 8, dtype=torch.float64)
    out = sec_attention(q, k, v, num_clusters, backend='reference')
    torch.testing.assert_close(out, paper_attention(q, k, v, num_clusters), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('layout', ['contiguous', 'from_qkv_map'])
@pytest.mark.parametrize(('length', 'num_clusters'), LENGTHS_AND_CLUSTERS)
def test_sdpa_and_its_gradients_agree_with_the_reference(length, num_clusters, layout):
    if layout == 'contiguous':
        qkv = torch.randn(3, 2, 3, length, 8, dtype=torch.float64)
    else:
        qkv = torch.randn(2, length, 3, 3, 8, dtype=torch.float64).permute(2, 0, 3, 1, 4)
    qkv.requires_grad_()
    weights = torch.randn(2, 3, length, 8, dtype=torch.float64)
    order = semantic_order(qkv[1])
    results = []
    for backend in ('reference', 'sdpa'):
        out = sec_attention(*qkv, num_clusters, order=order, backend=backend)
        results.append((out, torch.autograd.grad((out * weights).sum(), qkv)[0]))
    (out, grad), (sdpa_out, sdpa_grad) = results
    torch.testing.assert_close(sdpa_out, out, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sdpa_grad, grad, rtol=1e-12, atol=1e-12)


def test_auto_is_sdpa_on_cpus_and_computes_its_own_order():
    q, k, v = torch.randn(3, 1, 2, 96, 16, device='cpu')
    auto = sec_attention(q, k, v, 4)
    assert torch.equal(auto, sec_attention(q, k, v, 4, order=semantic_order(k), backend='sdpa'))


def test_auto_says_why_it_does_not_take_triton(caplog):
    caplog.set_level('DEBUG', 'mmsecvit')
    q, k, v = torch.randn(3, 1, 2, 6, 4, device='cpu')
    sec_attention(q, k, v, 2)
    (record,) = caplog.records
    assert re.match("backend 'auto' takes sdpa, because triton needs", record.getMessage())


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
def test_one_cluster_is_plain_attention(backend):
    q, k, v = torch.randn(3, 2, 3, 40, 8, dtype=torch.float64)
    plain = torch.softmax(torch.einsum('bhid,bhjd->bhij', q, k) / 8**0.5, -1) @ v
    torch.testing.assert_close(sec_attention(q, k, v, 1, backend=backend), plain)


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
def test_clusters_of_one_token_return_the_values(backend):
    q, k, v = torch.randn(3, 2, 3, 6, 8)
    for num_clusters in (6, 60):
        torch.testing.assert_close(sec_attention(q, k, v, num_clusters, backend=backend), v)


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
def test_scale_replaces_the_default(backend):
    q, k, v = torch.randn(3, 1, 1, 30, 4, dtype=torch.float64)
    out = sec_attention(q, k, v, 3, scale=2.0, backend=backend)
    torch.testing.assert_close(out, paper_attention(q * 4, k, v, 3))


@pytest.mark.parametrize('backend', ['reference', 'sdpa'])
def test_a_given_order_decides_the_clusters(backend):
    q, k, v = torch.randn(3, 1, 1, 4, 2, dtype=torch.float64)
    out = sec_attention(q, k, v, 2, order=torch.tensor([[[3, 1, 0, 2]]]), backend=backend)
    for members in ([3, 1], [0, 2]):
        alone = sec_attention(*(x[:, :, members] for x in (q, k, v)), 1, backend='reference')
        torch.testing.assert_close(out[:, :, members], alone)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_low_precision_is_as_exact_as_plain_attention_in_that_dtype(dtype):
    q, k, v = torch.randn(3, 2, 4, 96, 32).to(dtype)
    order = semantic_order(k)
    exact = sec_attention(q.double(), k.double(), v.double(), 4, order=order, backend='reference')
    plain = sec_attention(q, k, v, 4, order=order, backend='reference')
    out = sec_attention(q, k, v, 4, order=order, backend='sdpa')
    assert out.dtype == dtype
    assert (out - exact).abs().max() <= 2 * (plain - exact).abs().max()


class Recorder(TorchDispatchMode):
    """Names and sizes of what the operations inside return."""

    def __init__(self):
        super().__init__()
        self.names, self.largest = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.names.append(func.__name__.split('.')[0])
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                self.largest = max(self.largest, x.numel())
        return out


@pytest.mark.parametrize('length', [2048, 2047])
def test_sdpa_sorts_once_holds_no_attention_matrix_and_gathers_gradients(length):
    q, k, v = (torch.randn(1, 2, length, 16, requires_grad=True) for _ in range(3))
    with Recorder() as forward:
        out = sec_attention(q, k, v, 2, backend='sdpa')
    assert sum(name in ('sort', 'argsort') for name in forward.names) == 1
    with Recorder() as backward:
        out.sum().backward()
    assert not {'index_put_', '_index_put_impl_', 'scatter_add_', 'index_add_'} & {*backward.names}
    # A matrix of one cluster of one head would have (length / 2) ** 2 entries.
    assert max(forward.largest, backward.largest) <= 3 * q.numel() < (length // 2) ** 2


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(q=torch.randn(2, 10, 8)), r'q must be floating, of the shape \(B, heads, L, d\)'),
        (dict(q=torch.zeros(1, 0, 10, 8)), 'with at least one head, token and channel'),
        (dict(q=torch.zeros(1, 2, 0, 8)), 'with at least one head, token and channel'),
        (dict(q=torch.zeros(1, 2, 10, 0)), 'with at least one head, token and channel'),
        (dict(q=torch.ones(1, 2, 10, 8, dtype=torch.int64)), 'q must be floating'),
        (dict(k=torch.randn(1, 2, 11, 8)), r'k must have the shape of q, \(1, 2, 10, 8\)'),
        (dict(v=torch.randn(1, 2, 10, 4)), r'v must have the shape of q, \(1, 2, 10, 8\)'),
        (dict(v=torch.randn(1, 2, 10, 8).half()), 'v must have the dtype and device of q'),
        (dict(num_clusters=2.5), 'num_clusters must be an integer of at least 1, got 2.5'),
        (dict(num_clusters=0), 'num_clusters must be an integer of at least 1, got 0'),
        (dict(num_clusters=True), 'num_clusters must be an integer of at least 1, got True'),
        (
            dict(backend='flash'),
            "backend must be one of auto, reference, sdpa, triton, got 'flash'",
        ),
        (dict(order=torch.zeros(1, 2, 9, dtype=torch.int64)), 'order must be int64 of the shape'),
        (dict(order=torch.zeros(1, 2, 10)), 'order must be int64 of the shape'),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = dict(zip('qkv', torch.randn(3, 1, 2, 10, 8), strict=True), num_clusters=2)
    with pytest.raises(ValueError, match=message):
        sec_attention(**{**arguments, **change})
