"""Export a model, or its backbone, to ONNX or torch.export."""

import argparse
from pathlib import Path

from mmsecvit.apis import add_config_options, add_trust_option, command, export
from mmsecvit.apis.deployment import compare, copy_runner
from mmsecvit.apis.exported_files import SUFFIXES


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--format', choices=list(SUFFIXES), default='onnx')
    parser.add_argument(
        '--part',
        choices=['model', 'backbone'],
        default='model',
        help='what to export: from images to predictions, or to maps (default: model)',
    )
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        '--dynamic',
        action='store_true',
        help='take images of any multiples of 32, and any batch (a detector: one image)',
    )
    sizes.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('HEIGHT', 'WIDTH'),
        help='of the images, unless dynamic (default: at which the config tests)',
    )
    parser.add_argument('--scores', action='store_true', help="also a segmenter's logits")
    parser.add_argument('--out', type=Path, help='new file (default: CONFIG.onnx or .pt2, here)')
    add_config_options(parser, example='model.test_cfg.rcnn.score_thr=0.3')
    add_trust_option(parser)
    args = vars(parser.parse_args())
    args['out'] = args['out'] or Path(args['config'].stem + SUFFIXES[args['format']])
    exported = export(**args)
    print(f'{exported.path}: {exported.path.stat().st_size:,} bytes')
    runner = copy_runner(exported)
    if runner:
        print(runner)
    size = exported.metadata['size']
    for height, width in [size] if size else [(224, 224), (256, 320), (480, 640)]:
        print(f'Comparing the file with PyTorch at {height}x{width}.', flush=True)
        print(compare(exported, (1, 3, height, width)))


if __name__ == '__main__':
    main()
