import numpy as np
import pytest
import torch

from mmsecvit.ops import window_attention
from mmsecvit.ops.windows import window_offsets, window_runs

pytestmark = pytest.mark.usefixtures('on_the_gpu')


@pytest.mark.parametrize('length', [1, 6, 7, 8, 14, 16, 56, 100])
@pytest.mark.parametrize('window', [1, 2, 7])
def test_windows_are_the_fewest_and_of_almost_one_size(length, window):
    expected = np.array_split(np.arange(length), -(-length // window))
    cut = [
        list(range(start + i * size, start + (i + 1) * size))
        for start, number, size in window_runs(length, window)
        for i in range(number)
    ]
    assert cut == [part.tolist() for part in expected]
    assert max(map(len, cut)) <= window
    assert window_offsets(length, window) == [i for part in expected for i in range(len(part))]


@pytest.mark.parametrize('grid', [(14, 7), (16, 9), (3, 20)])
@pytest.mark.parametrize('window', [(7, 7), (2, 20), (1, 1)])
@pytest.mark.parametrize('with_bias', [False, True])
def test_attention_is_plain_attention_between_tokens_of_one_window(grid, window, with_bias):
    height, width = grid
    q, k, v = torch.randn(3, 2, 2, height * width, 4, dtype=torch.float64)
    bias = torch.randn(2, *window, *window, dtype=torch.float64) if with_bias else None

    # Window of each token, and its row and column in there.
    places = torch.zeros(height, width, 4, dtype=torch.int64)
    for i, rows in enumerate(np.array_split(np.arange(height), -(-height // window[0]))):
        for j, columns in enumerate(np.array_split(np.arange(width), -(-width // window[1]))):
            for r in rows:
                for c in columns:
                    places[r, c] = torch.tensor([i, j, r - rows[0], c - columns[0]])
    places = places.flatten(0, 1)
    same = (places[:, None, :2] == places[:, :2]).all(-1)
    products = q @ k.mT / 2
    if with_bias:
        (qr, qc), (kr, kc) = places[:, None, 2:].unbind(-1), places[:, 2:].unbind(-1)
        products = products + bias[:, qr, qc, kr, kc]
    expected = torch.softmax(products.masked_fill(~same, -torch.inf), -1) @ v
    torch.testing.assert_close(window_attention(q, k, v, grid, window, bias=bias), expected)
