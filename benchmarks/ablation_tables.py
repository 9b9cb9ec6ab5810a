"""Write tables and draw a picture of the runs that ablate.py finished."""

import json
import re
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# What to multiply a metric with, for percent.
METRICS = {
    'accuracy/top1': ('top-1', 1),
    'coco/bbox_mAP': ('box AP', 100),
    'coco/segm_mAP': ('mask AP', 100),
}
COLUMNS = (
    'config',
    'parameters (M)',
    'FLOPs (M)',
    'seeds',
    'mean',
    'standard deviation',
    'minus the first: mean',
    'by seed',
)
TIMES = dict(train_ms='step, ms per image', predict_ms='prediction, ms per image')
Runs = dict[str, dict[int, dict]]  # by config and seed, in the order of the file


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def read_runs(path: Path) -> Runs:
    runs: Runs = {}
    for line in read_lines(path):
        runs.setdefault(line['config'], {})[line['seed']] = line
    return runs


def read_times(results: Path) -> dict:
    """Return what `ablate.py time` wrote for these results, or an empty dict."""
    path = results.with_suffix('.times.json')
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}


def last(run: dict, metric: str) -> float:
    """Return a metric of the last validation in percent."""
    return run['validations'][-1][metric] * METRICS[metric][1]


def metrics_of(runs: Runs) -> list[str]:
    first = next(iter(next(iter(runs.values())).values()))
    return [metric for metric in METRICS if metric in first['validations'][-1]]


def report(runs: Runs, times: dict) -> str:
    """Return a Markdown table for each metric, and the hardware of the runs.

    Args:
        runs: The finished runs. The first config is what the others are compared with.
        times: What `ablate.py time` wrote, or an empty dict.
    """
    if not runs:
        return 'No run is finished yet.'
    parts = [table(runs, metric, times.get('ms_per_image', {})) for metric in metrics_of(runs)]
    lines = [run for by_seed in runs.values() for run in by_seed.values()]
    hours = sum(run['validations'][-1]['processor_seconds'] for run in lines) / 3600
    machines = sorted({f'{run["machine"]}, threads: {run["threads"]}' for run in lines})
    parts.append(
        f'{len(lines)} runs, {hours:.1f} processor hours of training and validation '
        f'({"; ".join(machines)}).'
    )
    if times:
        parts[-1] += f' Times: {times["machine"]}, threads: {times["threads"]}, median of turns.'
    return '\n\n'.join(parts)


def table(runs: Runs, metric: str, times: dict[str, dict[str, float]]) -> str:
    reference = next(iter(runs.values()))
    columns = [*COLUMNS, *(TIMES.values() if times else ())]
    lines = [f'| {" | ".join(columns)} |', '|---' * len(columns) + '|']
    for name, by_seed in runs.items():
        values = [last(run, metric) for run in by_seed.values()]
        shared = sorted(by_seed.keys() & reference.keys()) if by_seed is not reference else []
        gaps = {s: last(by_seed[s], metric) - last(reference[s], metric) for s in shared}
        run = next(iter(by_seed.values()))
        cells = [
            f'`{name}`',
            f'{run["parameters"] / 1e6:.3f}',
            f'{run["flops"] / 1e6:.1f}',
            ', '.join(map(str, sorted(by_seed))),
            f'{np.mean(values):.2f}',
            f'{np.std(values, ddof=1):.2f}' if len(values) > 1 else '',
            f'{np.mean([*gaps.values()]):+.2f}' if gaps else '',
            ', '.join(f'{seed}: {gap:+.2f}' for seed, gap in gaps.items()),
        ]
        if times:
            cells += [f'{times[name][kind]:.2f}' if name in times else '' for kind in TIMES]
        lines.append(f'| {" | ".join(cells)} |')
    return f'{METRICS[metric][0]} in percent:\n\n' + '\n'.join(lines)


def write_into(page: Path, name: str, text: str) -> None:
    """Replace the part of a page between the two comments with the name of a results file."""
    pattern = re.compile(rf'(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)', re.S)
    content = page.read_text(encoding='utf-8')
    page.write_text(pattern.sub(lambda m: f'{m[1]}\n{text}\n\n{m[2]}', content), encoding='utf-8')


def draw(runs: Runs, times: dict[str, dict[str, float]], out: Path) -> None:
    """Draw the means, with a dot for each seed, over the times of a step and a prediction."""
    metrics = metrics_of(runs)
    figure = Figure(figsize=(12, 5 * len(metrics)), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    for row, metric in zip(figure.subplots(len(metrics), 2, squeeze=False), metrics, strict=True):
        for axes, (kind, label) in zip(row, TIMES.items(), strict=True):
            for name in [name for name in runs if name in times]:
                values = [last(run, metric) for run in runs[name].values()]
                at = times[name][kind]
                (mark,) = axes.plot(at, np.mean(values), 'o', markersize=9, label=name)
                axes.plot([at] * len(values), values, '.', color=mark.get_color())
            axes.set(xlabel=label, ylabel=f'{METRICS[metric][0]} (%)')
            axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize='small')
    figure.savefig(out)
