"""Parameters, FLOPs and memory traffic of the networks, counted here or reported by the paper."""

from .comparison import Comparison, compare, report
from .complexity import Complexity, complexity_table, count_complexity, total
from .memory import Memory, count_memory, memory_table
from .paper import ROWS, PaperRow
from .toolbox import run_toolbox_tool
from .traffic import Launch, Roofline, build_network, count_traffic, traffic_by, traffic_table

__all__ = [
    'ROWS',
    'Comparison',
    'Complexity',
    'Launch',
    'Memory',
    'PaperRow',
    'Roofline',
    'build_network',
    'compare',
    'complexity_table',
    'count_complexity',
    'count_memory',
    'count_traffic',
    'memory_table',
    'report',
    'run_toolbox_tool',
    'total',
    'traffic_by',
    'traffic_table',
]
