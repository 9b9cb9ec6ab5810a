"""Measure time in turns and peak memory, and write tables and pictures, for the benchmarks."""

import argparse
import gc
import multiprocessing
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Builds what a side runs; picklable, since memory on the CPU is measured in a process of its own.
Build = Callable[[], Callable[[], object]]


class Cost(NamedTuple):
    """Hold the cost of one run: median seconds, and bytes at the peak above those before."""

    seconds: float
    memory: int


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    parser.add_argument('--device', type=torch.device, default='cpu', help='cpu, cuda, cuda:1, ...')
    parser.add_argument(
        '--dtype', default='float32', choices=['float32', 'float16', 'bfloat16'], help='precision'
    )
    parser.add_argument('--compile', action='store_true', help='compile every side')
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each side')
    parser.add_argument('--out', type=Path, default=out, help='PNG file to write')


def check_out(out: Path) -> None:
    """Exit if the picture exists; call this before any work."""
    if out.exists():
        sys.exit(f'{out} exists: name another file with --out')
    out.parent.mkdir(parents=True, exist_ok=True)


def measure(sides: dict[str, Build], device: torch.device, rounds: int) -> dict[str, Cost]:
    """Time the sides in turns, so that other work of the machine slows all of them alike."""
    memory = {name: peak_memory(build, device) for name, build in sides.items()}
    runs = {name: build() for name, build in sides.items()}
    seconds = take_turns(runs, device, rounds)
    return {name: Cost(statistics.median(seconds[name]), memory[name]) for name in sides}


def take_turns(
    runs: dict[str, Callable[[], object]], device: torch.device, rounds: int
) -> dict[str, list[float]]:
    """Run all once, time them in turns, and return the seconds of each round by name."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            seconds[name].append(time_run(run, device))
    return seconds


def time_run(run: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Return the seconds of one run, the mean of ``times`` in a row."""
    gc.collect()
    _synchronize(device)
    start = time.perf_counter()
    for _ in range(times):
        run()
    _synchronize(device)
    return (time.perf_counter() - start) / times


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def peak_memory(build: Build, device: torch.device) -> int:
    """Return the bytes that one run needs at its peak, above those that were in use before."""
    if device.type == 'cuda':
        run = build()
        run()
        gc.collect()
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    # Freed memory stays with a process: only a new one shows what a run needs.
    context = multiprocessing.get_context('spawn')
    with context.Pool(1, torch.set_num_threads, [torch.get_num_threads()]) as pool:
        return pool.apply(_grown_resident_memory, [build])


def _grown_resident_memory(build: Build) -> int:
    run = build()
    before = _resident_memory('VmRSS')
    run()
    return _resident_memory('VmHWM') - before


def _resident_memory(kind: str) -> int:
    """Return the bytes of this process that Linux counts: VmRSS now, VmHWM at the peak."""
    status = Path('/proc/self/status').read_text()
    return int(re.search(rf'{kind}:\s*(\d+) kB', status)[1]) * 1024


def table(costs: dict[str, dict[str, Cost]]) -> str:
    """Return a Markdown table with a row for each case and side, ratios over its first side."""
    lines = ['| case | side | ms | ratio | MiB | ratio |', '|---|---|---|---|---|---|']
    for case, sides in costs.items():
        first = next(iter(sides.values()))
        for name, cost in sides.items():
            lines.append(
                f'| {case} | {name} | {cost.seconds * 1e3:.2f} | '
                f'{cost.seconds / first.seconds:.2f} | {cost.memory / 2**20:.0f} | '
                f'{cost.memory / max(first.memory, 1):.2f} |'
            )
    return '\n'.join(lines)


def setting(args: argparse.Namespace) -> str:
    """Name the setting of the figures: precision, machine and versions."""
    if args.device.type == 'cuda':
        hardware = torch.cuda.get_device_name(args.device)
    else:
        hardware = f'{processor()}, {torch.get_num_threads()} threads'
    compiled = 'compiled' if args.compile else 'eager'
    return f'{args.dtype}, {compiled}; {hardware}; torch {torch.__version__}'


def processor() -> str:
    """Return the name of the processor, as Linux has it."""
    model = re.search(r'model name\s*: (.*)', Path('/proc/cpuinfo').read_text())
    return model[1] if model else platform.machine()


def draw_bars(costs: dict[str, dict[str, Cost]], title: str, out: Path) -> None:
    """Draw ratios of time and memory over each case's first side."""
    figure = _figure(12, 8)
    names = list(dict.fromkeys(name for sides in costs.values() for name in sides))
    for axes, field in zip(figure.subplots(2, 1, sharex=True), Cost._fields, strict=True):
        for i, name in enumerate(names):
            ratios = [_ratio(sides, name, field) for sides in costs.values()]
            places = np.arange(len(costs)) + (i - (len(names) - 1) / 2) * 0.8 / len(names)
            axes.bar(places, ratios, 0.8 / len(names), label=name)
        axes.set_xticks(range(len(costs)), list(costs))
        axes.set_ylabel(f'{field} / {names[0]}')
        axes.axhline(1, color='black', linewidth=0.8)
        axes.grid(axis='y', alpha=0.3)
    figure.axes[0].set_title(title)
    figure.axes[0].legend()
    figure.savefig(out)


def _figure(width: float, height: float) -> 'Figure':
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _ratio(sides: dict[str, Cost], name: str, field: str) -> float:
    if name not in sides:
        return float('nan')
    return getattr(sides[name], field) / max(getattr(next(iter(sides.values())), field), 1e-9)


def exponents(
    costs: dict[str, dict[str, Cost]], pixels: Sequence[int], field: str
) -> dict[str, float]:
    """Return the exponent of each side's growth with the pixels, fitted to the logarithms."""
    return {
        name: np.polyfit(
            np.log(pixels), np.log([getattr(sides[name], field) for sides in costs.values()]), 1
        )[0]
        for name in next(iter(costs.values()))
    }


def draw_growth(
    costs: dict[str, dict[str, Cost]], pixels: Sequence[int], title: str, out: Path
) -> None:
    """Draw time and memory over pixels, both logarithmic, with the exponent of each line."""
    figure = _figure(12, 5)
    for axes, field in zip(figure.subplots(1, 2), Cost._fields, strict=True):
        for name, exponent in exponents(costs, pixels, field).items():
            values = [getattr(sides[name], field) for sides in costs.values()]
            axes.loglog(pixels, values, 'o-', label=f'{name}: pixels^{exponent:.2f}')
        axes.set(title=field, xlabel='pixels', ylabel={'seconds': 's', 'memory': 'bytes'}[field])
        axes.legend()
        axes.grid(alpha=0.3, which='both')
    figure.suptitle(title)
    figure.savefig(out)
