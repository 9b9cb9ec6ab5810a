"""Test and time everything on this machine's GPU: one command, one report, in eight minutes.

Needs torch, triton, mmengine, mmcv or mmcv-lite, pytest and hypothesis; compares with the networks
of timm where it is installed. The report names a part that fails or takes too long, and goes on
with the next one.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import attention
import backbone
import torch
from measuring import Cost, check_out, peak_memory, processor, table, time_run
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
# Of which the driver of a network may need more than one, to compile.
THREADS = max(1, (os.cpu_count() or 1) // 4)
# Seconds a timed turn takes: many runs where one is short.
TURN = 0.05
Build = Callable[[], Callable[[], object]]


class Failure(Exception):
    """Why a side has no figure."""


class Side:
    """A process of its own for one side of the comparisons: it may fail, and be ended."""

    def __init__(self) -> None:
        context = get_context('spawn')
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()

    def ask(self, job: Callable[..., object], *arguments: object) -> None:
        self.pipe.send((job, arguments))

    def answer(self, deadline: float) -> Any:
        """Return the job's result. Raise a Failure if it failed, or is late: then the side ends."""
        try:
            if not self.pipe.poll(max(0.0, deadline - time.monotonic())):
                raise Failure('not ready in time')
            fine, result = self.pipe.recv()
        except (EOFError, Failure) as error:
            self.end()
            raise Failure(str(error) or 'its process ended') from error
        if not fine:
            raise Failure(result)
        return result

    def end(self) -> None:
        self.process.kill()
        self.process.join()


class Runner:
    """What a side's process holds between two jobs."""

    run: Callable[[], object]


def serve(pipe: Any) -> None:
    """Do what a :class:`Side` is asked for."""
    while True:
        job, arguments = pipe.recv()
        try:
            pipe.send((True, job(*arguments)))
        except Exception as error:
            traceback.print_exc()
            pipe.send((False, f'{type(error).__name__}: {str(error).splitlines()[:1]}'))


def prepare(build: Build, device: torch.device) -> int:
    """Build, compile and warm up; returns the bytes at the peak."""
    torch.compiler.reset()
    Runner.run = build()
    Runner.run()
    memory = peak_memory(lambda: Runner.run, device) if device.type == 'cuda' else 0
    release(device)
    return memory


def take_turn(device: torch.device) -> float:
    """Seconds of one run."""
    Runner.run()
    once = time_run(Runner.run, device)
    seconds = time_run(Runner.run, device, times=min(100, max(1, round(TURN / once))))
    release(device)
    return seconds


def release(device: torch.device) -> None:
    """Leave the memory to the other sides."""
    if device.type == 'cuda':
        torch.cuda.empty_cache()


def profile(device: torch.device, rows: int = 40) -> list[tuple[str, int, float]]:
    """Kernels of one run by the time they take: name, launches, milliseconds."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == 'cuda':
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    Runner.run()
    with torch.profiler.profile(activities=activities) as profiler:
        Runner.run()
    found: dict[str, list[float]] = {}
    for event in profiler.events():
        if (event.device_type is torch.autograd.DeviceType.CUDA) == (device.type == 'cuda'):
            entry = found.setdefault(event.name, [0, 0.0])
            entry[0] += 1
            entry[1] += event.time_range.elapsed_us() / 1e3
    ordered = sorted(found.items(), key=lambda item: -item[1][1])
    return [(name, int(count), spent) for name, (count, spent) in ordered[:rows]]


def compare(
    sides: dict[str, Side],
    builds: dict[str, Build],
    device: torch.device,
    rounds: int,
    deadline: float,
    together: bool,
) -> tuple[dict[str, Cost], dict[str, str]]:
    """Time builds in turns, one in each side; ``together``: prepare all at once."""
    memory: dict[str, int] = {}
    failures: dict[str, str] = {}

    def collect(name: str) -> None:
        try:
            memory[name] = sides[name].answer(deadline)
        except Failure as failure:
            failures[name] = str(failure)

    for name, build in builds.items():
        if not sides[name].process.is_alive():
            failures[name] = 'its process ended earlier'
            continue
        sides[name].ask(prepare, build, device)
        if not together:
            collect(name)
    if together:
        for name in [name for name in builds if name not in failures]:
            collect(name)
    seconds: dict[str, list[float]] = {name: [] for name in builds if name in memory}
    for _ in range(rounds):
        for name in [*seconds]:
            try:
                sides[name].ask(take_turn, device)
                seconds[name].append(sides[name].answer(deadline))
            except (Failure, OSError) as failure:
                failures[name] = str(failure)
                del seconds[name]
    costs = {name: Cost(statistics.median(taken), memory[name]) for name, taken in seconds.items()}
    return costs, failures


class Report:
    """One Markdown and one JSON file, written anew after each case."""

    def __init__(self, out: Path, setting: str) -> None:
        self.out = out
        self.lines = [f'{setting}.']
        self.data: dict[str, Any] = dict(setting=setting, cases=[], profiles=[])

    def write(self, *lines: str) -> None:
        self.lines += ['', *lines]
        print('', *lines, sep='\n', flush=True)
        self.out.with_suffix('.md').write_text('\n'.join(self.lines) + '\n')
        self.out.with_suffix('.json').write_text(json.dumps(self.data, indent=1) + '\n')

    def compare(self, case: str, costs: dict[str, Cost], failures: dict[str, str]) -> None:
        self.data['cases'].append(
            dict(case=case, costs={n: c._asdict() for n, c in costs.items()}, failures=failures)
        )
        lines = table({case: costs}).splitlines() if costs else []
        lines += ['', *(f'- {name}: {why}' for name, why in failures.items())] if failures else []
        self.write(*lines)

    def profile(self, name: str, rows: list[tuple[str, int, float]]) -> None:
        self.data['profiles'].append(dict(name=name, rows=rows))
        lines = [f'| {name}: kernel | launches | ms |', '|---|---|---|']
        for kernel, launches, spent in rows:
            lines.append(f'| `{kernel[:90]}` | {launches} | {spent:.3f} |'.replace('||', '| |'))
        self.write(*lines)


def run_tests(report: Report, paths: list[str], seconds: float) -> None:
    report.write('## Tests')
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *paths]
    if importlib.util.find_spec('xdist'):
        command += ['-n', str(2 * THREADS)]
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])])
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=os.environ | {'PYTHONPATH': path, 'OMP_NUM_THREADS': '1'},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b'').decode() + f'\nnot done in {seconds:.0f} s'
    report.out.with_suffix('.tests.log').write_text(output)
    lines = output.splitlines()
    report.data['tests'] = lines[-1:]
    notable = [line for line in lines if line.startswith(('FAILED', 'ERROR', 'SKIPPED'))]
    report.write(*(f'- `{line[:300]}`' for line in notable[:40]), '', *lines[-1:])


def time_operation(
    report: Report,
    shapes: list[tuple[int, int, int, int, int]],
    names: list[str],
    device: torch.device,
    rounds: int,
    seconds: float,
) -> None:
    report.write(
        '## The operation: attention inside clusters, bfloat16', '', attention.__doc__ or ''
    )
    deadline = time.monotonic() + seconds
    sides = {name: Side() for name in names}
    try:
        for shape in shapes:
            for backward in (False, True):
                builds: dict[str, Build] = {
                    name: partial(
                        attention.build, name, shape, backward, device, torch.bfloat16, False
                    )
                    for name in names
                }
                case = 'x'.join(map(str, shape)) + (' step' if backward else '')
                report.compare(
                    case, *compare(sides, builds, device, rounds, deadline, together=False)
                )
    finally:
        for side in sides.values():
            side.end()


def time_backbones(
    report: Report,
    networks: dict[str, Callable[[tuple[int, int]], nn.Module]],
    cases: list[tuple[tuple[int, int, int], bool, bool]],
    left_out: list[str],
    profiled: list[str],
    device: torch.device,
    rounds: int,
    seconds: float,
) -> None:
    """``cases``: shape, whether it is a training step, whether it is compiled.

    ``left_out`` are not compiled, ``profiled`` are the networks whose kernels are listed.
    """
    report.write('## Backbones: bfloat16 by autocast')
    deadline = time.monotonic() + seconds
    sides = {name: Side() for name in networks}
    try:
        for shape, training, compiled in cases:
            builds: dict[str, Build] = {
                name: partial(
                    backbone.build, network, shape, training, device, torch.bfloat16, compiled
                )
                for name, network in networks.items()
                if not (compiled and name in left_out)
            }
            case = 'x'.join(map(str, shape))
            case += (' step' if training else '') + (' compiled' if compiled else '')
            results = compare(sides, builds, device, rounds, deadline, together=compiled)
            report.compare(case, *results)
            if compiled:
                continue
            for name in results[0].keys() & profiled:
                sides[name].ask(profile, device)
                report.profile(f'{name}, {case}', sides[name].answer(deadline))
    except Failure as failure:
        report.write(f'Ended early: {failure}')
    finally:
        for side in sides.values():
            side.end()


def tiny(network: str, size: tuple[int, int], backend: str = 'auto') -> nn.Module:
    """A network for the rehearsal, built as the one that it stands for."""
    dims = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))
    if network == 'transcription':
        return backbone.ReleasedSecViT(**dims)
    return backbone.SecViT(dims, 'released', attention_backend=backend)


def setting(device: torch.device) -> str:
    versions = [f'torch {torch.__version__}']
    for name in ('triton', 'timm'):
        if importlib.util.find_spec(name):
            versions.append(f'{name} {importlib.metadata.version(name)}')
    if device.type != 'cuda':
        return f'A rehearsal on {processor()}; {", ".join(versions)}'
    card = torch.cuda.get_device_properties(device)
    return (
        f'{card.name}, compute capability {card.major}.{card.minor}, '
        f'{card.total_memory / 2**30:.0f} GiB; {", ".join(versions)}'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--out',
        type=Path,
        default='work_dirs/gpu.md',
        help='Markdown file to write, next to a JSON',
    )
    parser.add_argument(
        '--rehearse', action='store_true', help='go through every step on the CPU, with tiny shapes'
    )
    args = parser.parse_args()
    check_out(args.out)
    if not (args.rehearse or torch.cuda.is_available()):
        sys.exit('torch sees no GPU here; --rehearse goes through every step on the CPU')
    device = torch.device('cpu' if args.rehearse else 'cuda')
    torch.set_num_threads(THREADS)
    report = Report(args.out, setting(device))
    report.write('# On a GPU')

    if args.rehearse:
        networks = {
            'transcription': partial(tiny, 'transcription'),
            'SecViT-S sdpa': partial(tiny, 'SecViT', backend='sdpa'),
        }
        run_tests(report, ['tests/test_ops/test_windows.py'], 60)
        time_operation(report, [(1, 1, 4, 8, 2)], ['grouped', 'sdpa'], device, 1, 60)
        cases = [((1, 64, 64), training, False) for training in (False, True)]
        time_backbones(report, networks, cases, [], ['SecViT-S sdpa'], device, 1, 120)
        return

    networks = {
        'transcription': backbone.transcription_small,
        'SecViT-S sdpa': partial(backbone.secvit_small, backend='sdpa'),
        'SecViT-S triton': partial(backbone.secvit_small, backend='triton'),
        'SEC-Swin-T sdpa': partial(backbone.sec_swin_tiny, backend='sdpa'),
        'SEC-Swin-T triton': partial(backbone.sec_swin_tiny, backend='triton'),
    }
    if importlib.util.find_spec('timm'):
        networks['Swin-T (timm)'] = backbone.swin_tiny_timm
        networks['ConvNeXt-T (timm)'] = backbone.convnext_tiny_timm
    tests = ['tests/test_ops', 'tests/test_layers', 'tests/test_backbones/test_cuda.py']
    run_tests(report, tests, 120)
    shapes = [(64, *shape[1:]) for shape in attention.SHAPES[:3]]
    shapes += [(2, *shape[1:]) for shape in attention.SHAPES[3:]]
    time_operation(report, shapes, ['grouped', 'varlen', 'sdpa', 'triton'], device, 5, 90)
    cases = [
        (shape, training, compiled)
        for compiled in (False, True)
        for shape in ((64, 224, 224), (2, 800, 1344))
        for training in (False, True)
        if not (compiled and (training or shape[0] == 2))
    ]
    left_out = ['transcription', 'SecViT-S sdpa', 'SEC-Swin-T sdpa']
    profiled = ['SecViT-S triton', 'SEC-Swin-T triton', 'Swin-T (timm)']
    time_backbones(report, networks, cases, left_out, profiled, device, 5, 240)


if __name__ == '__main__':
    main()
