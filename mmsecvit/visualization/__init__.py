"""Draw the clusters of a network and the curves of a training run."""

from .clusters import (
    cluster_maps,
    draw_clusters,
    image_normalization,
    paint_clusters,
    record_ranks,
)
from .log_curves import plot_log

__all__ = [
    'cluster_maps',
    'draw_clusters',
    'image_normalization',
    'paint_clusters',
    'plot_log',
    'record_ranks',
]
