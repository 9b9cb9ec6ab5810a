"""Time the operation and the backbones on a GPU, and estimate: the parts of `gpu.py`."""

import gc
import importlib.util
import statistics
import time
import traceback
from collections.abc import Callable
from functools import partial
from itertools import product

import attention
import backbone
import torch
from gpu_report import Report, limit
from measuring import Cost, peak_memory, table, time_run
from torch import nn

from mmsecvit.analysis import Launch, Roofline, count_traffic, traffic_table

# Seconds that a side runs in one turn: many runs where one is short.
TURN = 0.05

Build = Callable[[], Callable[[], object]]
Network = Callable[[tuple[int, int]], nn.Module]


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
            failures[name] = describe(error)
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


def describe(error: Exception) -> str:
    traceback.print_exc()
    return f'{type(error).__name__}: {str(error)[:200]!r}'


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


def write_costs(
    report: Report,
    case: str,
    costs: dict[str, Cost],
    failures: dict[str, str],
    estimates: dict[str, float] | None = None,
) -> None:
    report.data[case] = {name: cost._asdict() for name, cost in costs.items()} | failures
    if costs:
        report.write(table({case: costs}))
    if estimates:
        lines = ['| case | side | ms | estimate (ms) |', '|---|---|---|---|']
        for name, cost in costs.items():
            estimate = f'{estimates[name]:.2f}' if name in estimates else ''
            lines.append(f'| {case} | {name} | {cost.seconds * 1e3:.2f} | {estimate} |')
        report.write(*lines)
    report.fail(case, failures)


def write_profile(report: Report, name: str, rows: list[tuple[str, int, float]]) -> None:
    report.data[f'profile of {name}'] = rows
    lines = [f'| {name}: kernel | launches | ms |', '|---|---|---|']
    for kernel, launches, spent in rows:
        kernel = kernel[:90].replace('|', ' ')
        lines.append(f'| `{kernel}` | {launches} | {spent:.3f} |')
    report.write(*lines)


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
            costs, failures, _ = compare(builds, device, 1 if rehearse else 5, deadline)
            write_costs(report, case, costs, failures)


def networks(rehearse: bool) -> dict[str, Network]:
    if rehearse:
        return {
            'transcription': tiny_transcription,
            'SecViT-S triton': tiny,
            'one that fails': failing,
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


# A small network for the rehearsal, in place of the real ones.
TINY = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2))


def tiny(size: tuple[int, int]) -> nn.Module:
    return backbone.SecViT(TINY, 'released')


def tiny_transcription(size: tuple[int, int]) -> nn.Module:
    return backbone.ReleasedSecViT(**TINY)


def failing(size: tuple[int, int]) -> nn.Module:
    raise ValueError('this failure is a part of the rehearsal')


# Of which the report lists the kernels.
PROFILED = ('SecViT-S triton', 'SEC-Swin-T triton', 'Swin-T (timm)')
# The most important first: time may run out.
COMPILED = ('Swin-T (timm)', 'SEC-Swin-T triton', 'ConvNeXt-T (timm)', 'SecViT-S triton')


def shapes(rehearse: bool) -> list[tuple[int, int, int]]:
    return [(2, 32, 32)] if rehearse else [(64, 224, 224), (2, 800, 1344)]


def sides(shape: tuple[int, int, int], rehearse: bool) -> dict[str, Network]:
    """Return the networks to compare: at 224x224 a cluster of 98 is the default."""
    found = networks(rehearse)
    return {name: found[name] for name in found if 'clusters of 98' not in name or shape[1] > 224}


def name_case(shape: tuple[int, int, int], training: bool) -> str:
    return 'x'.join(map(str, shape)) + (' step' if training else '')


def estimate_backbones(report: Report, roofline: Roofline, rehearse: bool) -> None:
    """Estimate what :func:`time_backbones` measures, from the bytes that networks move."""
    deadline = time.monotonic() + 0.9 * limit('estimates', rehearse)
    for training, shape in product((False, True), shapes(rehearse)):
        launches: dict[str, list[Launch]] = {}
        failures: dict[str, str] = {}
        size = shape[1:]
        images = (shape[0], 3, *size)
        for name, network in sides(shape, rehearse).items():
            if time.monotonic() > deadline:
                failures[name] = 'no time left'
                continue
            try:
                launches[name] = count_traffic(
                    network(size), images, torch.bfloat16, autocast=True, step=training
                )
            except Exception as error:
                failures[name] = describe(error)
        case = name_case(shape, training)
        report.data[case] = {name: roofline.estimate(x) for name, x in launches.items()}
        report.write(f'{case}:', '', traffic_table(launches, roofline))
        report.fail(case, failures)


def time_backbones(
    report: Report, estimates: dict[str, dict[str, float]], rehearse: bool, compiled: bool = False
) -> None:
    device = torch.device('cpu' if rehearse else 'cuda')
    part = 'compiled' if compiled else 'backbones'
    deadline = time.monotonic() + 0.8 * limit(part, rehearse)
    for shape in shapes(rehearse)[:1] if compiled else shapes(rehearse):
        found = sides(shape, rehearse)
        if compiled:
            # Compiling takes a minute for a network and shape.
            found = {name: found[name] for name in COMPILED if name in found}
        for training in (False,) if compiled else (False, True):
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
                for name, network in found.items()
            }
            case = name_case(shape, training)
            estimate = estimates.get(case)
            case += ' compiled' if compiled else ''
            costs, failures, runs = compare(builds, device, 1 if rehearse else 5, deadline)
            write_costs(report, case, costs, failures, estimate)
            if not (compiled or training or rehearse):
                graphs = {name: partial(replayed, build) for name, build in builds.items()}
                costs, failures, _ = compare(graphs, device, 5, deadline)
                write_costs(report, f'{case} graph', costs, failures, estimate)
            for name in runs.keys() & set(PROFILED):
                write_profile(report, f'{name}, {case}', profile(runs[name], device))
            del runs
            release(device)
