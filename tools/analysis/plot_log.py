"""Draw the losses and validation metrics of a training run, resumed or not, into one picture."""

import argparse

from mmsecvit.apis import command
from mmsecvit.visualization import plot_log


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', help='work directory of the training run')
    parser.add_argument(
        '--out',
        metavar='FILE.png',
        help='new PNG file (default: WORK_DIR/curves.png, which is replaced if it exists)',
    )
    args = parser.parse_args()
    print(plot_log(args.work_dir, args.out))


if __name__ == '__main__':
    main()
