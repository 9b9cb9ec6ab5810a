"""Convert a checkpoint that SecViT's authors released to this package's names."""

import argparse

from mmsecvit.apis import add_trust_option, command, convert_released


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('src', help="the authors' checkpoint")
    parser.add_argument('dst', help='new file to write')
    add_trust_option(parser)
    args = parser.parse_args()
    meta = convert_released(**vars(args))
    print(f'{args.dst}: SecViT(arch={meta["arch"]!r}, variant={meta["variant"]!r})')


if __name__ == '__main__':
    main()
