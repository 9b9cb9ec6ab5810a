"""Compile the attention's kernels for GPUs that need not be there, and list what they use."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import __file__ as nvidia
from triton.compiler import ASTSource

KERNELS = ('_forward', '_backward_q', '_backward_kv')
DTYPES = {'fp16': 2, 'bf16': 2, 'fp32': 4}
CAPABILITIES = (80, 86, 89, 90, 100, 120)
# Of the largest cluster: as many tokens as fill every block.
CLUSTER_SIZE = 10_000


def compile_kernel(name: str, dtype: str, dims: int, capability: int) -> dict[str, int | str]:
    """Registers and bytes of stack of a thread, bytes of shared memory, matrix instructions."""
    from mmsecvit.ops.backends import triton_kernels

    kernel = getattr(triton_kernels, name)
    tiling = triton_kernels.choose_tiling(name, CLUSTER_SIZE, dims, DTYPES[dtype])
    options = {key: tiling.pop(key) for key in ('num_warps', 'num_stages')}
    types = dict(order='*i64', log_sum='*fp32', delta='*fp32', scale='fp32', sizes=('i32',) * 4)
    signature, constants = {}, {}
    for i, argument in enumerate(kernel.arg_names):
        if argument.isupper():
            signature[argument] = 'constexpr'
            constants[(i,)] = dims if argument == 'DIMS' else tiling[argument]
        elif argument.endswith('_strides'):
            signature[argument] = ('i32',) * 3
        else:
            signature[argument] = types.get(argument, f'*{dtype}')
    aligned = {
        (i,): [['tt.divisibility', 16]]
        for i, argument in enumerate(kernel.arg_names)
        if str(signature[argument]).startswith('*')
    }
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget('cuda', capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix='.cubin') as file:
        file.write(compiled.asm['cubin'])
        file.flush()
        dump = [str(Path(nvidia).parent / 'bin' / 'cuobjdump'), '--dump-resource-usage', file.name]
        usage = subprocess.run(dump, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r'REG:(\d+) STACK:(\d+)', usage).groups()
    instructions = re.findall(r'\b(wgmma|tcgen05|mma)\b', compiled.asm['ptx'])
    return dict(
        registers=int(registers),
        stack=int(stack),
        shared=compiled.metadata.shared,
        matrix=instructions[0] if instructions else 'none',
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--dtypes', nargs='+', default=list(DTYPES), choices=DTYPES)
    parser.add_argument('--dims', nargs='+', type=int, default=[16, 32, 64, 128])
    parser.add_argument('--capabilities', nargs='+', type=int, default=CAPABILITIES)
    args = parser.parse_args()
    if os.environ.get('TRITON_INTERPRET') == '1':
        sys.exit('TRITON_INTERPRET=1 interprets kernels instead of compiling them: unset it')
    print('| kernel | dtype | d | capability | registers | stack | shared memory | matrix units |')
    print('|---|---|---|---|---|---|---|---|')
    for name in KERNELS:
        for dtype in args.dtypes:
            for dims in args.dims:
                for capability in args.capabilities:
                    used = compile_kernel(name, dtype, dims, capability)
                    row = (name, dtype, dims, capability, *used.values())
                    print('|', ' | '.join(map(str, row)), '|', flush=True)


if __name__ == '__main__':
    main()
