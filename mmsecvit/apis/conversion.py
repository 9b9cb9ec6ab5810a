"""Convert the checkpoints that the authors released: what tools/model_converters does."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn

from ..backbones import SecViT
from ..backbones.secvit import recognize
from ..checkpoints import check_fit, from_released, is_released, read_state_dict, to_released
from ..checkpoints.contents import below
from ..errors import InputError
from ..necks import SecViTNeck
from ..version import __version__
from .exported_files import whole_file


def convert_released(src: str | Path, dst: str | Path, trust: bool = False) -> dict:
    """Convert a checkpoint that the authors released to a classifier of this package.

    mmpretrain's ``ImageClassifier`` loads the result, and so do ``--pretrained`` and the
    ``init_cfg`` of a backbone.

    Args:
        src: The authors' checkpoint, a local file, with or without the weights of the head.
        dst: File to write, which must not exist yet.
        trust: Whether to execute code that ``src`` may hold.

    Returns:
        The ``meta`` of the new file: ``arch`` (a name, or a dict for a network of another size),
        ``variant``, name and SHA-256 of the source, and the versions that converted it.

    Raises:
        FileNotFoundError: If ``src`` does not exist.
        FileExistsError: If ``dst`` exists.
        ValueError: If ``src`` holds more than data, or is not the released network. The error
            names the first keys and shapes that differ.
    """
    dst = Path(dst)
    if dst.exists():
        raise FileExistsError(f'dst must be a new file, but {dst} exists')
    released = read_state_dict(src, trust)
    weights = from_released(released)
    try:
        arch = _recognize_released(released, weights)
    except ValueError as error:
        raise InputError(f"checkpoint {src} is not of the authors' SecViT: {error}") from None
    meta = dict(
        arch=arch,
        variant='released',
        source=Path(src).name,
        source_sha256=hashlib.sha256(Path(src).expanduser().read_bytes()).hexdigest(),
        mmsecvit_version=__version__,
        torch_version=str(torch.__version__),
    )
    dst.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(dst) as unfinished:
        torch.save(dict(meta=meta, state_dict=weights), unfinished)
    return meta


def _recognize_released(released: dict[str, Tensor], weights: dict[str, Tensor]) -> str | dict:
    """Return the architecture, or raise a ValueError if a name or shape does not belong to it."""
    recognized = recognize(below(weights, 'backbone.'))
    if not is_released(released) or not recognized:
        first = ', '.join(f'{key} {tuple(released[key].shape)}' for key in [*released][:3])
        raise InputError(f'its weights begin with {first}')
    arch = recognized['arch']
    if isinstance(arch, dict):
        # Each angle turns two channels of a head.
        angles = [released.get(f'layers.{i}.RoPE.angle', torch.ones(1)) for i in range(4)]
        heads = [c // (2 * len(x)) for c, x in zip(arch['embed_dims'], angles, strict=True)]
        arch = dict(arch, num_heads=tuple(heads))
    backbone = SecViT(arch, 'released')
    model = nn.ModuleDict(dict(backbone=backbone))
    if 'neck.proj.weight' in weights:
        projection, channels = weights['neck.proj.weight'].shape[:2]
        model['neck'] = SecViTNeck(channels, projection)
    if 'head.fc.weight' in weights:
        num_classes, projection = weights['head.fc.weight'].shape
        model['head'] = nn.ModuleDict(dict(fc=nn.Linear(projection, num_classes)))
    # Errors then have the names of the file.
    check_fit(to_released(model.state_dict(), backbone.rotary_dims), released)
    return arch
