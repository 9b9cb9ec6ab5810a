"""Backbones: architectures as data, stages made of layers."""

from .secvit import SecViT

__all__ = ['SecViT']
