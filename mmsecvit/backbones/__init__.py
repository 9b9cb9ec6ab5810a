"""SecViT, SEC-Swin and SEC-FasterViT: architectures as data, stages made of layers."""

from .sec_fastervit import SECFasterViT
from .sec_swin import SECSwin
from .secvit import SecViT

__all__ = ['SECFasterViT', 'SECSwin', 'SecViT']
