"""Rotary position embedding on a grid, as in the authors' released network."""

import torch
from torch import Tensor


def rotary_table(
    height: int, width: int, head_dims: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Compute each token's rotation, as cosines and sines.

    Each pair of neighboring channels rotates by its frequency times a position: the first half
    of the channels with the row index, the second with the column index. There are
    ``head_dims / 4`` frequencies, ``10000 ** -linspace(0, 1)``.

    Args:
        height: Rows of the grid.
        width: Columns of the grid.
        head_dims: Channels of a head, a multiple of 4.
        dtype: Floating dtype of the angles, float32 or float64.
        device: Device of the table.

    Returns:
        (height * width, head_dims / 2, 2): cosine and sine.
    """
    exponents = torch.linspace(0, 1, head_dims // 4, dtype=dtype, device=device)
    frequencies = 10000**-exponents
    rows = torch.arange(height, dtype=dtype, device=device)[:, None, None]
    columns = torch.arange(width, dtype=dtype, device=device)[:, None]
    by_row = (rows * frequencies).expand(height, width, -1)
    by_column = (columns * frequencies).expand(height, width, -1)
    angles = torch.cat([by_row, by_column], dim=-1).flatten(0, 1)
    return torch.stack([angles.cos(), angles.sin()], dim=-1)


def rotate(x: Tensor, rotary: Tensor) -> Tensor:
    """Rotate each pair of neighboring channels by its token's angle.

    Args:
        x: Tokens, (B, heads, L, d).
        rotary: Table of :func:`rotary_table`, (L, d / 2, 2).

    Returns:
        (B, heads, L, d), dtype of ``x``; computed in the dtype of the table.
    """
    # (B, heads, L, d) -> (B, heads, L, d / 2, 2)
    pairs = x.to(rotary.dtype).unflatten(-1, (-1, 2))
    if torch.compiler.is_compiling():
        # Inductor generates no code for complex numbers (torch 2.11).
        (first, second), (cos, sin) = pairs.unbind(-1), rotary.unbind(-1)
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    else:
        # As complex numbers, one pass reads and writes the pairs in place.
        product = torch.view_as_complex(pairs) * torch.view_as_complex(rotary)
        turned = torch.view_as_real(product)
    return turned.flatten(-2).to(x.dtype)
