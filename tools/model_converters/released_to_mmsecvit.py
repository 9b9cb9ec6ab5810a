"""Convert a checkpoint that SecViT's authors released to this package's names."""

import argparse
import sys

from mmsecvit.apis import add_trust_option, convert_released


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help="the authors' checkpoint")
    parser.add_argument('dst', help='new file to write')
    add_trust_option(parser)
    args = parser.parse_args()
    try:
        meta = convert_released(**vars(args))
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        sys.exit(str(error))
    print(f'{args.dst}: SecViT(arch={meta["arch"]!r}, variant={meta["variant"]!r})')


if __name__ == '__main__':
    main()
