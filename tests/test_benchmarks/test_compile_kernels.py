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


def compile_kernels(kernels, dtype, capabilities):
    """Return a row for each kernel and capability, with heads of 32 channels."""
    # The tests' interpreter compiles nothing.
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    command = [sys.executable, str(SCRIPT), '--kernels', *kernels, '--dtypes', dtype]
    command += ['--dims', '32', '--capabilities', *map(str, capabilities)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines()[2:]]
    assert len(rows) == len(kernels) * len(capabilities)
    return rows


@pytest.mark.parametrize(
    ('dtype', 'capabilities'), [('bf16', (80, 86, 89, 90, 100, 120)), ('fp32', (80, 90, 120))]
)
def test_kernels_fit_every_architecture_and_use_its_matrix_units(dtype, capabilities):
    units = {90: 'wgmma', 100: 'tcgen05'} if dtype == 'bf16' else {}
    for row in compile_kernels(('_forward', '_backward_q', '_backward_kv'), dtype, capabilities):
        stack, shared, matrix = int(row[5]), int(row[6]), row[7]
        assert shared <= SHARED_MEMORY, row
        if dtype == 'bf16':
            assert stack <= 64, row
            assert matrix == units.get(int(row[3]), 'mma'), row
        else:
            assert matrix != 'none', row


def test_fused_kernels_fit_and_do_not_spill():
    kernels = ('_similarity', '_rotate', '_convolve 5', '_weight_gradients 5')
    for row in compile_kernels(kernels, 'bf16', (86, 100)):
        # The goal is 64; the 5x5 convolution spills 96 bytes on 100.
        assert int(row[5]) <= 96, row
        assert int(row[6]) <= SHARED_MEMORY, row
