"""What classification puts behind a backbone."""

from .secvit_neck import SecViTNeck

__all__ = ['SecViTNeck']
