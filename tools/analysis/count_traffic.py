"""Count the bytes that networks move on a GPU, their kernels and their memory, without a GPU."""

import argparse
from pathlib import Path

import torch

from mmsecvit.analysis import (
    Roofline,
    build_network,
    count_memory,
    count_traffic,
    memory_table,
    traffic_by,
    traffic_table,
)
from mmsecvit.apis import add_config_options, command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='config files; backbones and necks are counted')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=4,
        default=(64, 3, 224, 224),
        metavar=('B', 'C', 'H', 'W'),
        help='images (default: 64 3 224 224)',
    )
    parser.add_argument(
        '--dtype', default='bfloat16', choices=['float32', 'bfloat16', 'float16'], help='precision'
    )
    parser.add_argument(
        '--autocast', action='store_true', help='keep parameters and images in float32'
    )
    parser.add_argument(
        '--step', action='store_true', help='forward and backward pass instead of the forward pass'
    )
    # Of an NVIDIA H100: what a copy moves, what large products reach, and a short kernel.
    parser.add_argument('--bandwidth', type=float, default=3.0, help='of the estimate, TB/s')
    parser.add_argument('--arithmetic', type=float, default=600.0, help='of the estimate, TFLOP/s')
    parser.add_argument('--launch', type=float, default=2.0, help='of the estimate, µs a kernel')
    add_config_options(parser, example='model.backbone.attention_backend=sdpa')
    args = parser.parse_args()
    roofline = Roofline(args.bandwidth, args.arithmetic, args.launch)
    networks, memory = {}, {}
    run = args.shape, getattr(torch, args.dtype), args.autocast, args.step
    for config in args.configs:
        network = build_network(config, args.cfg_options)
        networks[Path(config).stem] = count_traffic(network, *run)
        memory[Path(config).stem] = count_memory(network, *run)
    mode = 'forward and backward pass' if args.step else 'forward pass'
    precision = f'{args.dtype} by autocast' if args.autocast else args.dtype
    print(f'{mode}, {"x".join(map(str, args.shape))}, {precision}, counted on fake tensors\n')
    print(traffic_table(networks, roofline))
    print(
        f'\nThe estimate is a roofline of {args.bandwidth:g} TB/s, {args.arithmetic:g} TFLOP/s and '
        f'{args.launch:g} µs a kernel, not a measurement. GB and kernels by part and by kind:\n'
    )
    print(traffic_by('part', networks), traffic_by('kind', networks), sep='\n\n')
    print(
        '\nGiB (2^30 bytes) alive at the peak, without an optimizer and what the allocator adds:\n'
    )
    print(memory_table(memory))


if __name__ == '__main__':
    main()
