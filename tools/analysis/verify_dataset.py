"""Count and name the images and segmentation maps of a config that cannot be read."""

import argparse
import sys

from mmsecvit.apis import add_config_options, command, verify_images


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='The exit status is 1 if there is any such file.'
    )
    parser.add_argument('config', help='config file')
    add_config_options(parser, example='train_dataloader.dataset.data_root=data/mine')
    args = parser.parse_args()
    num_files, damaged = verify_images(args.config, args.cfg_options)
    for path, fault in damaged.items():
        print(f'{fault:8}  {path}')
    print(f'{len(damaged)} of {num_files} files cannot be read')
    sys.exit(bool(damaged))


if __name__ == '__main__':
    main()
