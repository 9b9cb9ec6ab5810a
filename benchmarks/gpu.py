"""Test and time everything on this machine's GPU: one command, one report, in eight minutes.

Needs torch, triton, mmengine, mmcv or mmcv-lite, pytest and hypothesis; compares with the networks
of timm where it is installed. The report names a part that fails or takes too long, and the
next part runs.
"""

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attention
import backbone
import torch
from measuring import Cost, check_out, peak_memory, processor, table, time_run
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
# Seconds for each part.
PARTS = {'tests': 120, 'attention': 40, 'backbones': 190, 'compiled': 130}
# Seconds that a side runs in one turn: many runs where one is short.
TURN = 0.05

# What runs differently on a GPU.
GPU_TESTS = (
    'test_backbones/test_cuda.py',
    'test_ops/test_fused.py',
    'test_ops/test_triton.py',
    'test_ops/test_properties.py',
)

Build = Callable[[], Callable[[], object]]
Network = Callable[[tuple[int, int]], nn.Module]


class Report:
    """Write Markdown and JSON of one part, anew after each step."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.lines: list[str] = []
        self.data: dict[str, Any] = {}

    def write(self, *lines: str) -> None:
        self.lines += [*lines, '']
        print(*lines, '', sep='\n', flush=True)
        self.out.with_suffix('.md').write_text('\n'.join(self.lines))
        self.out.with_suffix('.json').write_text(json.dumps(self.data, indent=1))

    def compare(self, case: str, costs: dict[str, Cost], failures: dict[str, str]) -> None:
        self.data[case] = {name: cost._asdict() for name, cost in costs.items()} | failures
        if costs:
            self.write(table({case: costs}))
        if failures:
            self.write(*(f'- {case}, {name}: {why}' for name, why in failures.items()))

    def profile(self, name: str, rows: list[tuple[str, int, float]]) -> None:
        self.data[f'profile of {name}'] = rows
        lines = [f'| {name}: kernel | launches | ms |', '|---|---|---|']
        for kernel, launches, spent in rows:
            kernel = kernel[:90].replace('|', ' ')
            lines.append(f'| `{kernel}` | {launches} | {spent:.3f} |')
        self.write(*lines)


def compare(
    builds: dict[str, Build], device: torch.device, rounds: int, deadline: float
) -> tuple[dict[str, Cost], dict[str, str], dict[str, Callable[[], object]]]:
    """Time builds in turns; return costs, the reasons of builds without costs, and what ran."""
    runs: dict[str, Callable[[], object]] = {}
    memory: dict[str, int] = {}
    failures: dict[str, str] = {}
    for name, build in builds.items():
        if time.monotonic() > deadline:
            failures[name] = 'no time left'
            continue
        try:
            run = build()
            run()
            memory[name] = peak_memory(lambda run=run: run, device) if device.type == 'cuda' else 0
            runs[name] = run
        except Exception as error:
            traceback.print_exc()
            failures[name] = f'{type(error).__name__}: {str(error)[:200]!r}'
        release(device)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            run()
            once = time_run(run, device)
            times = min(100, max(1, round(TURN / once)))
            seconds[name].append(time_run(run, device, times))
            release(device)
    costs = {name: Cost(statistics.median(seconds[name]), memory[name]) for name in runs}
    return costs, failures, runs


def release(device: torch.device) -> None:
    """Free the memory for the other sides."""
    gc.collect()
    if device.type == 'cuda':
        torch.cuda.empty_cache()


def replayed(build: Build) -> Callable[[], object]:
    """Record a build's run as a CUDA graph, so that its time is the GPU's own."""
    run = build()
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    # The graph reads the memory of the network and its input, which `run` keeps.
    return partial(replay, graph, run)


def replay(graph: torch.cuda.CUDAGraph, recorded: object) -> None:
    graph.replay()


def profile(
    run: Callable[[], object], device: torch.device, rows: int = 40
) -> list[tuple[str, int, float]]:
    """Return the kernels of one run, the longest first: name, launches, milliseconds."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == 'cuda':
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    run()
    with torch.profiler.profile(activities=activities) as profiler:
        run()
    found: dict[str, list[float]] = {}
    for event in profiler.events():
        if (event.device_type == torch.autograd.DeviceType.CUDA) == (device.type == 'cuda'):
            entry = found.setdefault(event.name, [0, 0.0])
            entry[0] += 1
            entry[1] += event.time_range.elapsed_us() / 1e3
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    kernels = [(name, int(count), spent) for name, (count, spent) in ordered]
    total = (
        'all kernels',
        sum(count for _, count, _ in kernels),
        sum(spent for *_, spent in kernels),
    )
    return [total, *kernels[:rows]]


def limit(part: str, rehearse: bool) -> int:
    """Return the seconds that a part may take, ten times as many in a rehearsal."""
    return 10 * PARTS[part] if rehearse else PARTS[part]


def run_tests(report: Report, rehearse: bool) -> None:
    paths = [f'tests/{path}' for path in GPU_TESTS]
    if rehearse:
        paths = ['tests/test_ops/test_windows.py']
    command = [sys.executable, '-m', 'pytest', '-v', '--tb=short', '-p', 'no:cacheprovider', *paths]
    if importlib.util.find_spec('xdist') and not rehearse:
        command += ['-n', 'logical', '--dist', 'worksteal']
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    environment = os.environ | {'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'}
    seconds = limit('tests', rehearse) - 15
    log = report.out.with_suffix('.log')
    ending = ''
    with log.open('w') as out:
        try:
            subprocess.run(
                command,
                cwd=ROOT,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=seconds,
            )
        except subprocess.TimeoutExpired:
            ending = f', and what was left after {seconds} seconds did not run'
    # Each test has a line as soon as it ends, so that those that ran are known in any case.
    outcomes = {}
    for line in log.read_text().splitlines():
        test, outcome = re.search(r'tests/\S+', line), re.search(r'\b(PASS|FAIL|SKIPP)ED\b', line)
        if test and outcome:
            outcomes[test[0]] = outcome[0].lower()
    counts = Counter(outcomes.values())
    report.data['summary'] = dict(counts)
    report.write(', '.join(f'{count} {outcome}' for outcome, count in counts.items()) + ending)
    failed = [test for test, outcome in outcomes.items() if outcome == 'failed']
    report.write(*(f'- `{test}` failed' for test in failed))


def time_attention(report: Report, rehearse: bool) -> None:
    device = torch.device('cpu' if rehearse else 'cuda')
    deadline = time.monotonic() + 0.8 * limit('attention', rehearse)
    names = ['grouped', 'varlen', 'sdpa', 'triton']
    shapes = [(64, *shape[1:]) for shape in attention.SHAPES[:3]]
    shapes += [(2, *shape[1:]) for shape in attention.SHAPES[3:]]
    if rehearse:
        names, shapes = ['grouped', 'sdpa'], [(1, 1, 4, 8, 2)]
    for shape in shapes:
        for backward in (False, True):
            builds = {
                name: partial(attention.build, name, shape, backward, device, torch.bfloat16, False)
                for name in names
            }
            case = 'x'.join(map(str, shape)) + (' step' if backward else '')
            report.compare(case, *compare(builds, device, 1 if rehearse else 5, deadline)[:2])


def networks(rehearse: bool) -> dict[str, Network]:
    if rehearse:
        return {
            'transcription': partial(tiny, 'transcription'),
            'SecViT-S triton': partial(tiny, 'SecViT'),
        }
    found: dict[str, Network] = {
        'transcription': backbone.transcription_small,
        'SecViT-S sdpa': partial(backbone.secvit_small, backend='sdpa'),
        'SecViT-S triton': partial(backbone.secvit_small, backend='triton'),
        'SecViT-S triton, clusters of 98': partial(
            backbone.secvit_small, backend='triton', cluster_size=98
        ),
        'SEC-Swin-T sdpa': partial(backbone.sec_swin_tiny, backend='sdpa'),
        'SEC-Swin-T triton': partial(backbone.sec_swin_tiny, backend='triton'),
    }
    if importlib.util.find_spec('timm'):
        found['Swin-T (timm)'] = backbone.swin_tiny_timm
        found['ConvNeXt-T (timm)'] = backbone.convnext_tiny_timm
    return found


def tiny(network: str, size: tuple[int, int]) -> nn.Module:
    """Build a small network for the rehearsal, in place of the real one."""
    dims = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
    if network == 'transcription':
        return backbone.ReleasedSecViT(**dims)
    return backbone.SecViT(dims, 'released')


# Of which the report lists the kernels.
PROFILED = ('SecViT-S triton', 'SEC-Swin-T triton', 'Swin-T (timm)')


def time_backbones(report: Report, rehearse: bool, compiled: bool = False) -> None:
    device = torch.device('cpu' if rehearse else 'cuda')
    part = 'compiled' if compiled else 'backbones'
    deadline = time.monotonic() + 0.8 * limit(part, rehearse)
    sides = networks(rehearse)
    shapes = [(64, 224, 224), (2, 800, 1344)]
    if rehearse:
        shapes = [(1, 64, 64)]
    elif compiled:
        # Compiling takes a minute for a network and shape.
        names = ('Swin-T (timm)', 'SEC-Swin-T triton', 'ConvNeXt-T (timm)', 'SecViT-S triton')
        sides = {name: sides[name] for name in names if name in sides}
        shapes = shapes[:1]
    for shape in shapes:
        for training in (False,) if compiled else (False, True):
            # At 224x224 a cluster of 98 is the default.
            builds: dict[str, Build] = {
                name: partial(
                    backbone.build,
                    network,
                    shape,
                    training,
                    device,
                    torch.bfloat16,
                    'eager' if compiled and rehearse else compiled,
                )
                for name, network in sides.items()
                if 'clusters of 98' not in name or shape[1] > 224
            }
            case = 'x'.join(map(str, shape))
            case += (' step' if training else '') + (' compiled' if compiled else '')
            costs, failures, runs = compare(builds, device, 1 if rehearse else 5, deadline)
            report.compare(case, costs, failures)
            if not (compiled or training or rehearse):
                graphs = {name: partial(replayed, build) for name, build in builds.items()}
                report.compare(f'{case} graph', *compare(graphs, device, 5, deadline)[:2])
            for name in runs.keys() & set(PROFILED):
                report.profile(f'{name}, {case}', profile(runs[name], device))
            del runs
            release(device)


def setting(rehearse: bool) -> str:
    versions = [f'torch {torch.__version__}']
    for name in ('triton', 'timm'):
        if importlib.util.find_spec(name):
            versions.append(f'{name} {importlib.metadata.version(name)}')
    if rehearse:
        return f'A rehearsal on {processor()}; {", ".join(versions)}.'
    card = torch.cuda.get_device_properties(0)
    return (
        f'{card.name}, compute capability {card.major}.{card.minor}, '
        f'{card.total_memory / 2**30:.0f} GiB; {", ".join(versions)}.'
    )


def run_part(part: str, out: Path, rehearse: bool) -> None:
    report = Report(out)
    if part == 'tests':
        run_tests(report, rehearse)
    elif part == 'attention':
        time_attention(report, rehearse)
    else:
        time_backbones(report, rehearse, compiled=part == 'compiled')


TITLES = {
    'tests': 'Tests',
    'attention': 'Attention inside clusters: bfloat16',
    'backbones': 'Backbones: bfloat16 by autocast, eager',
    'compiled': 'Backbones: bfloat16 by autocast, compiled',
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out', type=Path, default='work_dirs/gpu.md', help='Markdown file; JSON goes next to it'
    )
    parser.add_argument('--parts', nargs='+', default=list(PARTS), choices=PARTS)
    parser.add_argument(
        '--rehearse', action='store_true', help='go through every step on the CPU, with tiny shapes'
    )
    parser.add_argument('--in-process', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        run_part(args.parts[0], args.out, args.rehearse)
        return
    check_out(args.out)
    if not (args.rehearse or torch.cuda.is_available()):
        sys.exit('torch sees no GPU here; --rehearse goes through every step on the CPU')
    lines = ['# On a GPU', '', setting(args.rehearse), '']
    data: dict[str, Any] = {}
    for part in args.parts:
        # In a process of its own, a part may fail or be late without the others.
        out = args.out.with_name(f'{args.out.stem}.{part}.md')
        command = [sys.executable, __file__, '--in-process', '--parts', part, '--out', str(out)]
        command += ['--rehearse'] if args.rehearse else []
        try:
            code = subprocess.run(command, timeout=limit(part, args.rehearse)).returncode
            ending = [f'Ended with exit code {code}.', ''] if code else []
        except subprocess.TimeoutExpired:
            ending = [f'Ended after {limit(part, args.rehearse)} seconds.', '']
        lines += [f'## {TITLES[part]}', '']
        if out.exists():
            lines += [out.read_text(), *ending]
            data[part] = json.loads(out.with_suffix('.json').read_text())
        else:
            lines += ending or ['Nothing to report.', '']
        args.out.write_text('\n'.join(lines))
        args.out.with_suffix('.json').write_text(json.dumps(data, indent=1) + '\n')


if __name__ == '__main__':
    main()
