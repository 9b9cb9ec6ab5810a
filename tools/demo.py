"""Predict with a detector, segmenter or classifier, and write pictures and JSON files."""

import argparse
import sys

from mmsecvit.apis import add_trust_option, command, infer


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'images', nargs='+', help='image files, folders or quoted glob patterns (** for any depth)'
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--out-dir', default='outputs', help='new or empty folder (default: outputs)'
    )
    add_trust_option(parser)
    args = parser.parse_args()
    unreadable = infer(**vars(args))
    print(f'\nPictures are in {args.out_dir}/vis, predictions in {args.out_dir}/preds.')
    if unreadable:
        faults = '\n'.join(f'{path}: {fault}' for path, fault in unreadable.items())
        sys.exit(f'Skipped what cannot be read or predicted for:\n{faults}')


if __name__ == '__main__':
    main()
