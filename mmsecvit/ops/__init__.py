"""Pure tensor functions of Semantic Equitable Clustering, which call only torch."""

from .attention import sec_attention
from .clustering import cluster_bounds, count_clusters, kmeans_order, semantic_order
from .windows import window_attention

__all__ = [
    'cluster_bounds',
    'count_clusters',
    'kmeans_order',
    'sec_attention',
    'semantic_order',
    'window_attention',
]
