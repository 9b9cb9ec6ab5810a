"""The numbers that the paper reports for its networks, read from ``paper.yml``."""

from pathlib import Path
from typing import NamedTuple

from mmengine.fileio import load


class PaperRow(NamedTuple):
    """One network as the paper reports it.

    Attributes:
        tables: The tables of the paper that have this row.
        config: Name of the config of this network, without its suffix.
        shape: Height and width in pixels at which the paper counts FLOPs.
        parameters: Parameters in millions, or None where the table does not have them.
        flops: Multiply-adds in 10^9 of modules, without the two products of attention.
        results: Metrics in percent, by the names of the toolboxes' evaluators.
    """

    tables: str
    config: str
    shape: tuple[int, int]
    parameters: float | None
    flops: float
    results: dict[str, float]


ROWS: tuple[PaperRow, ...] = tuple(
    PaperRow(
        group['tables'],
        config,
        tuple(group['shape']),
        parameters,
        flops,
        dict(zip(group['metrics'], results, strict=True)),
    )
    for group in load(Path(__file__).with_suffix('.yml'))
    for config, (parameters, flops, *results) in group['rows'].items()
)
