"""Attention inside rectangular windows of the grid: the alternatives to semantic clusters."""

import torch
import torch.nn.functional as F
from torch import Tensor


def window_runs(length: int, window: int) -> list[tuple[int, int, int]]:
    """Cut one side of the grid into the fewest windows, whose sizes differ by at most one.

    Args:
        length: Number of rows or columns, at least 1.
        window: Largest size of a window, at least 1.

    Returns:
        Runs of equal windows, each next to the one before, at most two: (start, number, size).

    Example:
        >>> window_runs(16, 7)
        [(0, 1, 6), (6, 2, 5)]
    """
    length, window = int(length), int(window)  # tensors while torch.jit traces
    number = -(-length // window)
    size, num_larger = divmod(length, number)
    runs = [(0, num_larger, size + 1), (num_larger * (size + 1), number - num_larger, size)]
    return [run for run in runs if run[1]]


def window_offsets(length: int, window: int) -> list[int]:
    """Return the position of each row or column in its window, as :func:`window_runs` cuts."""
    return [i for _, number, size in window_runs(length, window) for i in [*range(size)] * number]


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grid: tuple[int, int],
    window: tuple[int, int],
    *,
    bias: Tensor | None = None,
) -> Tensor:
    """Attend inside windows that do not overlap.

    Where the window does not divide the grid, windows shrink by a row or a column instead of
    being padded: no token attends to padding.

    Args:
        q: Queries, (B, heads, L, d), tokens in raster order.
        k: Keys, like ``q``.
        v: Values, like ``q``.
        grid: Height and width of the grid, with the product L.
        window: Largest height and width of a window.
        bias: Added to the products of queries and keys,
            (heads, *window, *window): query's and key's position in the window.

    Returns:
        (B, heads, L, d).
    """
    q, k, v = (x.unflatten(2, grid) for x in (q, k, v))
    bands = []
    for top, num_rows, h in window_runs(grid[0], window[0]):
        band = []
        for left, num_columns, w in window_runs(grid[1], window[1]):
            rows = slice(top, top + num_rows * h)
            columns = slice(left, left + num_columns * w)
            q_windows, k_windows, v_windows = (
                x[:, :, rows, columns]
                .unflatten(3, (num_columns, w))
                .unflatten(2, (num_rows, h))
                .permute(0, 2, 4, 1, 3, 5, 6)
                .flatten(0, 2)
                .flatten(2, 3)
                for x in (q, k, v)
            )
            mask = None
            if bias is not None:
                mask = bias[:, :h, :w, :h, :w].flatten(3).flatten(1, 2).to(q.dtype)
            out = F.scaled_dot_product_attention(q_windows, k_windows, v_windows, mask)
            out = out.unflatten(2, (h, w)).unflatten(0, (-1, num_rows, num_columns))
            band.append(out.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3))
        bands.append(torch.cat(band, dim=3))
    return torch.cat(bands, dim=2).flatten(2, 3)
