"""Convolutions around the attention: depth-wise, stem and down-sampling."""

from collections import OrderedDict
from typing import Any

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import AdaptivePadding
from torch import Tensor, nn

from ..ops.fused import depthwise_conv2d, takes
from .in_place import GELU, add


class DepthwiseConv2d(nn.Conv2d):
    """Depth-wise convolution that keeps the size of a channels-last map.

    On GPUs on which all tests of the Triton kernels have passed it runs as one of them
    (:mod:`mmsecvit.ops.fused`).

    Args:
        channels: Number of channels.
        kernel_size: Side of the kernel, odd.
        residual: Whether the input is added to the result. Defaults to False.
    """

    identity: Tensor | None

    def __init__(self, channels: int, kernel_size: int, residual: bool = False) -> None:
        super().__init__(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        # The gradient comes with channels-last strides. Where the weight has others, which with
        # one input channel is the same memory, DDP warns and copies at every step.
        strides = (kernel_size**2, 1, kernel_size, 1)
        self.weight = nn.Parameter(self.weight.detach().as_strided(self.weight.shape, strides))
        identity = None
        if residual:
            # In the kernel, the addition costs no further pass over the map.
            identity = torch.zeros(kernel_size, kernel_size)
            identity[kernel_size // 2, kernel_size // 2] = 1
        self.register_buffer('identity', identity, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (B, H, W, C) to (B, H, W, C)."""
        if takes(x, self.kernel_size[0]):
            if torch.is_autocast_enabled('cuda'):
                x = x.to(torch.get_autocast_dtype('cuda'))
            return depthwise_conv2d(x, self.weight, self.bias, self.identity is not None)
        weight = self.weight if self.identity is None else self.weight + self.identity
        return self._conv_forward(x.permute(0, 3, 1, 2), weight, self.bias).permute(0, 2, 3, 1)

    def add_to(self, x: Tensor) -> Tensor:
        """Add the convolution of a map to the map, (B, H, W, C), in the map's dtype."""
        if takes(x, self.kernel_size[0]):
            # In one pass over the map, and in its own dtype under autocast too.
            return depthwise_conv2d(x, self.weight, self.bias, residual=True)
        return add(self(x), x)


def conv_stem(
    embed_dims: int, norm_cfg: dict[str, Any], final_act: bool = True, in_channels: int = 3
) -> nn.Sequential:
    """Build four 3x3 convolutions from an image to tokens of 4x4 pixels (Appendix A).

    Args:
        embed_dims: Number of channels that come out; the first three convolutions have half.
        norm_cfg: Config of the normalization after each convolution.
        final_act: Whether GELU follows the fourth convolution too, as in the paper; the
            authors' released network has none there.
        in_channels: Number of channels of the images. Defaults to 3.

    Returns:
        A module that maps (B, in_channels, H, W) to (B, embed_dims, ceil(H / 4), ceil(W / 4)).
    """
    channels = [in_channels, embed_dims // 2, embed_dims // 2, embed_dims // 2, embed_dims]
    layers: list[nn.Module] = []
    for i, stride in enumerate((2, 1, 1, 2)):
        layers += [
            nn.Conv2d(channels[i], channels[i + 1], 3, stride, padding=1),
            build_norm_layer(norm_cfg, channels[i + 1])[1],
            GELU(),
        ]
    return nn.Sequential(*(layers if final_act else layers[:-1]))


def patch_stem(embed_dims: int, norm_cfg: dict[str, Any], in_channels: int = 3) -> nn.Sequential:
    """Build one 4x4 convolution with stride 4, in place of the convolutional stem (Table 6).

    Args:
        embed_dims: Number of channels that come out.
        norm_cfg: Config of the normalization.
        in_channels: Number of channels of the images. Defaults to 3.

    Returns:
        A module that maps (B, in_channels, H, W) to (B, embed_dims, ceil(H / 4), ceil(W / 4)).
    """
    return _strided_convolution(in_channels, embed_dims, 4, 4, norm_cfg)


def downsampling(
    in_channels: int, out_channels: int, norm_cfg: dict[str, Any], kernel_size: int = 3
) -> nn.Sequential:
    """Build the convolution with stride 2 between two stages and its norm (Appendix A).

    Args:
        in_channels: Number of channels of the earlier stage.
        out_channels: Number of channels of the later stage.
        norm_cfg: Config of the normalization.
        kernel_size: Side of the kernel, 3 or 2. Defaults to 3, which is the paper's; 2 goes
            with :func:`patch_stem`.

    Returns:
        A module that maps (B, in_channels, H, W) to (B, out_channels, ceil(H / 2), ceil(W / 2)).
    """
    return _strided_convolution(in_channels, out_channels, kernel_size, 2, norm_cfg)


def _strided_convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, norm_cfg: dict[str, Any]
) -> nn.Sequential:
    layers = OrderedDict(
        conv=nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size % 2),
        norm=build_norm_layer(norm_cfg, out_channels)[1],
    )
    if kernel_size == stride:
        # Pad the last patches, so that no pixel is left out.
        layers['pad'] = AdaptivePadding(kernel_size, stride)
        layers.move_to_end('pad', last=False)
    return nn.Sequential(layers)
