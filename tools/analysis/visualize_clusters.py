"""Draw an image and the clusters of its tokens in each stage, next to each other in one picture."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from mmsecvit.apis import add_trust_option, command, visualize_clusters


def _number_or(*words: str) -> Callable[[str], str | int]:
    def parse(text: str) -> str | int:
        return text if text in words else int(text)

    parse.__name__ = ' or '.join((*words, 'number'))  # in argparse's errors
    return parse


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('image', type=Path, help='image file')
    parser.add_argument(
        'config', nargs='?', help='config with a SecViT backbone (default: SecViT-T)'
    )
    parser.add_argument('checkpoint', nargs='?', help='weights (default: random ones)')
    parser.add_argument(
        '--stages', nargs='+', type=int, default=[1, 2, 3], help='counted from 1 (default: 1 2 3)'
    )
    parser.add_argument(
        '--blocks',
        type=_number_or('last'),
        default='last',
        metavar='last|N',
        help='the block to draw in each stage, counted from 0 (default: last)',
    )
    parser.add_argument(
        '--heads',
        type=_number_or('mean', 'all'),
        default='mean',
        metavar='mean|all|N',
        help='order tokens by their mean rank over the heads, draw each head, or draw one head '
        '(default: mean)',
    )
    parser.add_argument('--out', help='new PNG file (default: IMAGE_clusters.png, here)')
    add_trust_option(parser)
    args = parser.parse_args()
    out = args.out or f'{args.image.stem}_clusters.png'
    block = -1 if args.blocks == 'last' else args.blocks
    if args.checkpoint is None:
        print('No checkpoint given: these are the clusters of random weights.', file=sys.stderr)
    made = visualize_clusters(
        args.image,
        out,
        args.config,
        args.checkpoint,
        args.stages,
        block,
        args.heads,
        args.trust,
    )
    print(made)


if __name__ == '__main__':
    main()
