"""Compile all kernels for GPUs that need not be there, and list registers, stack and memory."""

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

ATTENTION_KERNELS = ('_forward', '_backward_q', '_backward_kv')
# With the size of the kernel where there are two. Only those of the attention multiply matrices.
KERNELS = (
    *ATTENTION_KERNELS,
    '_similarity',
    '_rotate',
    '_convolve 3',
    '_convolve 5',
    '_weight_gradients 3',
    '_weight_gradients 5',
)
DTYPES = {'fp16': 2, 'bf16': 2, 'fp32': 4}
CAPABILITIES = (80, 86, 89, 90, 100, 120)
# Of the largest cluster: as many tokens as fill every block.
CLUSTER_SIZE = 10_000
# Of a map: as many as fill a block.
MOST_CHANNELS = 10_000
# Pointers to other dtypes than the map's, and numbers that are not integers.
TYPES = dict(
    order='*i64',
    log_sum='*fp32',
    delta='*fp32',
    center='*fp32',
    similarity='*fp32',
    table='*fp32',
    sums='*fp32',
    bias_sums='*fp32',
    scale='fp32',
)
MULTIPLES = {'channels', 'columns', 'x_stride', 'addend_stride', 'out_stride', 'grad_stride'}
POINTERS = {'q', 'k', 'v', 'x', 'out', 'weight', 'bias', 'addend'}


def find_kernel(
    case: str, dtype: str, dims: int, capability: int
) -> tuple[triton.JITFunction, dict[str, int]]:
    """Return the kernel of a case, its constants and options."""
    from mmsecvit.ops import fused_kernels
    from mmsecvit.ops.backends import triton_kernels

    name, _, size = case.partition(' ')
    if name in ATTENTION_KERNELS:
        sizes = CLUSTER_SIZE, dims, DTYPES[dtype]
        tiling = triton_kernels.choose_tiling(name, *sizes, divmod(capability, 10))
        return getattr(triton_kernels, name), dict(tiling, DIMS=dims)
    if name == '_similarity':
        constants = dict(DIMS=dims, PADDED_DIMS=dims, BLOCK=4096 // dims)
        return triton_kernels._similarity, constants
    tiling = fused_kernels.choose_tiling(name, MOST_CHANNELS, divmod(capability, 10))
    block, columns, num_warps = tiling
    constants = dict(BLOCK=block, BLOCK_COLUMNS=columns, BLOCK_CHANNELS=columns, DIMS=dims)
    constants |= dict(BACKWARD=True, RESIDUAL=True, HAS_BIAS=True, HAS_ADDEND=True)
    kernel = getattr(fused_kernels, name)
    constants = {key: value for key, value in constants.items() if key in kernel.arg_names}
    if size:
        constants['KERNEL'] = int(size)
    return kernel, dict(constants, num_warps=num_warps)


def compile_kernel(case: str, dtype: str, dims: int, capability: int) -> dict[str, int | str]:
    """Return registers and stack bytes of a thread, bytes of shared memory, matrix instructions."""
    kernel, constants = find_kernel(case, dtype, dims, capability)
    options = {key: constants.pop(key) for key in ('num_warps', 'num_stages') if key in constants}
    signature = {}
    for argument in kernel.arg_names:
        if argument.isupper():
            signature[argument] = 'constexpr'
        elif argument.endswith('_strides'):
            signature[argument] = ('i32',) * 3
        elif argument == 'sizes':
            signature[argument] = ('i32',) * (3 if case == '_similarity' else 4)
        elif argument.endswith('_stride'):
            signature[argument] = 'i32'
        elif argument in POINTERS or argument.startswith('grad_'):
            signature[argument] = f'*{dtype}'
        else:
            signature[argument] = TYPES.get(argument, 'i32')
    places = {argument: i for i, argument in enumerate(kernel.arg_names)}
    # Channels of a map are multiples of 16 in all backbones, and Triton sees it when it launches.
    aligned = {
        (places[argument],): [['tt.divisibility', 16]]
        for argument, kind in signature.items()
        if str(kind).startswith('*') or argument in MULTIPLES
    }
    constants = {(places[argument],): value for argument, value in constants.items()}
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
    parser.add_argument('--kernels', nargs='+', default=KERNELS, choices=KERNELS)
    parser.add_argument('--dtypes', nargs='+', default=list(DTYPES), choices=DTYPES)
    parser.add_argument('--dims', nargs='+', type=int, default=[16, 32, 64, 128])
    parser.add_argument('--capabilities', nargs='+', type=int, default=CAPABILITIES)
    args = parser.parse_args()
    if os.environ.get('TRITON_INTERPRET') == '1':
        sys.exit('TRITON_INTERPRET=1 interprets kernels instead of compiling them: unset it')
    print('| kernel | dtype | d | capability | registers | stack | shared memory | matrix units |')
    print('|---|---|---|---|---|---|---|---|')
    for case in args.kernels:
        # Heads have no width where a kernel has no heads.
        widths = args.dims if ' ' not in case else args.dims[:1]
        for dtype in args.dtypes:
            for dims in widths:
                for capability in args.capabilities:
                    used = compile_kernel(case, dtype, dims, capability)
                    width = dims if ' ' not in case else '-'
                    row = (case, dtype, width, capability, *used.values())
                    print('|', ' | '.join(map(str, row)), '|', flush=True)


if __name__ == '__main__':
    main()
