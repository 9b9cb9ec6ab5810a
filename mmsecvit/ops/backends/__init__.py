"""Implementations of attention inside clusters, one file each."""

from .reference import reference_attention
from .sdpa import sdpa_attention

__all__ = ['reference_attention', 'sdpa_attention']
