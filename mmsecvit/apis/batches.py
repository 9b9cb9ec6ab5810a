"""Check the batches of a run before its first step, once its data sets and its model are built."""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.model import MMDistributedDataParallel, is_model_wrapper
from mmengine.runner import Runner
from torch import nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from ..datasets.images import read_header
from .config import ConfigError
from .settings import ENDLESS

# If images of so many different sizes leave a pipeline with one size, it makes that of all.
ENOUGH_SIZES = 16


def check_training_batches(runner: Runner) -> None:
    """Raise a ConfigError if training has no batches, or one that a batch norm cannot take.

    Args:
        runner: The runner before training, whose loops this builds.
    """
    loader = getattr(runner.train_loop, 'dataloader', None)
    batches: Any = getattr(loader, 'batch_sampler', None)
    size = getattr(batches, 'batch_size', None)
    if not isinstance(size, int):
        return
    rest = ''
    sampler: Any = getattr(batches, 'sampler', None)
    if hasattr(sampler, '__len__') and type(sampler).__name__ not in ENDLESS:
        length, drop_last = len(sampler), getattr(batches, 'drop_last', False)
        if drop_last and length < size:
            raise ConfigError(
                'train_dataloader.batch_size must be at most the number of images of a process, '
                f'{length}, with drop_last, which leaves no batch otherwise, got {size}'
            )
        is_reached = runner.train_loop.max_iters * size >= length
        if length % size and not drop_last and is_reached:
            rest = (
                f', but of {length} images in batches of {size}, the last has {length % size} '
                '(drop_last=True leaves it out)'
            )
            size = length % size
    norm = find_starved_norm(runner, loader) if size == 1 else None
    if norm:
        raise ConfigError(
            f'train_dataloader.batch_size must leave no batch of one image{rest}: from it, the '
            f'batch norm {norm} gets a single value for each channel, and needs more to train'
        )


def find_starved_norm(runner: Runner, loader: Any) -> str | None:
    """Return a batch norm that gets one value for each channel from a batch of one image.

    The network of a segmenter or classifier runs on the ``meta`` device, which computes shapes
    only.

    Returns:
        The name of the module, or None if there is none, or if it is unknown.
    """
    network: Any = runner.model
    if isinstance(network, MMDistributedDataParallel):
        network = network.module
    known = runner.cfg.get('default_scope') in ('mmseg', 'mmpretrain')
    if not known or not isinstance(network, nn.Module) or is_model_wrapper(network):
        return None
    starved: list[str] = []
    hooks = [
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: (
                starved.append(name)
                if module.training and inputs[0].numel() == inputs[0].shape[1]
                else None
            )
        )
        for name, module in network.train().named_modules()
        if isinstance(module, _BatchNorm)
        and not (isinstance(module, nn.SyncBatchNorm) and get_world_size() > 1)
    ]
    try:
        with same_random_numbers(), torch.no_grad():
            batch = loader.collate_fn([loader.dataset[0]])
            preprocess: Any = network.data_preprocessor
            images = preprocess(batch, training=True)['inputs']
            tensors = [*network.named_parameters(), *network.named_buffers()]
            weights = {name: tensor.to('meta') for name, tensor in tensors}
            functional_call(network, weights, (images.to('meta'),), dict(mode='tensor'))
    except Exception:  # of networks that do more than shapes: what was not found is unknown
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return starved[0] if starved else None


@contextmanager
def same_random_numbers(devices: Sequence[int] | None = None) -> Iterator[None]:
    """Restore the states of all random number generators at the end of the block.

    Code after the block then draws the same numbers as if the block had not run.

    Args:
        devices: The GPUs whose generators are restored. Defaults to all.
    """
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def check_image_sizes(runner: Runner, split: str) -> None:
    """Raise a ConfigError if a segmenter gets a batch of images of several sizes to predict.

    Args:
        runner: The runner before a validation or test, whose loop this builds.
        split: ``val`` or ``test``.
    """
    model: Any = runner.model.module if is_model_wrapper(runner.model) else runner.model
    preprocessor = getattr(model, 'data_preprocessor', None)
    if 'SegDataPreProcessor' not in [cls.__name__ for cls in type(preprocessor).__mro__]:
        return
    loop = runner.val_loop if split == 'val' else runner.test_loop
    loader: Any = getattr(loop, 'dataloader', None)
    size = getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None) or 1
    found: Any = None
    try:
        found = _find_two_sizes(loader) if size > 1 else None
    except Exception as error:  # all processes must come to the exchange
        found = error
    every = all_gather_object(found if isinstance(found, tuple) else None)
    if isinstance(found, Exception):
        raise found
    for pair in every:
        if pair:
            raise ConfigError(
                f'{split}_dataloader.batch_size must be 1, since mmseg predicts for batches of '
                f'images of one size only, and the batch of {pair[0]} has images of {pair[1]} and '
                f'{pair[2]} pixels; got {size}'
            )


def _find_two_sizes(loader: Any) -> tuple[str, str, str] | None:
    """Return an image and its size, and the size of another one of its batch."""
    shapes: dict[tuple | None, tuple[int, ...]] = {}
    if not hasattr(loader.dataset, 'get_data_info'):
        return None
    for batch in loader.batch_sampler:
        infos = {i: loader.dataset.get_data_info(i) for i in batch}
        headers = {i: read_header(info.get('img_path')) for i, info in infos.items()}
        if len(set(headers.values())) < 2:
            continue
        for i, header in headers.items():
            if header not in shapes:
                image = loader.dataset[i]['inputs']
                if not isinstance(image, torch.Tensor):
                    return None
                shapes[header] = tuple(image.shape[-2:])
        first, *others = (shapes[header] for header in headers.values())
        for other in others:
            if other != first:
                path = next(iter(infos.values()))['img_path']
                return path, 'x'.join(map(str, first)), 'x'.join(map(str, other))
        if len(shapes) >= ENOUGH_SIZES:
            break
    return None
