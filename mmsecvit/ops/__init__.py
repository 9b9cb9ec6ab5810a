"""Pure tensor functions of Semantic Equitable Clustering, on torch alone."""

from .attention import sec_attention
from .clustering import cluster_bounds, semantic_order

__all__ = ['cluster_bounds', 'sec_attention', 'semantic_order']
