"""Parameters and FLOPs of the networks, counted here and reported by the paper."""

from .comparison import Comparison, compare, report
from .complexity import Complexity, complexity_table, count_complexity, total
from .paper import ROWS, PaperRow
from .toolbox import run_toolbox_tool

__all__ = [
    'ROWS',
    'Comparison',
    'Complexity',
    'PaperRow',
    'compare',
    'complexity_table',
    'count_complexity',
    'report',
    'run_toolbox_tool',
    'total',
]
