"""Test and time everything on this machine's GPU: one command, one report, in eight minutes.

Needs torch, triton, mmengine, mmcv or mmcv-lite, pytest and hypothesis; compares with the networks
of timm where it is installed. The report names a part that fails or takes too long, and the
next part runs.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from gpu_report import PARTS, Report, limit

ROOT = Path(__file__).resolve().parents[1]
# Of the estimate: microseconds of a short kernel.
LAUNCH = 2.0
# What runs differently on a GPU.
GPU_TESTS = (
    'test_backbones/test_cuda.py',
    'test_ops/test_fused.py',
    'test_ops/test_triton.py',
    'test_ops/test_properties.py',
)


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


def measure_roofline(rehearse: bool) -> tuple[float, float, float]:
    """Measure what a copy moves (TB/s) and what a large product reaches (TFLOP/s).

    The third figure, the time of a launch, is assumed.
    """
    import torch
    from measuring import time_run

    device = torch.device('cpu' if rehearse else 'cuda')
    size = 64 if rehearse else 8192
    x = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    out = torch.empty_like(x)
    seconds = []
    for run in (partial(out.copy_, x), partial(torch.mm, x, x, out=out)):
        run()
        seconds.append(time_run(run, device, 20))
    copy, product = seconds
    return 2 * x.nbytes / copy / 1e12, 2 * size**3 / product / 1e12, LAUNCH


def setting(rehearse: bool) -> str:
    import torch
    from measuring import processor

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


def run_part(part: str, args: argparse.Namespace) -> None:
    report = Report(args.out)
    if part == 'tests':
        run_tests(report, args.rehearse)
        return
    import gpu_timing

    if part == 'attention':
        gpu_timing.time_attention(report, args.rehearse)
    elif part == 'estimates':
        gpu_timing.estimate_backbones(report, gpu_timing.Roofline(*args.roofline), args.rehearse)
    else:
        made = args.estimates
        estimates = json.loads(made.read_text()) if made and made.exists() else {}
        gpu_timing.time_backbones(report, estimates, args.rehearse, part == 'compiled')


TITLES = {
    'tests': 'Tests',
    'attention': 'Attention inside clusters: bfloat16',
    'estimates': 'Estimates: bytes and kernels, counted on fake tensors',
    'backbones': 'Backbones: bfloat16 by autocast, eager',
    'compiled': 'Backbones: bfloat16 by autocast, compiled (the estimate is of eager mode)',
}


def start_part(
    part: str, outs: dict[str, Path], roofline: tuple[float, ...], rehearse: bool
) -> tuple[subprocess.Popen, float]:
    """Start a part in a process of its own: it may fail or be late without the others.

    Returns:
        The process, and the end of its time.
    """
    command = [sys.executable, __file__, '--in-process', '--parts', part, '--out', str(outs[part])]
    command += ['--roofline', *map(str, roofline)]
    environment = dict(os.environ)
    if part == 'estimates':
        # Other parts are timed meanwhile.
        command = ['nice', *command]
        environment['OMP_NUM_THREADS'] = '1'
    elif 'estimates' in outs:
        command += ['--estimates', str(outs['estimates'].with_suffix('.json'))]
    command += ['--rehearse'] if rehearse else []
    return subprocess.Popen(command, env=environment), time.monotonic() + limit(part, rehearse)


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
    parser.add_argument('--roofline', nargs=3, type=float, help=argparse.SUPPRESS)
    parser.add_argument('--estimates', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.in_process:
        run_part(args.parts[0], args)
        return
    import torch
    from measuring import check_out

    check_out(args.out)
    if not (args.rehearse or torch.cuda.is_available()):
        sys.exit('torch sees no GPU here; --rehearse goes through every step on the CPU')
    roofline = measure_roofline(args.rehearse)
    bandwidth, arithmetic, launch = roofline
    lines = ['# On a GPU', '', setting(args.rehearse), '']
    lines += [
        f'A copy moves {bandwidth:.2f} TB/s, and a large product reaches {arithmetic:.0f} TFLOP/s: '
        f'the estimates are a roofline of these, and of {launch:g} µs a kernel.',
        '',
    ]
    data: dict[str, Any] = {'roofline': roofline}
    outs = {part: args.out.with_name(f'{args.out.stem}.{part}.md') for part in args.parts}
    early = {'estimates'} & outs.keys()
    running = {part: start_part(part, outs, roofline, args.rehearse) for part in early}
    for part, out in outs.items():
        started = running.get(part) or start_part(part, outs, roofline, args.rehearse)
        process, deadline = started
        try:
            code = process.wait(max(0, deadline - time.monotonic()))
            ending = [f'Ended with exit code {code}.', ''] if code else []
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
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
