"""Export backbones and classifiers: what tools/deployment/export.py does."""

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.model import BaseModule, revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from ..checkpoints import CheckpointReader, check_weights, extract_state_dict
from ..compat import stable_sort_in_onnx
from ..errors import InputError
from ..layers import SECA
from .config import load_config
from .pretrained import find_backbone_config, set_pretrained

SUFFIXES = {'onnx': '.onnx', 'torch_export': '.pt2'}

Run = Callable[[Tensor], Sequence[Tensor]]


class Comparison(NamedTuple):
    """Differences and times of an exported network and the original one, on one random input.

    Attributes:
        shape: Shape of the input, (B, 3, H, W).
        difference: Largest absolute difference of any output.
        share: Fraction of the outputs that differ by more than 1e-4. Where rounding decides which
            cluster a token belongs to, two computations may disagree about its whole cluster.
        torch_seconds: Time of the original network, in seconds: the median of five runs.
        exported_seconds: Time of the exported network, in the same way.
    """

    shape: tuple[int, ...]
    difference: float
    share: float
    torch_seconds: float
    exported_seconds: float


class Exported:
    """An exported file, and the network in it."""

    def __init__(self, network: BaseModule, path: Path) -> None:
        self.network = network
        self._run = load_exported(path)

    def __call__(self, x: Tensor) -> Sequence[Tensor]:
        """Run the file on an input, (B, 3, H, W)."""
        return self._run(x)


def export(
    config: str | Path,
    checkpoint: str,
    out: str | Path,
    format: str = 'onnx',
    dynamic: bool = False,
    size: tuple[int, int] = (224, 224),
    trust: bool = False,
) -> Exported:
    """Write a backbone, or a whole classifier, to a file that runs without this package.

    The input is called ``images``: (B, 3, H, W), float32, normalized as the config's data
    preprocessor does it. The outputs are the ``logits`` of a classifier, (B, classes), or the maps
    of a backbone, ``map0`` and so on.

    Args:
        config: Config file. Of a detector or segmenter, the backbone is exported; a classifier is
            exported whole.
        checkpoint: Weights of the whole model, a file or an http(s) address. For a backbone, any
            file that its ``init_cfg`` takes.
        out: File to write, which must not exist yet: ``.onnx``, or ``.pt2`` for ``torch_export``.
        format: ``onnx`` or ``torch_export``.
        dynamic: Whether the file takes any batch, and images of any height and width that are
            multiples of 32, as the toolboxes pad them. Other sizes have clusters of unequal sizes,
            which need branches that neither format has. With ``cluster_size``, clusters of unequal
            sizes are padded.
        size: Height and width of the one image that a file takes which is not dynamic.
        trust: Whether to execute code that the checkpoint may hold.

    Returns:
        A function that runs the file on an input. Its ``network`` is the exported one.

    Raises:
        FileExistsError: If ``out`` exists.
        FileNotFoundError: If the config or the checkpoint does not exist.
        ValueError: If an argument has another value, a package is missing, or the checkpoint does
            not fit.
    """
    out = Path(out)
    if format not in SUFFIXES:
        raise InputError(f'format must be one of {", ".join(SUFFIXES)}, got {format!r}')
    if out.suffix != SUFFIXES[format]:
        raise InputError(f'out must end with {SUFFIXES[format]} for {format}, got {out}')
    if out.exists():
        raise FileExistsError(f'out must be a new file, but {out} exists')
    missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if find_spec(name) is None]
    if format == 'onnx' and missing:
        raise InputError(f'format onnx needs more packages: pip install {" ".join(missing)}')
    network = load_network(config, checkpoint, trust)
    if dynamic:
        _check_dynamic(getattr(network, 'backbone', network))
        # torch.export specializes sizes of 0 and 1, and takes equal sizes for one size.
        example = torch.rand(2, 3, 224, 256)
        height, width = torch.export.Dim('height'), torch.export.Dim('width')
        shapes = ({0: torch.export.Dim('batch'), 2: 32 * height, 3: 32 * width},)
    else:
        example, shapes = torch.rand(1, 3, *size), None
    with torch.no_grad():
        program = torch.export.export(network, (example,), dynamic_shapes=shapes)
    out.parent.mkdir(parents=True, exist_ok=True)
    if format == 'torch_export':
        torch.export.save(program, out)
    else:
        names = [node.name for node in program.graph.output_node().args[0]]
        outputs = ['logits'] if len(names) == 1 else [f'map{i}' for i in range(len(names))]
        torch.onnx.export(
            program,
            f=str(out),
            input_names=['images'],
            output_names=outputs,
            dynamo=True,
            external_data=False,
            custom_translation_table={torch.ops.aten.sort.stable: stable_sort_in_onnx},
        )
    return Exported(network, out)


def load_network(config: str | Path, checkpoint: str, trust: bool = False) -> BaseModule:
    """Build the part of a config's model that is exported, with its weights, in eval mode."""
    cfg = load_config(config)
    reader = CheckpointReader(trust)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), reader.serving_mmengine():
        if cfg.get('default_scope') == 'mmpretrain':
            content = reader.read(checkpoint)
            network = MODELS.build(cfg.model)
            check_weights(network, content, checkpoint, config)
            network.load_state_dict(extract_state_dict(content, checkpoint))
        else:
            set_pretrained(cfg, checkpoint, reader)
            network = MODELS.build([*find_backbone_config(cfg).values()][-1])
            network.init_weights()
    return revert_sync_batchnorm(network).eval()  # for CPUs and for one process


def _check_dynamic(backbone: BaseModule) -> None:
    """Raise a ValueError unless one graph can be exported for all multiples of 32x32 pixels."""
    for i, stage in enumerate(backbone.stages):
        tokens = (8 >> i) ** 2
        for attn in stage.modules():
            if not isinstance(attn, SECA):
                continue
            if attn.num_clusters is not None and tokens % attn.num_clusters:
                raise InputError(
                    f'dynamic needs a num_clusters that divides the {tokens} tokens of 32x32 '
                    f'pixels in stage {i + 1}, got {attn.num_clusters}'
                )
            if attn.cluster_size is not None and attn.backend == 'reference':
                raise InputError(
                    'dynamic with cluster_size needs the attention_backend auto or sdpa, '
                    'got reference'
                )


def load_exported(path: Path) -> Run:
    """Read an exported file, and return a function that runs it on an input, (B, 3, H, W)."""
    if path.suffix == '.onnx':
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
        accepted = session.get_inputs()[0].shape

        def run(x: Tensor) -> Sequence[Tensor]:
            _check_shape(x, accepted, path)
            return [torch.from_numpy(y) for y in session.run(None, {'images': x.numpy()})]
    else:
        program = torch.export.load(path)
        name = program.graph_signature.user_inputs[0]
        (images,) = (node for node in program.graph.nodes if node.name == name)
        accepted = images.meta['val'].shape
        # torch.export distinguishes sizes of one, which the last map of 32 pixels has, so that its
        # guards refuse them. The exported network computes them as PyTorch does.
        unguarded = 'check_guards' in signature(program.module).parameters  # torch >= 2.9
        network = program.module(**(dict(check_guards=False) if unguarded else {}))

        def run(x: Tensor) -> Sequence[Tensor]:
            _check_shape(x, accepted, path)
            with torch.no_grad():
                return _as_sequence(network(x))

    return run


def _check_shape(x: Tensor, accepted: Sequence, path: Path) -> None:
    """Raise an InputError unless a file takes an input, of which symbolic sizes may vary."""
    shape = tuple(x.shape)
    if isinstance(accepted[2], int):
        takes, fits = f'of shape {tuple(accepted)}', shape == tuple(accepted)
    else:
        takes = f'(B, {accepted[1]}, H, W) with H and W that are multiples of 32'
        fits = len(shape) == 4 and shape[1] == accepted[1] and not any(n % 32 for n in shape[2:])
    if not fits or 0 in shape:
        raise InputError(f'{path} takes images {takes}, got {shape}')


def compare(network: nn.Module, exported: Run, shape: tuple[int, ...]) -> Comparison:
    """Run a network and its export on one random input, (B, 3, H, W), and measure the time."""
    x = torch.randn(shape)
    with torch.no_grad():
        expected, torch_seconds = _timed(lambda x: _as_sequence(network(x)), x)
    got, exported_seconds = _timed(exported, x)
    differences = torch.cat([(a - b).abs().flatten() for a, b in zip(got, expected, strict=True)])
    share = (differences > 1e-4).double().mean().item()
    return Comparison(shape, differences.max().item(), share, torch_seconds, exported_seconds)


def _as_sequence(outputs: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _timed(run: Run, x: Tensor) -> tuple[Sequence[Tensor], float]:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        outputs = run(x)
        seconds.append(time.perf_counter() - start)
    return outputs, sorted(seconds)[2]
