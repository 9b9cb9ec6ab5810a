"""Draw the losses and validation metrics of a training run, resumed or not, into one picture."""

import argparse
import sys
from pathlib import Path

from mmsecvit.visualization import plot_log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('work_dir', type=Path, help='work directory of the training run')
    parser.add_argument('--out', help='PNG file to write (default: WORK_DIR/curves.png)')
    args = parser.parse_args()
    try:
        print(plot_log(args.work_dir, args.out or args.work_dir / 'curves.png'))
    except FileNotFoundError as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
