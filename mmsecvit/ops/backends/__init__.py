"""Implementations of attention inside clusters, one file each."""

from .reference import reference_attention
from .sdpa import sdpa_attention
from .triton import triton_attention, triton_obstacle

__all__ = ['reference_attention', 'sdpa_attention', 'triton_attention', 'triton_obstacle']
