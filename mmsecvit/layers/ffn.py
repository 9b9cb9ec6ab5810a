"""Feed-forward network."""

from torch import Tensor, nn

from .convolution import DepthwiseConv2d
from .in_place import GELU
from .recompute import apply_recomputed


class FFN(nn.Module):
    """Two linear layers with GELU between, and in the released network a convolution.

    Args:
        embed_dims: Number of channels in and out.
        feedforward_channels: Number of hidden channels.
        with_conv: Whether a residual 3x3 depth-wise convolution follows GELU, as in the
            authors' released network. Defaults to False, which is the paper's.
    """

    def __init__(self, embed_dims: int, feedforward_channels: int, with_conv: bool = False) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, feedforward_channels)
        self.act = GELU()
        self.conv = (
            DepthwiseConv2d(feedforward_channels, kernel_size=3, residual=True)
            if with_conv
            else nn.Identity()
        )
        self.fc2 = nn.Linear(feedforward_channels, embed_dims)

    def forward(self, x: Tensor, norm: nn.Module | None = None) -> Tensor:
        """Compute the network on tokens.

        Args:
            x: Tokens on their grid, (B, H, W, C).
            norm: Norm of the tokens before all else. If it is given, the backward pass computes
                anew what the norm, GELU and the convolution return. Defaults to None.

        Returns:
            (B, H, W, C).
        """
        if norm is None:
            return self.fc2(self.conv(self.act(self.fc1(x))))
        # The hidden maps are the largest of a block: of three, one is kept.
        hidden = apply_recomputed(self.fc1, norm, x)
        return apply_recomputed(self.fc2, self._activate, hidden)

    def _activate(self, x: Tensor) -> Tensor:
        return apply_recomputed(self.conv, self.act, x)
