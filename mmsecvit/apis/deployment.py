"""Export models and backbones: what tools/deployment/export.py does."""

import os
import shutil
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..checkpoints import CheckpointReader, check_weights, extract_state_dict
from ..compat import without_warnings_of_export
from ..errors import InputError
from ..layers import SECA
from .config import load_config
from .exportable import find_task
from .exported_files import SUFFIXES, ExportedFile, Run, write_exported
from .exported_metadata import default_size, describe, describe_backbone, warn_of_size
from .exported_models import whole_model
from .pretrained import find_backbone_config, set_pretrained

LARGEST_SIDE = 2**14  # an image of 16384x16384 takes 3 GiB as the input alone


class Comparison(NamedTuple):
    """Differences and times of an exported network and the original one, on one random input.

    Attributes:
        shape: Shape of the input, (B, 3, H, W).
        found: Numbers of images, or of objects that a detector finds: of the exported network and
            of the original one. Only if they are equal, outputs can be compared.
        difference: Largest absolute difference of any output; 1 for another class.
        share: Fraction of the outputs that differ by more than 1e-4. Where rounding decides which
            cluster a token belongs to, two computations may disagree about its whole cluster.
        torch_seconds: Time of the original network, in seconds: the median of five runs.
        exported_seconds: Time of the exported network, in the same way.
    """

    shape: tuple[int, ...]
    found: tuple[int, int]
    difference: float
    share: float
    torch_seconds: float
    exported_seconds: float

    def __str__(self) -> str:
        outcome = (
            f'differs by {self.difference:.1e} at most, by more than 1e-4 in {self.share:.1%} of '
            'the values'
        )
        if self.found[0] != self.found[1]:
            outcome = f'finds {self.found[0]} objects, and PyTorch {self.found[1]}'
        return (
            f'{self.shape[2]}x{self.shape[3]}: {outcome}; takes {1000 * self.exported_seconds:.0f} '
            f'ms (PyTorch: {1000 * self.torch_seconds:.0f} ms)'
        )


class Exported(ExportedFile):
    """An exported file, and the network in it."""

    def __init__(self, network: nn.Module, path: Path) -> None:
        super().__init__(path)
        self.network = network


def export(
    config: str | Path,
    checkpoint: str,
    out: str | Path,
    format: str = 'onnx',
    dynamic: bool = False,
    size: tuple[int, int] | None = None,
    trust: bool = False,
    part: str = 'model',
    scores: bool = False,
    cfg_options: dict | None = None,
) -> Exported:
    """Write a model, or only its backbone, to a file that runs without this package.

    The input of a model is called ``image``: (B, 3, H, W), float32, 0..255, in the order of
    channels that the file's metadata tells. A detector also takes ``size``, (2,) int64: height and
    width of the image without its padding, to which it clips boxes. The outputs are:

    - of a classifier, ``scores``, (B, classes): probabilities;
    - of a segmenter, ``labels``, (B, H, W) int64, and if wanted ``scores``, (B, classes, H, W):
      logits;
    - of a detector, for one image: ``boxes``, (N, 4): x1, y1, x2, y2 in pixels of the input,
      ``scores``, (N,), ``labels``, (N,) int64, and with a mask head ``masks``, (N, h, w):
      probabilities inside the boxes. Thresholds and NMS are those of the config's ``test_cfg``.

    The input of a backbone is called ``images``, (B, 3, H, W), float32, normalized as the config's
    data preprocessor does it. Its outputs are the maps ``map0`` and so on.

    Args:
        config: Config file.
        checkpoint: Weights of the whole model, a file or an http(s) address. For a backbone, any
            file that its ``init_cfg`` takes.
        out: File to write, which must not exist yet: ``.onnx``, or ``.pt2`` for ``torch_export``.
        format: ``onnx`` or ``torch_export``.
        dynamic: Whether the file takes any batch (a detector's takes one image), and images of any
            height and width that are multiples of 32, as the toolboxes pad them. Other sizes have
            clusters of unequal sizes, which need branches that neither format has. With
            ``cluster_size``, clusters of unequal sizes are padded.
        size: Height and width of the one image that a file takes which is not dynamic. Defaults to
            the size at which the config tests; see :func:`default_size`.
        trust: Whether to execute code that the checkpoint may hold.
        part: ``model`` or ``backbone``.
        scores: Whether a segmenter's file also has ``scores``.
        cfg_options: Values by dotted key that override the config's.

    Returns:
        A function that runs the file on an input. Its ``network`` is the exported one.

    Raises:
        FileExistsError: If ``out`` exists.
        FileNotFoundError: If the config or the checkpoint does not exist.
        ValueError: If an argument has another value, a package is missing, the checkpoint does not
            fit, or a part of the model cannot be exported.
    """
    out = Path(out)
    _check_arguments(out, format, dynamic, size, part)
    cfg = load_config(config, cfg_options=cfg_options)
    network, metadata = load_network(cfg, config, checkpoint, trust, part, scores)
    if dynamic:
        _check_dynamic(network)
        metadata.update(size=None, divisor=32)
    else:
        metadata.update(size=list(size or default_size(cfg)), divisor=None)
        warn_of_size(metadata)
    print_log(f'Tracing and writing {out}: a detector takes some minutes.', logger='current')
    with without_warnings_of_export():
        program = _trace(network, metadata)
        maps = [f'map{i}' for i in range(len(program.graph.output_node().args[0]))]
        inputs, outputs = (['image'], network.outputs) if part == 'model' else (['images'], maps)
        if _detects(metadata):
            inputs = [*inputs, 'size']
        write_exported(program, out, inputs, outputs, metadata)
    return Exported(network, out)


def copy_runner(exported: Exported) -> str | None:
    """Copy the module that runs whole models without this package next to an ONNX file.

    Returns:
        A sentence on it, or None for other files.
    """
    source = Path(__file__).with_name('run_model.py')
    copy = exported.path.with_name(source.name)
    if exported.path.suffix != '.onnx' or exported.metadata['part'] != 'model':
        return None
    if not copy.exists():
        shutil.copyfile(source, copy)
    elif copy.read_bytes() != source.read_bytes():
        return f'{copy} is another file than {source}, which runs {exported.path}, and stays'
    return f'{copy} runs it where this package is not installed'


def _check_arguments(
    out: Path, format: str, dynamic: bool, size: Sequence[int] | None, part: str
) -> None:
    """Raise an error for arguments that cannot work, before any work."""
    if format not in SUFFIXES:
        raise InputError(f'format must be one of {", ".join(SUFFIXES)}, got {format!r}')
    if part not in ('model', 'backbone'):
        raise InputError(f'part must be model or backbone, got {part!r}')
    if out.suffix != SUFFIXES[format]:
        raise InputError(f'out must end with {SUFFIXES[format]} for {format}, got {out}')
    if out.exists():
        raise FileExistsError(f'out must be a new file, but {out} exists')
    folder = next(parent for parent in out.absolute().parents if parent.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise InputError(f'out must be in a folder that can be written to, but {folder} is none')
    if size is not None and dynamic:
        raise InputError('size must be left out of a dynamic file')
    if size is not None and not 32 <= min(size) <= max(size) <= LARGEST_SIDE:
        raise InputError(
            f'size must be a height and a width of 32 to {LARGEST_SIDE}, got {tuple(size)}'
        )
    missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if find_spec(name) is None]
    if format == 'onnx' and missing:
        raise InputError(f'format onnx needs more packages: pip install {" ".join(missing)}')


def load_network(
    cfg: Config,
    config: str | Path,
    checkpoint: str,
    trust: bool = False,
    part: str = 'model',
    scores: bool = False,
) -> tuple[Any, dict]:
    """Build what is exported, with its weights, in eval mode, and describe it.

    The arguments are those of :func:`export`, after ``cfg``, what is in ``config``.
    """
    reader = CheckpointReader(trust)
    scope = cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope), reader.serving_mmengine():
        if part == 'backbone':
            set_pretrained(cfg, checkpoint, reader)
            network = MODELS.build([*find_backbone_config(cfg).values()][-1])
            network.init_weights()
            # For CPUs and for one process.
            return revert_sync_batchnorm(network).eval(), describe_backbone(config)
        if find_task(scope) != 'segmentation' and scores:
            raise InputError('scores are for segmenters: other models always have them')
        content = reader.read(checkpoint)
        model = MODELS.build(cfg.model)
        network = whole_model(model, scope, scores)
        check_weights(model, content, checkpoint, config)
        model.load_state_dict(extract_state_dict(content, checkpoint))
    meta = content.get('meta') or {}
    return revert_sync_batchnorm(network).eval(), describe(cfg, config, model, meta)


def _check_dynamic(network: Any) -> None:
    """Raise an InputError unless one graph can be exported for all multiples of 32x32 pixels."""
    stages = [*enumerate(x for m in network.modules() for x in getattr(m, 'stages', ()))]
    for i, attn in ((i, x) for i, stage in stages for x in stage.modules() if isinstance(x, SECA)):
        tokens = (8 >> i) ** 2
        if attn.num_clusters is not None and tokens % attn.num_clusters:
            raise InputError(
                f'dynamic needs a num_clusters that divides the {tokens} tokens of 32x32 '
                f'pixels in stage {i + 1}, got {attn.num_clusters}'
            )
        if attn.cluster_size is not None and attn.backend == 'reference':
            raise InputError(
                'dynamic with cluster_size needs the attention_backend auto or sdpa, got reference'
            )


def _trace(network: nn.Module, metadata: dict) -> ExportedProgram:
    """Return the graph of a network, for one image of a size, or for all multiples of 32."""
    detects = _detects(metadata)
    if metadata['size'] is None:
        # torch.export specializes sizes of 0 and 1, and takes equal sizes for one size.
        image = torch.rand(1 if detects else 2, 3, 224, 256)
        height, width = torch.export.Dim('height'), torch.export.Dim('width')
        sizes = {2: 32 * height, 3: 32 * width}
        shapes = (sizes, (None,)) if detects else ({0: torch.export.Dim('batch'), **sizes},)
    else:
        image, shapes = torch.rand(1, 3, *metadata['size']), None
    with torch.no_grad():
        return torch.export.export(network, network_inputs(metadata, image), dynamic_shapes=shapes)


def _detects(metadata: dict) -> bool:
    return metadata['part'] == 'model' and metadata['task'] == 'detection'


def network_inputs(metadata: dict, image: Tensor) -> tuple[Tensor, ...]:
    """Return what a network takes: images, (B, 3, H, W), and a detector their size."""
    return (image, torch.tensor(image.shape[2:])) if _detects(metadata) else (image,)


def compare(exported: Exported, shape: tuple[int, ...]) -> Comparison:
    """Run a file and the network in it on one random input, (B, 3, H, W), and measure the time."""
    x = torch.randn(shape)
    if exported.metadata['part'] == 'model':
        x = (128 + 64 * x).clamp(0, 255)
    inputs = network_inputs(exported.metadata, x)
    with torch.no_grad():
        expected, torch_seconds = _timed(exported.network, inputs)
    got, exported_seconds = _timed(exported, inputs)
    found = len(got[0]), len(expected[0])
    differences = torch.zeros(1)  # of no objects
    if found[0] == found[1] > 0:
        differences = torch.cat([_difference(*pair) for pair in zip(got, expected, strict=True)])
    share = (differences > 1e-4).double().mean().item()
    times = torch_seconds, exported_seconds
    return Comparison(shape, found, differences.max().item(), share, *times)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    return ((a - b).abs() if a.is_floating_point() else (a != b).float()).flatten()


def _timed(run: Run, inputs: Sequence[Tensor]) -> tuple[Sequence[Tensor], float]:
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        outputs = run(*inputs)
        seconds.append(time.perf_counter() - start)
    return outputs, sorted(seconds)[2]
