"""Kernels compile for GPUs that are not here; Triton's wheel brings the assembler."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmsecvit.ops.backends.triton import AVAILABLE

SCRIPT = Path(__file__).parents[2] / 'benchmarks' / 'compile_kernels.py'
# Bytes of shared memory that one block may have: 86, 89 and 120 have the least.
SHARED_MEMORY = 99 * 1024


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not AVAILABLE, reason='needs the package triton'),
]


def compile_kernels(kernels, dtype, dims, capabilities):
    """Return a row for each kernel, width of the heads and capability."""
    # The tests' interpreter compiles nothing.
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    command = [sys.executable, str(SCRIPT), '--kernels', *kernels, '--dtypes', dtype]
    command += ['--dims', *map(str, dims), '--capabilities', *map(str, capabilities)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines()[2:]]
    assert len(rows) == len(kernels) * len(dims) * len(capabilities)
    return rows


# 86 and 89 compile alike.
@pytest.mark.parametrize(
    ('dtype', 'dims', 'capabilities'),
    [
        ('bf16', (32,), (80, 86, 90, 100, 120)),
        ('bf16', (64, 128), (80,)),
        ('bf16', (64,), (90,)),
        ('fp32', (32,), (90,)),
        ('fp32', (32, 64), (80, 120)),
    ],
)
def test_kernels_fit_every_architecture_and_use_its_matrix_units(dtype, dims, capabilities):
    units = {90: 'wgmma', 100: 'tcgen05'}
    kernels = ('_forward', '_backward_q', '_backward_kv')
    # Of the tilings that have run on an H100, those of float32 spill most (docs/gpu_kernels.md).
    most = 136 if (dtype, capabilities) == ('fp32', (90,)) else 64
    for row in compile_kernels(kernels, dtype, dims, capabilities):
        stack, shared, matrix = int(row[5]), int(row[6]), row[7]
        assert shared <= SHARED_MEMORY, row
        assert stack <= most, row
        assert matrix == units.get(int(row[3]), 'mma'), row


def test_fused_kernels_fit_and_do_not_spill():
    kernels = ('_similarity', '_rotate', '_convolve 5', '_weight_gradients 5')
    for row in compile_kernels(kernels, 'bf16', (32,), (86, 100)):
        assert int(row[5]) <= 64, row
        assert int(row[6]) <= SHARED_MEMORY, row
