"""Load checkpoints into a backbone completely or not at all, and check whole models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from .contents import (
    CONTAINERS,
    CheckpointError,
    below,
    extract_state_dict,
    find_prefixes,
    list_state_dicts,
    select_weights,
)
from .reading import CheckpointReader, read_checkpoint
from .released import FIRST_RELEASED, from_released


def read_state_dict(path: str | Path, trust: bool = False) -> dict[str, Tensor]:
    """Read the weights of a model.

    Args:
        path: As in :func:`read_checkpoint`.
        trust: Whether to execute code that the file may hold.

    Returns:
        The state dict, on the CPU.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the file cannot be read as data, or holds no state dict.
    """
    return extract_state_dict(read_checkpoint(path, trust=trust), path)


def check_fit(
    own: dict[str, Tensor], given: dict[str, Tensor], optional: tuple[str, ...] = ()
) -> None:
    """Raise a ValueError unless weights have the names and shapes of a model's.

    Args:
        own: State dict of the model.
        given: State dict to load.
        optional: Beginnings of keys that may be missing in either of them.

    Raises:
        ValueError: If they differ. The error names the first keys and shapes that do.
    """
    missing = [key for key in own if key not in given and not key.startswith(optional)]
    unknown = [key for key in given if key not in own and not key.startswith(optional)]
    reshaped = [
        f'{key} is {tuple(given[key].shape)} in the file and {tuple(own[key].shape)} here'
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    problems = [
        f'{len(keys)} {what} (first: {keys[0]})'
        for keys, what in (
            (missing, 'weights are missing in the file'),
            (unknown, 'weights of the file have no place here'),
            (reshaped, 'weights have another shape'),
        )
        if keys
    ]
    if problems:
        raise ValueError('; '.join(problems))


def _refuse_nan(weights: dict[str, Tensor], path: str | Path) -> None:
    """Raise a CheckpointError if weights are NaN, as those of a run that diverged."""
    bad = [key for key, w in weights.items() if w.is_floating_point() and w.isnan().any()]
    if bad:
        raise CheckpointError(
            f'checkpoint {path} must have numbers, but {len(bad)} of its weights hold NaN (first: '
            f'{bad[0]}): the run that wrote it diverged'
        )


def check_weights(
    model: nn.Module, checkpoint: Any, path: str | Path, config: str | Path, part: str = ''
) -> None:
    """Raise a CheckpointError unless a checkpoint holds the weights of a model.

    Args:
        model: The model, or a wrapper of it.
        checkpoint: Content of a file, as :func:`read_checkpoint` returns it.
        path: The file, for errors.
        config: Config file of the model, for errors.
        part: Beginning of the keys to compare, such as ``backbone.``, wherever the model has such
            a part. Defaults to all.

    Raises:
        CheckpointError: If they differ, or hold NaN. The error names the first keys and shapes that
            do, or the prefix under which the file has the weights.
    """
    wrapped = is_model_wrapper(model) or isinstance(model, BaseTTAModel)
    module: Any = model.module if wrapped else model
    own = module.state_dict()
    given = extract_state_dict(checkpoint, path)
    if type(module)._load_from_state_dict is not nn.Module._load_from_state_dict:
        # mmdet's semi-supervised detectors rename the weights of a plain one.
        module._load_from_state_dict(given, '', {}, False, [], [], [])
    own, given = ({k: w for k, w in x.items() if f'.{part}' in f'.{k}'} for x in (own, given))
    try:
        check_fit(own, given)
    except ValueError as error:
        first = next(iter(own), '')
        prefixes = [p for p in find_prefixes(given, first) if p and _fits(own, below(given, p))]
        where = f'; it is under {_listed(prefixes)} in the file: save it without this prefix'
        raise CheckpointError(
            f'checkpoint {path} is not of the model of {config}: {error}{where if prefixes else ""}'
        ) from error
    _refuse_nan(given, path)


def load_backbone_weights(
    backbone: nn.Module,
    path: str | Path,
    optional: tuple[str, ...] = (),
    advise: Callable[[dict[str, Tensor]], str] = lambda weights: '',
    prefix: str | None = None,
) -> None:
    """Load all weights of a backbone, except optional ones, or raise.

    The file may be a backbone's, a whole detector's, segmenter's or classifier's (its keys then
    begin with ``backbone.``), one that the authors released, or one that has the backbone in
    another place, if it is there once. It is read as data, or by the :class:`CheckpointReader` that
    serves mmengine.

    Args:
        backbone: Module to load into.
        path: As in :func:`read_checkpoint`.
        optional: Beginnings of keys that may be missing in the file or in the backbone.
        advise: Takes weights that do not fit, and returns which options of the backbone to
            change, or an empty string.
        prefix: Beginning of the keys to load, as in mmengine's ``PretrainedInit``. Defaults to all.

    Raises:
        FileNotFoundError: If the file does not exist.
        CheckpointError: If the weights are not those of this backbone, or the file has several such
            backbones. The error names the first keys and shapes that differ, or the prefixes.
    """
    reader = CheckpointReader.in_service or CheckpointReader()
    checkpoint = reader.load_from_reader(str(path))
    weights = select_weights(checkpoint, path, prefix)
    own = backbone.state_dict()
    found = _find_backbones(own, weights, optional)
    fitting = [place for place in found if _fits(own, found[place], optional)]
    at_top = [place for place in ('', 'backbone.') if place in found]
    if not at_top and len(fitting) > 1:
        raise CheckpointError(
            f'checkpoint {path} has a {type(backbone).__name__} under {_listed(fitting)}: choose '
            f"one in the config, with init_cfg=dict(type='Pretrained', checkpoint={str(path)!r}, "
            f'prefix={fitting[0]!r})'
        )
    place = [*at_top, *fitting, *found][0]
    state_dict = found[place]
    try:
        check_fit(own, state_dict, optional)
    except ValueError as error:
        if any(value.numel() == 0 for value in state_dict.values()):
            advice = "it has parts of the weights (DeepSpeed's ZeRO 3), which zero_to_fp32.py joins"
        else:
            advice = advise(state_dict) or "set the backbone's options to those of the checkpoint"
        where = f' under {place!r}' if place not in ('', 'backbone.') else ''
        raise CheckpointError(
            f'checkpoint {path} is not of this {type(backbone).__name__}{where}: {error}; {advice}'
        ) from None
    _refuse_nan(state_dict, path)
    missing, unused = backbone.load_state_dict(state_dict, strict=False)
    others = [p for p in found if p != place] if prefix is None else []
    others += [f'{name}.' for name in list_state_dicts(checkpoint) if name not in CONTAINERS]
    print_log(
        f'Loaded the backbone from {path}; not in the file: {", ".join(missing) or "nothing"}; '
        f'not used of it: {", ".join(unused) or "nothing"}'
        + (f'; init_cfg.prefix can choose {_listed(others, " or ")} of it' if others else ''),
        logger='current',
    )


def _find_backbones(
    own: dict[str, Tensor], weights: dict[str, Tensor], optional: tuple[str, ...]
) -> dict[str, dict[str, Tensor]]:
    """Return what may be a backbone's weights, also those that the authors named, by prefix."""
    first = next(key for key in own if not key.startswith(optional))
    found = {prefix: below(weights, prefix) for prefix in find_prefixes(weights, first)}
    for prefix in find_prefixes(weights, FIRST_RELEASED):
        found[prefix] = below(from_released(below(weights, prefix)), 'backbone.')
    if not found:  # of another network
        prefix = 'backbone.' if any(key.startswith('backbone.') for key in weights) else ''
        found[prefix] = below(weights, prefix)
    return found


def _fits(own: dict[str, Tensor], given: dict[str, Tensor], optional: tuple[str, ...] = ()) -> bool:
    try:
        check_fit(own, given, optional)
    except ValueError:
        return False
    return True


def _listed(prefixes: list[str], last: str = ' and ') -> str:
    return last.join(map(repr, prefixes))
