"""Pictures of what training and the network do."""

from .clusters import cluster_maps, draw_clusters, paint_clusters, record_ranks
from .log_curves import plot_log

__all__ = [
    'cluster_maps',
    'draw_clusters',
    'paint_clusters',
    'plot_log',
    'record_ranks',
]
