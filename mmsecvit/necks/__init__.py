"""The neck that classification puts after a backbone."""

from .secvit_neck import SecViTNeck

__all__ = ['SecViTNeck']
