"""Modules that SecViT and its relatives are made of."""

from .attention import SECA, CrossShapedAttention, KMeansAttention, WindowAttention
from .convolution import DepthwiseConv2d, conv_stem, downsampling, patch_stem
from .ffn import FFN
from .in_place import add
from .position import WindowPosition
from .rotary import rotary_table, rotate

__all__ = [
    'FFN',
    'SECA',
    'CrossShapedAttention',
    'DepthwiseConv2d',
    'KMeansAttention',
    'WindowAttention',
    'WindowPosition',
    'add',
    'conv_stem',
    'downsampling',
    'patch_stem',
    'rotary_table',
    'rotate',
]
