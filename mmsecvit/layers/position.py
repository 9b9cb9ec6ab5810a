"""Positions inside windows from small networks, as in FasterViT's own blocks."""

import torch
from torch import Tensor, nn

from ..ops.windows import window_offsets

HIDDEN_CHANNELS = 512


def _position_mlp(out_channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, HIDDEN_CHANNELS),
        nn.ReLU(inplace=True),
        nn.Linear(HIDDEN_CHANNELS, out_channels, bias=False),
    )


class WindowPosition(nn.Module):
    """Encoding of each token's place in its window, to be added to the token.

    Args:
        embed_dims: Number of channels.
        window: Largest side of a window.
    """

    places: Tensor

    def __init__(self, embed_dims: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.mlp = _position_mlp(embed_dims)
        side = torch.linspace(-1, 1, window)
        places = torch.stack(torch.meshgrid(side, side, indexing='ij'), dim=-1)
        self.register_buffer('places', places, persistent=False)

    def forward(self, height: int, width: int) -> Tensor:
        """Encode the places on a grid: (height, width, embed_dims)."""
        rows, columns = (
            torch.tensor(window_offsets(length, self.window), device=self.places.device)
            for length in (height, width)
        )
        return self.mlp(self.places)[rows[:, None], columns]


class WindowBias(nn.Module):
    """Bias of the attention in a window from log-spaced relative positions (Swin V2).

    Args:
        num_heads: Number of heads.
        window: Largest side of a window, at least 2.
    """

    distances: Tensor
    index: Tensor

    def __init__(self, num_heads: int, window: int) -> None:
        super().__init__()
        self.mlp = _position_mlp(num_heads)
        # From -8 to 8, then logarithms of base 8: from -1.06 to 1.06.
        side = torch.arange(1 - window, window) * (8 / (window - 1))
        side = side.sign() * torch.log2(side.abs() + 1) / 3
        distances = torch.stack(torch.meshgrid(side, side, indexing='ij'), dim=-1)
        self.register_buffer('distances', distances, persistent=False)
        index = torch.arange(window)
        # Of query i and key j along one side.
        self.register_buffer('index', index[:, None] - index + window - 1, persistent=False)

    def forward(self) -> Tensor:
        """Compute the bias, at most 16: (heads, window, window, window, window)."""
        bias = 16 * torch.sigmoid(self.mlp(self.distances))
        # Rows of query and key, then their columns.
        bias = bias[self.index[:, None, :, None], self.index[None, :, None, :]]
        return bias.permute(4, 0, 1, 2, 3)
