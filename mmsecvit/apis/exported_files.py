"""Write exported networks to files that describe themselves, and run these files."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from ..compat import adaptive_average_in_onnx, stable_sort_in_onnx
from ..errors import InputError

SUFFIXES = {'onnx': '.onnx', 'torch_export': '.pt2'}
METADATA = 'mmsecvit'  # the key of ONNX's metadata; with .json, the name of the extra file in .pt2

Run = Callable[..., Sequence[Tensor]]


def write_exported(
    program: ExportedProgram,
    path: Path,
    inputs: Sequence[str],
    outputs: Sequence[str],
    metadata: dict,
) -> None:
    """Write a program to a file, whole or not at all.

    Args:
        program: What ``torch.export`` returned.
        path: New file, of one of :data:`SUFFIXES`.
        inputs: Names of the inputs in an ONNX file.
        outputs: Names of the outputs.
        metadata: Plain data that describes the network.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    description = json.dumps(metadata)
    with whole_file(path) as unfinished:
        if path.suffix == '.pt2':
            extra_files = {f'{METADATA}.json': description}
            torch.export.save(program, unfinished, extra_files=extra_files)
            return
        import torchvision  # noqa: F401  # its operators are translated if it is imported

        onnx_program = torch.onnx.export(
            program,
            input_names=inputs,
            output_names=outputs,
            dynamo=True,
            verbose=False,
            custom_translation_table={
                torch.ops.aten.adaptive_avg_pool2d.default: adaptive_average_in_onnx,
                torch.ops.aten.sort.stable: stable_sort_in_onnx,
            },
        )
        assert onnx_program is not None
        onnx_program.model.metadata_props[METADATA] = description
        onnx_program.save(unfinished, external_data=False)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path next to another, which becomes it when the block ends without an error."""
    unfinished = path.with_name(f'.{path.stem}.unfinished{path.suffix}')
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


class ExportedFile:
    """Run an exported file.

    Attributes:
        path: The file.
        metadata: What the file tells about its network; empty if it tells nothing.
        shape: Shape of the images that it takes, (B, 3, H, W). A size that may vary is no integer.

    Raises:
        FileNotFoundError: If the file does not exist.
        InputError: If it is no exported network, or onnxruntime is missing.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f'exported file {path} does not exist')
        if self.path.suffix == '.onnx' and find_spec('onnxruntime') is None:
            raise InputError(f'{path} needs one more package: pip install onnxruntime')
        read = _read_onnx if self.path.suffix == '.onnx' else _read_pt2
        try:
            self._run, self._inputs, self.shape, description = read(self.path)
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f'{path} is no exported network: {reason}') from error
        self.metadata: dict[str, Any] = json.loads(description or '{}')

    def __call__(self, x: Tensor, *size: Tensor) -> Sequence[Tensor]:
        """Return the outputs for images, (B, 3, H, W).

        Args:
            x: Images.
            size: For a detector, height and width of its image without padding, (2,) int64.

        Raises:
            InputError: If the file does not take the shape or the number of inputs.
        """
        if len(self._inputs) != 1 + len(size):
            raise InputError(
                f'{self.path} takes {" and ".join(self._inputs)}, got {1 + len(size)} inputs: if '
                'another version of mmsecvit wrote it, export it again'
            )
        shape, accepted = tuple(x.shape), self.shape
        if isinstance(accepted[2], int):
            takes, fits = f'of shape {tuple(accepted)}', shape == tuple(accepted)
        else:
            batch = accepted[0] if isinstance(accepted[0], int) else 'B'
            takes = f'({batch}, {accepted[1]}, H, W) with H and W that are multiples of 32'
            fits = len(shape) == 4 and not any(n % 32 for n in shape[2:])
            fits = fits and shape[1] == accepted[1] and batch in ('B', shape[0])
        if not fits or 0 in shape:
            raise InputError(f'{self.path} takes images {takes}, got {shape}')
        return self._run(x, *size)


def _read_onnx(path: Path) -> tuple[Run, Sequence[str], Sequence, str | None]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    given = session.get_inputs()
    names = [x.name for x in given]

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(y) for y in session.run(None, feed)]

    return run, names, given[0].shape, session.get_modelmeta().custom_metadata_map.get(METADATA)


def _read_pt2(path: Path) -> tuple[Run, Sequence[str], Sequence, str | None]:
    import torchvision  # noqa: F401  # registers the operators of detectors

    extra_files = {f'{METADATA}.json': ''}
    program = torch.export.load(path, extra_files=extra_files)
    names = program.graph_signature.user_inputs
    (images,) = (node for node in program.graph.nodes if node.name == names[0])
    # torch.export distinguishes sizes of one, which the last map of 32 pixels has, so that its
    # guards refuse them. The exported network computes them as PyTorch does.
    unguarded = 'check_guards' in signature(program.module).parameters  # torch >= 2.9
    network = program.module(**(dict(check_guards=False) if unguarded else {}))

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            outputs = network(*inputs)
        return (outputs,) if isinstance(outputs, Tensor) else outputs

    return run, names, images.meta['val'].shape, extra_files[f'{METADATA}.json']
