"""Train a detector, segmenter or classifier from a config file."""

import argparse

from mmsecvit.apis import add_config_options, add_trust_option, command, train


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for logs and checkpoints')
    parser.add_argument(
        '--pretrained', metavar='PATH', help='checkpoint with weights for the backbone'
    )
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or from the latest one in the work directory',
    )
    parser.add_argument(
        '--tensorboard',
        action='store_true',
        help='log for TensorBoard, too, into the work directory',
    )
    add_config_options(parser, example='train_dataloader.batch_size=4')
    add_trust_option(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    return parser.parse_args()


@command
def main() -> None:
    args = vars(parse_args())
    train(**args)


if __name__ == '__main__':
    main()
