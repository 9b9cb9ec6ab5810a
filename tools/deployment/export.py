"""Export a backbone, or a backbone with its classifier, to ONNX or torch.export."""

import argparse
from pathlib import Path

from mmsecvit.apis import add_trust_option, command, export
from mmsecvit.apis.deployment import SUFFIXES, compare


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file; a classifier is exported whole')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=list(SUFFIXES), default='onnx')
    parser.add_argument(
        '--dynamic',
        action='store_true',
        help='take any batch, and images of any multiples of 32',
    )
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        default=[224, 224],
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images, unless dynamic (default: 224 224)',
    )
    parser.add_argument('--out', type=Path, help='new file (default: CONFIG.onnx or .pt2, here)')
    add_trust_option(parser)
    args = parser.parse_args()
    out = args.out or Path(args.config.stem + SUFFIXES[args.format])
    size = tuple(args.size)
    run = export(args.config, args.checkpoint, out, args.format, args.dynamic, size, args.trust)
    print(f'{out}: {out.stat().st_size:,} bytes')
    sizes = [(224, 224), (256, 320), (480, 640)] if args.dynamic else [size]
    for height, width in sizes:
        found = compare(run.network, run, (1, 3, height, width))
        print(
            f'{height}x{width}: differs by {found.difference:.1e} at most, by more than 1e-4 in '
            f'{found.share:.1%} of the values; takes '
            f'{1000 * found.exported_seconds:.0f} ms (PyTorch: {1000 * found.torch_seconds:.0f} ms)'
        )


if __name__ == '__main__':
    main()
