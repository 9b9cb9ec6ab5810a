"""Pictures of what training and the network do."""

from .log_curves import plot_log

__all__ = ['plot_log']
