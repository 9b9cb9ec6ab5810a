"""Draw the losses and validation metrics in the logs that mmengine writes."""

import json
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# The main metrics of the toolboxes: mIoU, accuracy/top1, coco/bbox_mAP, but not coco/bbox_mAP_50.
HEADLINE_METRIC = re.compile(r'(AP|IoU|Acc|accuracy|top\d+)$')

Series = tuple[np.ndarray, np.ndarray]


class Curves(NamedTuple):
    """Series of losses and metrics of a training run, by name.

    Each series is a pair: rising iterations, (N,) int64, and values, (N,) float64.

    Attributes:
        losses: The total, ``loss``, and its components.
        metrics: Validation metrics as logged: fractions or percentages.
    """

    losses: dict[str, Series]
    metrics: dict[str, Series]


def plot_log(work_dir: str | os.PathLike, out_file: str | os.PathLike | None = None) -> Path:
    """Draw the losses and the validation metrics of a training run into one picture.

    Args:
        work_dir: Work directory of the training run, which may have been resumed.
        out_file: New PNG file; its folder is created if needed. Defaults to ``curves.png`` in
            ``work_dir``, which is replaced if it exists.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: If there is no training log in ``work_dir``.
        FileExistsError: If ``out_file`` exists.
    """
    if out_file is not None and Path(out_file).exists():
        raise FileExistsError(f'out must be a new file, but {out_file} exists')
    curves = join_runs(read_runs(work_dir))
    if not curves.losses:
        raise FileNotFoundError(f'{work_dir} holds no log of a training run (no scalars.json)')
    figure = Figure(figsize=(12, 4.5), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    if curves.metrics:
        left, right = figure.subplots(1, 2)
        _draw_metrics(right, curves.metrics)
    else:
        left = figure.subplots()
    _draw_losses(left, curves.losses)
    out = Path(work_dir, 'curves.png') if out_file is None else Path(out_file)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format='png')
    return out


def read_runs(work_dir: str | os.PathLike) -> list[list[dict]]:
    """Read mmengine's logs, of which each start and each resumption of a training writes one.

    Args:
        work_dir: Work directory of the training run.

    Returns:
        The records of each run, in the order in which the runs began.
    """
    # A folder's name is the time at which its run began.
    return [_read_records(path) for path in sorted(Path(work_dir).glob('*/vis_data/scalars.json'))]


def join_runs(runs: list[list[dict]]) -> Curves:
    """Join the runs of one training.

    A resumed run replaces the earlier records from its first iteration on.

    Args:
        runs: The records of each run, as from :func:`read_runs`. Runs without a training step, such
            as evaluations, are ignored.

    Returns:
        The series of losses and main metrics.
    """
    joined: list[tuple[int, dict]] = []
    for run in runs:
        placed = _place(run)
        if placed:
            start = placed[0][0]
            joined = [(at, record) for at, record in joined if at < start] + placed
    points: dict[str, list[tuple[int, float]]] = {}
    for at, record in joined:
        for name, value in record.items():
            wanted = 'loss' in name if 'loss' in record else HEADLINE_METRIC.search(name)
            if wanted:
                points.setdefault(name, []).append((at, value))
    series = {
        name: (np.array([at for at, _ in pairs]), np.array([float(v) for _, v in pairs]))
        for name, pairs in points.items()
    }
    return Curves(
        losses={name: s for name, s in series.items() if 'loss' in name},
        metrics={name: s for name, s in series.items() if 'loss' not in name},
    )


def _place(run: list[dict]) -> list[tuple[int, dict]]:
    """Pair each record with its iteration; leave out records before the first training step."""
    placed = []
    now = 0
    for record in run:
        if 'loss' in record:
            now = record['step']
        if now:
            # Records of training count iterations. A record of validation counts epochs or
            # iterations, depending on the config, and follows that of the validated iteration.
            placed.append((max(now, record['step']), record))
    return placed


def _read_records(path: Path) -> list[dict]:
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:  # the last line of a killed run
            continue
    return records


def _draw_losses(axes: Axes, losses: dict[str, Series]) -> None:
    # The total comes first in the legend: it is the highest curve.
    for name in sorted(losses, key=lambda name: name != 'loss'):
        total = name == 'loss'
        label = 'total' if total else name
        width = 2.5 if total else 1.2
        axes.plot(*losses[name], label=label, linewidth=width, color='black' if total else None)
    axes.set(title='Training', xlabel='iteration', ylabel='loss')
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend()
    axes.grid(alpha=0.3)


def _draw_metrics(axes: Axes, metrics: dict[str, Series]) -> None:
    # COCO's metrics are fractions; those of segmentation and classification are percentages.
    percent = max(values.max() for _, values in metrics.values()) > 1
    unit, top, digits = ('percent', 100, 1) if percent else ('fraction (1 is best)', 1, 3)
    for name, (at, values) in metrics.items():
        axes.plot(at, values, marker='o', label=f'{name}: {values[-1]:.{digits}f} at the end')
    axes.set(title='Validation', xlabel='iteration', ylabel=unit)
    axes.set_xlim(left=0)
    axes.set_ylim(0, top)
    axes.legend(loc='lower right')
    axes.grid(alpha=0.3)
