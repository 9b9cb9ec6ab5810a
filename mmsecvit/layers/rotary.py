"""Rotary position embedding on a grid, as in the authors' released network."""

import torch
from torch import Tensor


def rotary_tables(
    height: int, width: int, head_dims: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each token's rotation.

    Each pair of neighbouring channels turns by its frequency times a position: the first half
    of the channels with the row index, the second with the column index. There are
    ``head_dims / 4`` frequencies, ``10000 ** -linspace(0, 1)``.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        head_dims: Channels of a head, a multiple of 4.
        dtype: Floating dtype of the tables.
        device: Device of the tables.

    Returns:
        Cosines and sines, each (height * width, head_dims / 2).
    """
    exponents = torch.linspace(0, 1, head_dims // 4, dtype=dtype, device=device)
    frequencies = 10000**-exponents
    rows = torch.arange(height, dtype=dtype, device=device)[:, None, None]
    columns = torch.arange(width, dtype=dtype, device=device)[:, None]
    by_row = (rows * frequencies).expand(height, width, -1)
    by_column = (columns * frequencies).expand(height, width, -1)
    angles = torch.cat([by_row, by_column], dim=-1).flatten(0, 1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of neighbouring channels by its token's angle.

    Args:
        x: Tokens, (B, heads, L, d).
        cos: Cosines, (L, d / 2).
        sin: Sines, (L, d / 2).

    Returns:
        (B, heads, L, d), dtype of ``x``; computed in the wider dtype of ``x`` and the tables.
    """
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1)
    return turned.flatten(-2).to(x.dtype)
