"""Compare SecViT with a plain transcription of the released network and with other backbones."""

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from measuring import add_arguments, check_out, draw_bars, draw_growth, measure, setting, table
from released_network import ReleasedSecViT
from torch import Tensor, nn

from mmsecvit import SECSwin, SecViT
from mmsecvit.backbones.secvit import ARCHITECTURES

GROWTH = (224, 448, 672, 896, 1344, 1792)


def transcription_small(size: tuple[int, int]) -> nn.Module:
    return ReleasedSecViT(**ARCHITECTURES['small'])


def secvit_small(
    size: tuple[int, int], backend: str = 'auto', cluster_size: int | None = None
) -> nn.Module:
    return SecViT('small', 'released', attention_backend=backend, cluster_size=cluster_size)


def sec_swin_tiny(size: tuple[int, int], backend: str = 'auto') -> nn.Module:
    return SECSwin('tiny', attention_backend=backend)


def swin_tiny_mmpretrain(size: tuple[int, int]) -> nn.Module:
    from mmpretrain.models import SwinTransformer

    return SwinTransformer('tiny', img_size=size, out_indices=(0, 1, 2, 3), pad_small_map=True)


def swin_tiny_timm(size: tuple[int, int]) -> nn.Module:
    import timm

    return timm.create_model('swin_tiny_patch4_window7_224', features_only=True, img_size=size)


def convnext_tiny_timm(size: tuple[int, int]) -> nn.Module:
    import timm

    return timm.create_model('convnext_tiny', features_only=True)


def convnext_tiny_mmpretrain(size: tuple[int, int]) -> nn.Module:
    from mmpretrain.models import ConvNeXt

    return ConvNeXt('tiny', out_indices=(0, 1, 2, 3), gap_before_final_norm=False)


def fastervit_1(size: tuple[int, int]) -> nn.Module:
    from fastervit import create_model

    return create_model('faster_vit_1_any_res', resolution=list(size))


# The first is what all others are compared with.
NETWORKS = {
    'transcription': transcription_small,
    'SecViT-S': secvit_small,
    'SecViT-S, clusters of 98': partial(secvit_small, cluster_size=98),
    'SEC-Swin-T': sec_swin_tiny,
    'Swin-T (mmpretrain)': swin_tiny_mmpretrain,
    'Swin-T (timm)': swin_tiny_timm,
    'ConvNeXt-T': convnext_tiny_mmpretrain,
    'FasterViT-1': fastervit_1,
}


def build(
    network: Callable[[tuple[int, int]], nn.Module],
    shape: tuple[int, int, int],
    training: bool,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool | str,
) -> Callable[[], object]:
    torch.manual_seed(0)
    batch, height, width = shape
    model = network((height, width)).to(device)
    model.train(training)  # not in a row: mmpretrain's networks do not return themselves here
    precision = nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)
    images = torch.randn(batch, 3, height, width, device=device)
    run = model
    if compiled:
        run = torch.compile(model, backend='inductor' if compiled is True else compiled)
    return partial(step if training else forward, run, images, precision)


@torch.no_grad()
def forward(model: nn.Module, images: Tensor, precision: AbstractContextManager) -> object:
    with precision:
        return model(images)


def step(model: nn.Module, images: Tensor, precision: AbstractContextManager) -> None:
    with precision:
        outs = model(images)
        outs = [outs] if isinstance(outs, Tensor) else outs
        loss = sum(out.float().square().mean() for out in outs)
    # A training step also has to find room for the gradients.
    model.zero_grad()
    loss.backward()


def installed(network: str) -> bool:
    """Return whether a network can be built here; print the reason if it cannot."""
    try:
        NETWORKS[network]((224, 224))
    except ImportError as error:
        print(f'{network} is left out: {error}')
        return False
    return True


def parse_shape(text: str) -> tuple[int, int, int]:
    batch, height, width = map(int, text.split('x'))
    return batch, height, width


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, 'work_dirs/backbone.png')
    parser.add_argument(
        '--shapes',
        nargs='+',
        type=parse_shape,
        default=[(8, 224, 224), (1, 800, 1344)],
        metavar='BxHxW',
        help='batches and image sizes, multiples of 32 (default: 8x224x224 1x800x1344)',
    )
    parser.add_argument('--networks', nargs='+', default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument('--mode', default='forward', choices=['forward', 'step'])
    parser.add_argument(
        '--growth', action='store_true', help='square images from 224 to 1792 instead of --shapes'
    )
    args = parser.parse_args()
    check_out(args.out)
    dtype = getattr(torch, args.dtype)
    networks = [name for name in args.networks if installed(name)]
    shapes = [(1, side, side) for side in GROWTH] if args.growth else args.shapes
    costs = {}
    for shape in shapes:
        builds = {
            name: partial(
                build, NETWORKS[name], shape, args.mode == 'step', args.device, dtype, args.compile
            )
            for name in networks
        }
        costs['x'.join(map(str, shape))] = measure(builds, args.device, args.rounds)
    title = f'{args.mode}, {setting(args)}'
    print(title, table(costs), sep='\n\n')
    if args.growth:
        draw_growth(costs, [b * h * w for b, h, w in shapes], title, args.out)
    else:
        draw_bars(costs, title, args.out)
    print(f'\n{args.out}')


if __name__ == '__main__':
    main()
