"""The fused operations around the attention: on a GPU, or without one in Triton's interpreter."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version
from torch._dynamo.testing import CompileCounterWithBackend

from mmsecvit.layers import SECA, rotary_table
from mmsecvit.ops import fused, semantic_order
from mmsecvit.ops.backends import triton

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
pytestmark = [
    pytest.mark.usefixtures('on_the_gpu'),
    pytest.mark.skipif(not triton.AVAILABLE, reason='needs the package triton'),
    pytest.mark.skipif(
        DEVICE == 'cpu' and Version(np.__version__) >= Version('2.4'),
        reason='the interpreter of Triton 3.6 needs NumPy below 2.4',
    ),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def results(function, inputs, dtype, weights):
    """Value and gradients of a function, in float64."""
    inputs = [x.to(dtype, copy=True).requires_grad_() for x in inputs]
    out = function(*inputs)
    grads = torch.autograd.grad(out, inputs, weights.to(out.dtype))
    return [x.double() for x in (out.detach(), *grads)]


def assert_within_rounding(got, exact, largest, dtype):
    """Check a sum of products: of terms that ``largest`` bounds, each rounded in ``dtype``."""
    assert (got - exact).abs().max() <= 2 * torch.finfo(dtype).eps * largest.max()


@pytest.mark.slow
@settings(max_examples=6)
@given(
    st.sampled_from(DTYPES),
    st.sampled_from([3, 5]),
    st.booleans(),
    st.tuples(*(st.integers(1, high) for high in (2, 9, 9, 20))),
)
def test_convolution_and_its_gradients_are_those_of_torch(dtype, kernel, residual, shape):
    x = torch.randn(shape).to(dtype)
    weight = torch.randn(shape[3], 1, kernel, kernel).to(dtype)
    bias = torch.randn(shape[3]).to(dtype)
    weights = torch.randn(shape).to(dtype)

    def plain(x, weight, bias):
        out = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=kernel // 2, groups=shape[3])
        return out.permute(0, 2, 3, 1) + (x if residual else 0)

    def own(x, weight, bias):
        return fused.depthwise_conv2d(x, weight, bias, residual)

    inputs = (x, weight, bias)
    exact = results(plain, inputs, torch.float64, weights)
    got = results(own, inputs, dtype, weights)
    # The sums of the absolute values of what each result adds up.
    bounds = results(plain, [t.abs() for t in inputs], torch.float64, weights.abs())
    for got_x, exact_x, bound in zip(got, exact, bounds, strict=True):
        assert_within_rounding(got_x, exact_x, bound, dtype)


def test_convolution_reads_views_and_weights_of_another_precision():
    maps = torch.randn(2, 4, 5, 3, 8).bfloat16()
    weight, bias = torch.randn(8, 1, 5, 5), torch.randn(8)
    out = fused.depthwise_conv2d(maps[:, :, :, 1], weight, bias, False)
    expected = F.conv2d(
        maps[:, :, :, 1].permute(0, 3, 1, 2).double(), weight.double(), bias.double(), padding=2,
        groups=8,
    )  # fmt: skip
    assert out.dtype == torch.bfloat16
    error = (out.permute(0, 3, 1, 2) - expected).abs().max()
    assert error <= torch.finfo(torch.bfloat16).eps * expected.abs().max()


def test_chunks_of_rows_are_whole_blocks_and_at_most_256():
    from mmsecvit.ops.fused_kernels import chunk_rows  # needs triton

    # Of no rows, some rows, and as many as give more than 256 chunks of 256.
    chunks = [chunk_rows(n, 16) for n in (0, 1, 49, 300, 2**16 + 1)]
    assert chunks == [16, 16, 64, 256, 272]


@pytest.mark.parametrize('dtype', DTYPES)
def test_order_is_by_similarity_and_ties_keep_raster_order(dtype):
    k = torch.randn(2, 150, 3, 24).to(dtype)
    order = triton.order(k)
    ranks = torch.arange(150).expand_as(order)
    assert torch.equal(order.sort(-1).values, ranks)
    exact = k.double().transpose(1, 2)
    similarity = torch.cosine_similarity(exact, exact.mean(2, keepdim=True), dim=-1)
    # Neighbors may be swapped within the rounding of a sum of as many terms.
    rounding = 24 * torch.finfo(torch.float32).eps
    assert similarity.gather(-1, order).diff(dim=-1).min() >= -rounding
    tied = k[:, :1].expand_as(k)
    assert torch.equal(triton.order(tied), ranks)
    zero = torch.tensor([[1.0, 0.0], [0.0, 0.0], [-0.5, 0.0]]).to(dtype)[None, :, None]
    assert triton.order(zero).tolist() == [[[2, 1, 0]]]


@pytest.mark.parametrize(
    'dtype', [DTYPES[0], *(pytest.param(x, marks=pytest.mark.slow) for x in DTYPES[1:])]
)
@pytest.mark.parametrize(
    ('heads', 'dims', 'num_clusters', 'lce', 'rotary'),
    [(2, 8, 3, True, True), (3, 16, 1, True, False), (2, 12, 4, False, True), (1, 32, 40, True, 0)],
)
def test_the_fused_layer_is_the_layer_in_steps(heads, dims, num_clusters, lce, rotary, dtype):
    channels, grid = heads * dims, (5, 7)
    batch = 1 if num_clusters == 40 else 2  # the interpreter takes a second for a few clusters
    layer = SECA(channels, heads, num_clusters, 'triton', lce)
    table = rotary_table(*grid, dims, torch.float64, torch.get_default_device()) if rotary else None
    qkv = torch.randn(batch, *grid, 3 * channels).to(dtype)
    weights = torch.randn(batch, *grid, channels).to(dtype)
    parameters = [p.detach().to(dtype) for p in layer.lce.parameters()] if lce else []
    # Both cut one order: that of the fused operation.
    k = qkv.unflatten(-1, (3, heads, dims))[:, :, :, 1].flatten(1, 2)

    def fused_layer(qkv, *parameters):
        angles = table.float() if rotary else None
        return fused.seca(
            qkv, heads, min(num_clusters, 35), angles, *(parameters or (None, None)), dims**-0.5
        )

    def in_steps(qkv, *parameters):
        layer.backend = 'reference'
        layer.order = lambda _: order
        weights = dict(zip(('lce.weight', 'lce.bias'), parameters, strict=False))
        return torch.func.functional_call(layer, weights, (qkv,), dict(rotary=table))

    if rotary:
        from mmsecvit.layers import rotate

        k = rotate(k.transpose(1, 2), table.float()).transpose(1, 2)
    order = triton.order(k)
    layer.forward = layer.mix
    exact = results(in_steps, (qkv, *parameters), torch.float64, weights)
    plain = results(in_steps, (qkv, *parameters), dtype, weights)
    got = results(fused_layer, (qkv, *parameters), dtype, weights)
    for exact_x, plain_x, got_x in zip(exact, plain, got, strict=True):
        rounding = 4 * torch.finfo(dtype).eps * exact_x.abs().max()
        assert (got_x - exact_x).abs().max() <= 2 * (plain_x - exact_x).abs().max() + rounding


@pytest.mark.slow
def test_one_input_has_one_result_bit_by_bit():
    layer = SECA(32, 2, 3, 'triton')
    table = rotary_table(6, 9, 16, torch.float32, torch.get_default_device())
    x = torch.randn(2, 6, 9, 32)
    runs = []
    for _ in range(2):
        layer.zero_grad()
        out = layer(x, table)
        out.sin().sum().backward()
        runs.append([out.detach(), *(p.grad for p in layer.parameters())])
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_the_operations_are_registered_as_torch_demands():
    # Without requires_grad: the gradients are functions around the operations.
    qkv = torch.randn(1, 3, 4, 48)
    weight, bias = torch.randn(16, 1, 5, 5), torch.randn(16)
    table = rotary_table(3, 4, 8, torch.float32, torch.get_default_device())
    operations = torch.ops.mmsecvit
    torch.library.opcheck(operations.seca.default, (qkv, 2, 3, table, weight, bias, 0.3))
    torch.library.opcheck(operations.seca.default, (qkv, 2, 1, None, None, None, 0.3))
    maps = torch.randn(1, 3, 4, 16)
    torch.library.opcheck(operations.depthwise_conv2d.default, (maps, weight, bias, True))
    torch.library.opcheck(operations.semantic_order.default, (torch.randn(1, 12, 2, 8),))


def test_the_order_of_the_backend_is_semantic_order_within_rounding():
    k = torch.randn(2, 3, 64, 16, dtype=torch.float32)
    order, own = semantic_order(k), triton.order(k.transpose(1, 2))
    similarity = torch.cosine_similarity(k.double(), k.double().mean(2, keepdim=True), dim=-1)
    gap = (similarity.gather(-1, order) - similarity.gather(-1, own)).abs().max()
    assert gap <= 16 * torch.finfo(torch.float32).eps


@pytest.mark.slow
def test_gradients_of_the_compiled_layer_in_one_graph():
    layer = SECA(16, 2, 3, 'triton')
    table = rotary_table(4, 5, 8, torch.float32, torch.get_default_device())
    x = torch.randn(1, 4, 5, 16)
    gradients = []
    for run in (layer, torch.compile(layer, backend='aot_eager', fullgraph=True)):
        layer.zero_grad()
        run(x, table).sin().sum().backward()
        gradients.append([p.grad for p in layer.parameters()])
    torch.testing.assert_close(*gradients)


def test_the_size_of_clusters_decides_their_number():
    sized = SECA(16, 2, backend='triton', cluster_size=6)
    fixed = SECA(16, 2, num_clusters=3, backend='triton')
    fixed.load_state_dict(sized.state_dict())
    x = torch.randn(1, 4, 5, 16)
    assert torch.equal(sized(x), fixed(x))


@pytest.mark.slow
def test_clusters_of_one_size_compile_once_for_all_grids():
    torch.compiler.reset()
    layer = SECA(16, 2, backend='triton', cluster_size=6)
    graphs = CompileCounterWithBackend('aot_eager')
    compiled = torch.compile(layer, backend=graphs, fullgraph=True, dynamic=True)
    # The interpreter takes a second for a few clusters.
    for grid in [(4, 5), (3, 6), (2, 3)]:
        x = torch.randn(1, *grid, 16, requires_grad=True)
        results = []
        for run in (layer, compiled):
            out = run(x)
            grads = torch.autograd.grad(out.sin().sum(), [x, *layer.parameters()])
            results.append([out, *grads])
        torch.testing.assert_close(*results)
    assert graphs.frame_count == 1
