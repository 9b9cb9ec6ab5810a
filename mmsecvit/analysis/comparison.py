"""Compare the paper's tables with the costs that are counted here."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .complexity import Complexity, count_complexity, total
from .paper import PaperRow

# FLOPs may differ from the paper's by this ratio; parameters must round to the same million.
TOLERANCE = 0.03


class Comparison(NamedTuple):
    """A row of the paper, and the costs of its network that are counted here.

    Attributes:
        row: The paper's row.
        ours: The costs at the row's shape, or None where there is no config of this name.
    """

    row: PaperRow
    ours: Complexity | None

    @property
    def agrees(self) -> bool:
        """Whether parameters round to the paper's, and FLOPs differ by at most 3%."""
        return (
            self.ours is not None
            and self.row.parameters in (None, round(self.ours.parameters / 1e6))
            and abs(self.ours.module_flops / 1e9 / self.row.flops - 1) <= TOLERANCE
        )

    @property
    def note(self) -> str:
        """Remark on a row that does not agree; nobody has found the reason for any of them."""
        if self.ours is None:
            return 'no config yet'
        return '' if self.agrees else 'not explained'


def compare(row: PaperRow, configs: str | Path) -> Comparison:
    """Count the network of one of the paper's rows.

    Args:
        row: The paper's row.
        configs: Folder of config files.

    Returns:
        The comparison; ``ours`` is None if the folder has no config of that name.
    """
    config = Path(configs) / f'{row.config}.py'
    return Comparison(row, total(count_complexity(config, row.shape)) if config.is_file() else None)


HEAD = """\
# The paper's tables, recounted

Written by `tools/analysis/compare_with_paper.py`: parameters and FLOPs (multiply-adds for one
image) of the configs in this repository, each followed by the paper's number and the difference.

The paper's FLOPs leave out the two matrix products of attention, because no module computes them.
Ours follow the same convention; the last number includes these products. Two-stage detectors are
counted with 1000 proposals for each box head and 100 for each mask head. Auxiliary heads have
parameters and no FLOPs, since they do not run in testing. A row without a note has the paper's
parameters when rounded to a million, and its FLOPs to 3%.

SEC-Swin-T has 28.27 M here and 29 in the paper. The paper rounds up, as it does for Swin-T itself:
28.29 M, and 29 in its Tables 2 and 6.
"""

HEADER = """\
| config | image | parameters (M) | paper | | FLOPs (G) | paper | | with products | note |
|---|---|---|---|---|---|---|---|---|---|"""


def report(comparisons: Sequence[Comparison]) -> str:
    """Write comparisons as a Markdown page with a section for each of the paper's tables."""
    lines = [HEAD]
    for tables in dict.fromkeys(c.row.tables for c in comparisons):
        lines += [
            f'## Table{"s" if "," in tables else ""} {tables.replace(", ", " and ")}',
            '',
            HEADER,
            *(_line(c) for c in comparisons if c.row.tables == tables),
            '',
        ]
    return '\n'.join(lines)


def _line(comparison: Comparison) -> str:
    row, ours = comparison.row, comparison.ours
    cells = [
        row.config,
        f'{row.shape[1]}x{row.shape[0]}',
        '' if ours is None else f'{ours.parameters / 1e6:.2f}',
        *_paper_cells(row.parameters, ours and ours.parameters / 1e6),
        '' if ours is None else f'{ours.module_flops / 1e9:.4g}',
        *_paper_cells(row.flops, ours and ours.module_flops / 1e9),
        '' if ours is None else f'{ours.flops / 1e9:.4g}',
        comparison.note,
    ]
    return f'|{"|".join(f" {cell} " if cell else " " for cell in cells)}|'


def _paper_cells(paper: float | None, ours: float | None) -> tuple[str, str]:
    """Return the paper's number and how far ours is from it, as far as both are known."""
    if paper is None:
        return '', ''
    return str(paper), '' if ours is None else f'{ours / paper - 1:+.1%}'
