"""Evaluate a checkpoint, or an exported file, of a detector, segmenter or classifier."""

import argparse

from mmsecvit.apis import add_config_options, add_trust_option, command, test


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file, or exported .onnx file')
    parser.add_argument('--work-dir', help='where the log and the metrics go')
    parser.add_argument('--out', metavar='FILE.pkl', help='new pickle file for the predictions')
    parser.add_argument('--show', action='store_true', help='show predictions in windows')
    parser.add_argument('--show-dir', help='folder for pictures of the predictions')
    parser.add_argument(
        '--wait-time', type=float, default=2.0, help='seconds that a window stays (default: 2)'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test with augmentation, as the config or the toolbox has it',
    )
    add_config_options(parser, example='test_dataloader.num_workers=4')
    add_trust_option(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    return parser.parse_args()


@command
def main() -> None:
    args = vars(parse_args())
    test(**args)


if __name__ == '__main__':
    main()
