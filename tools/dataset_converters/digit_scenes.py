"""Write scenes of handwritten digits with boxes and masks, in COCO's format, for the demo."""

import argparse
import sys

from mmsecvit.datasets import make_digit_scenes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', nargs='?', default='data/digit_scenes', help='folder to write to')
    parser.add_argument('--num-train', type=int, default=2000, help='scenes for training')
    parser.add_argument('--num-val', type=int, default=100, help='scenes for validation')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    try:
        make_digit_scenes(args.out, args.num_train, args.num_val, args.seed)
    except (ValueError, FileExistsError) as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
