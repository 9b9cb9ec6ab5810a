"""Modules that SecViT and its relatives are made of."""

from .attention import SECA
from .convolution import DepthwiseConv2d, conv_stem, downsampling
from .ffn import FFN
from .rotary import rotary_tables, rotate

__all__ = [
    'FFN',
    'SECA',
    'DepthwiseConv2d',
    'conv_stem',
    'downsampling',
    'rotary_tables',
    'rotate',
]
