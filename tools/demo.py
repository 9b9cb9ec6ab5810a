"""Predict with a detector, segmenter or classifier, and write pictures and JSON files."""

import argparse
import sys

from mmsecvit.apis import add_trust_option, infer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('images', nargs='+', help='image files, folders or quoted glob patterns')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out-dir', default='outputs', help='new or empty folder (default: outputs)'
    )
    add_trust_option(parser)
    args = parser.parse_args()
    try:
        unreadable = infer(**vars(args))
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        sys.exit(str(error))
    print(f'\nPictures are in {args.out_dir}/vis, predictions in {args.out_dir}/preds.')
    if unreadable:
        sys.exit(f'Skipped what is no image: {", ".join(map(str, unreadable))}')


if __name__ == '__main__':
    main()
