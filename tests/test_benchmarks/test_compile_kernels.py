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


@pytest.mark.slow
@pytest.mark.skipif(not AVAILABLE, reason='needs the package triton')
@pytest.mark.parametrize(
    ('dtype', 'capabilities'), [('bf16', (80, 86, 89, 90, 100, 120)), ('fp32', (80, 90, 120))]
)
def test_kernels_fit_every_architecture_and_use_its_matrix_units(dtype, capabilities):
    # The tests' interpreter compiles nothing.
    environment = {k: v for k, v in os.environ.items() if k != 'TRITON_INTERPRET'}
    command = [sys.executable, str(SCRIPT), '--dtypes', dtype, '--dims', '32', '--capabilities']
    done = subprocess.run(
        [*command, *map(str, capabilities)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    rows = [line.strip('| ').split(' | ') for line in done.stdout.splitlines()[2:]]
    assert len(rows) == 3 * len(capabilities)
    units = {90: 'wgmma', 100: 'tcgen05'} if dtype == 'bf16' else {}
    for row in rows:
        stack, shared, matrix = int(row[5]), int(row[6]), row[7]
        assert shared <= SHARED_MEMORY, row
        if dtype == 'bf16':
            assert stack <= 64, row
            assert matrix == units.get(int(row[3]), 'mma'), row
        else:
            assert matrix != 'none', row
