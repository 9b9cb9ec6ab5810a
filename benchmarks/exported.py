"""Compare an exported model in ONNX Runtime with the same network in PyTorch, on one image."""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import onnxruntime
import torch
from measuring import measure, processor, table
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor

from mmsecvit.apis.config import load_config
from mmsecvit.apis.deployment import load_network, network_inputs
from mmsecvit.apis.exported_files import ExportedFile
from mmsecvit.apis.exported_metadata import default_size
from mmsecvit.apis.exported_models import ExportedModel, whole_model


def build_pytorch(config: Path, checkpoint: str | None, inputs: Sequence[Tensor]) -> Callable:
    cfg = load_config(config)
    network = load_network(cfg, config, checkpoint)[0] if checkpoint else random_network(cfg)
    return partial(forward, network, *inputs)


@torch.no_grad()
def forward(network: ExportedModel, *inputs: Tensor) -> tuple[Tensor, ...]:
    return network(*inputs)


def build_onnxruntime(file: Path, inputs: Sequence[Tensor]) -> Callable:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(file, options, providers=['CPUExecutionProvider'])
    feed = {x.name: value.numpy() for x, value in zip(session.get_inputs(), inputs, strict=True)}
    return partial(session.run, None, feed)


def random_network(cfg) -> ExportedModel:
    torch.manual_seed(0)
    scope = cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope):
        model = MODELS.build(cfg.model)
        model.init_weights()
        return revert_sync_batchnorm(whole_model(model, scope)).eval()


def random_image(size: tuple[int, int]) -> Tensor:
    return 255 * torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('file', type=Path, help='ONNX file of its whole model')
    parser.add_argument(
        '--checkpoint', help="weights of PyTorch's side, those in the file (default: random ones)"
    )
    parser.add_argument('--rounds', type=int, default=5, help='timed runs of each side')
    args = parser.parse_args()
    metadata = ExportedFile(args.file).metadata
    size = metadata['size'] or default_size(load_config(args.config))
    inputs = network_inputs(metadata, random_image(size))
    sides = {
        'PyTorch': partial(build_pytorch, args.config, args.checkpoint, inputs),
        'ONNX Runtime': partial(build_onnxruntime, args.file, inputs),
    }
    versions = f'torch {torch.__version__}, onnxruntime {onnxruntime.__version__}'
    print(f'float32; {processor()}, {torch.get_num_threads()} threads; {versions}\n')
    case = f'{args.config.stem}, {size[0]}x{size[1]}'
    print(table({case: measure(sides, torch.device('cpu'), args.rounds)}))
    print(f'\n{args.file}: {args.file.stat().st_size / 2**20:.0f} MiB')
    for name, build in sides.items():  # the work of a detector depends on what it finds
        print(f'Outputs of {name}: {", ".join(str(tuple(y.shape)) for y in build()())}')


if __name__ == '__main__':
    main()
