"""The paper's tables beside what this code counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .complexity import Complexity, count_complexity, total
from .paper import PaperRow

# FLOPs may lie this far from the paper's; parameters have to round to the same.
TOLERANCE = 0.03


class Comparison(NamedTuple):
    """A row of the paper and its recount.

    Attributes:
        row: The paper's row.
        ours: What this code counts at the row's shape, or None where there is no such config.
    """

    row: PaperRow
    ours: Complexity | None

    @property
    def agrees(self) -> bool:
        """Whether parameters round to the paper's and FLOPs lie within 3% of them."""
        return (
            self.ours is not None
            and round(self.ours.parameters / 1e6) == self.row.parameters
            and abs(self.ours.module_flops / 1e9 / self.row.flops - 1) <= TOLERANCE
        )

    @property
    def note(self) -> str:
        """What is to be said of a row that differs: no reason has been found for any."""
        if self.ours is None:
            return 'no config yet'
        return '' if self.agrees else 'not explained'


def compare(row: PaperRow, configs: str | Path) -> Comparison:
    """Count the network of one of the paper's rows.

    Args:
        row: The paper's row.
        configs: Folder of config files.

    Returns:
        The comparison, without our side where the folder has no config of that name.
    """
    config = Path(configs) / f'{row.config}.py'
    return Comparison(row, total(count_complexity(config, row.shape)) if config.is_file() else None)


HEAD = """\
# The paper's tables, recounted

Written by `tools/analysis/compare_with_paper.py`: parameters and FLOPs (multiply-adds of one
image) of this repository's configs, each followed by the paper's figure and the difference.

The paper's FLOPs leave out the two matrix products of attention, which no module holds. Ours are
compared in that convention; the last figure has the products too. Two-stage detectors are counted
with 1000 proposals for each box head and 100 for each mask head; auxiliary heads have parameters
and no FLOPs, since they do not run in testing. A row without a note has the paper's parameters when
rounded to a million, and its FLOPs to 3%.

Where SEC-Swin-T has 28.27 M and the paper 29, the paper rounds up, as it does for Swin-T itself:
28.29 M, and 29 in its Tables 2 and 6.
"""

HEADER = """\
| config | image | parameters (M) | paper | | FLOPs (G) | paper | | with products | note |
|---|---|---|---|---|---|---|---|---|---|"""


def report(comparisons: Sequence[Comparison]) -> str:
    """Write comparisons as a Markdown page with a table for each of the paper's.

    A row agrees if its parameters round to the paper's million and its FLOPs lie within 3%.
    Other rows say "not explained".
    """
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
    row, ours, note = comparison.row, comparison.ours, comparison.note
    image = f'{row.shape[1]}x{row.shape[0]}'
    if ours is None:
        return f'| {row.config} | {image} | | {row.parameters} | | | {row.flops} | | | {note} |'
    parameters, flops = ours.parameters / 1e6, ours.module_flops / 1e9
    return (
        f'| {row.config} | {image} '
        f'| {parameters:.2f} | {row.parameters} | {parameters / row.parameters - 1:+.1%} '
        f'| {flops:.4g} | {row.flops} | {flops / row.flops - 1:+.1%} '
        f'| {ours.flops / 1e9:.4g} | {note} |'
    )
