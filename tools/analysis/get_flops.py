"""Count parameters and FLOPs (multiply-adds) of a config's model, part by part."""

import argparse

from mmsecvit.analysis import complexity_table, count_complexity
from mmsecvit.apis import add_config_options, command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--shape',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help="height and width of the image (default: the paper's, 800 1280 for detectors, "
        '512 2048 for segmenters, 224 224 for classifiers)',
    )
    add_config_options(parser, example='model.backbone.arch=small')
    args = parser.parse_args()
    print(complexity_table(count_complexity(args.config, args.shape, args.cfg_options)))


if __name__ == '__main__':
    main()
