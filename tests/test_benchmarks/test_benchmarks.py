"""The benchmarks: that they compare like with like, and add up what they measure."""

import importlib
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from mmsecvit import SecViT
from mmsecvit.checkpoints import from_released

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
FAILURE = 'this failure is a part of the rehearsal'


@pytest.fixture
def load(monkeypatch):
    """Imports one of the scripts' modules by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def is_of_the_head(name):
    return name.startswith(('proj.', 'norm.', 'head.'))


@pytest.mark.parametrize('case', range(2))
def test_the_transcription_is_the_released_network(golden, load, case):
    config, case = golden['config'], golden['cases'][case]
    network = (
        load('released_network')
        .ReleasedSecViT(
            config['embed_dims'],
            config['depths'],
            config['num_heads'],
            config['num_clusters'],
            layer_scale=config['layerscales'],
        )
        .eval()
    )
    weights = {k: v for k, v in golden['state_dict'].items() if not is_of_the_head(k)}
    network.load_state_dict(weights)
    with torch.no_grad():
        outs = network(case['input'])
    for out, expected in zip(outs, case['stages'], strict=True):
        assert (out - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_the_transcription_and_the_backbone_are_one_network(load):
    arch = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4))
    transcription = load('released_network').ReleasedSecViT(**arch).double().eval()
    backbone = SecViT(arch, 'released').double().eval()
    weights = from_released(transcription.state_dict())
    backbone.load_state_dict({k.removeprefix('backbone.'): v for k, v in weights.items()})
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    for out, expected in zip(backbone(images), transcription(images), strict=True):
        torch.testing.assert_close(out, expected)


def test_peak_memory_is_what_a_run_allocates(load):
    build = partial(partial, torch.ones, 2**26)
    memory = load('measuring').peak_memory(build, torch.device('cpu'))
    assert memory == pytest.approx(2**28, rel=0.05)


def test_ratios_are_over_the_first_side_of_each_case(load):
    measuring = load('measuring')
    cost = measuring.Cost
    costs = {
        '1x32x32': {'slow': cost(0.2, 30 * 2**20), 'fast': cost(0.05, 6 * 2**20)},
        '1x64x64': {'slow': cost(0.8, 60 * 2**20), 'fast': cost(0.6, 90 * 2**20)},
    }
    rows = measuring.table(costs).splitlines()[2:]
    assert rows == [
        '| 1x32x32 | slow | 200.00 | 1.00 | 30 | 1.00 |',
        '| 1x32x32 | fast | 50.00 | 0.25 | 6 | 0.20 |',
        '| 1x64x64 | slow | 800.00 | 1.00 | 60 | 1.00 |',
        '| 1x64x64 | fast | 600.00 | 0.75 | 90 | 1.50 |',
    ]


def test_exponents_of_growth(load):
    measuring = load('measuring')
    pixels = [10, 100, 1000]
    costs = {str(n): {'ours': measuring.Cost(2 * n**1.5, 5 * n**2)} for n in pixels}
    assert measuring.exponents(costs, pixels, 'seconds')['ours'] == pytest.approx(1.5)
    assert measuring.exponents(costs, pixels, 'memory')['ours'] == pytest.approx(2)


def test_a_picture_is_not_overwritten(load, tmp_path):
    out = tmp_path / 'here.png'
    out.write_bytes(b'mine')
    with pytest.raises(SystemExit, match='here.png exists: name another file with --out'):
        load('measuring').check_out(out)


@pytest.mark.slow
def test_the_report_of_a_gpu_is_rehearsed(tmp_path):
    out = tmp_path / 'gpu.md'
    command = [sys.executable, str(BENCHMARKS / 'gpu.py'), '--rehearse', '--out', str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report, data = out.read_text(), json.loads(out.with_suffix('.json').read_text())
    assert 'Ended' not in report, report
    assert [*data] == ['roofline', 'tests', 'attention', 'estimates', 'backbones', 'compiled']
    assert [*data['tests']['summary']] == ['passed']
    sides = {'transcription', 'SecViT-S triton'}
    for part, names, cases in (
        ('attention', {'grouped', 'sdpa'}, ['1x1x4x8x2', '1x1x4x8x2 step']),
        ('backbones', sides, ['2x32x32', '2x32x32 step']),
        ('compiled', {'SecViT-S triton'}, ['2x32x32 compiled']),
    ):
        for case in cases:
            costs = data[part][case]
            # The parts go on after a failure, and say which.
            if part == 'backbones':
                assert costs.pop('one that fails') == 'ValueError: ' + repr(FAILURE)
                assert f'- {case}, one that fails: ValueError' in report
            assert costs.keys() == names
            assert all(cost['seconds'] > 0 for cost in costs.values())
            if part == 'attention':
                continue
            estimates = data['estimates'][case.removesuffix(' compiled')]
            assert estimates.keys() == sides
            for name, cost in costs.items():
                times = f'{cost["seconds"] * 1e3:.2f} | {estimates[name]:.2f}'
                assert f'| {case} | {name} | {times} |' in report
