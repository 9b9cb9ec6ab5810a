"""Rename weights between the authors' released network and mmpretrain's ImageClassifier."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

# Applied in this order, each to the result of the one before.
_RENAMING = [
    (r'^patch_embed\.proj\.', 'backbone.stem.'),
    (r'^layers\.(\d)\.blocks\.', r'backbone.stages.\1.'),
    (r'^layers\.(\d)\.downsample\.reduction\.', r'backbone.downsamples.\1.conv.'),
    (r'^layers\.(\d)\.downsample\.norm\.', r'backbone.downsamples.\1.norm.'),
    (r'\.(norm[12])\.norm\.', r'.\1.'),
    (r'\.attn\.lepe\.', '.attn.lce.'),
    (r'\.attn\.out_proj\.', '.attn.proj.'),
    (r'\.ffn\.dwconv\.', '.ffn.conv.'),
    (r'\.pos\.', '.cpe.'),
    (r'\.gamma_([12])$', r'.scale\1.weight'),
    (r'^(proj|norm)\.', r'neck.\1.'),
    (r'^head\.', 'head.fc.'),
]
# 1x1 convolutions there are linear layers here. LayerScale has shape (1, C, 1, 1) there, (C,) here.
_FLATTENED = re.compile(
    r'(attn\.(qkv|proj)|ffn\.fc[12]|head\.fc|scale[12])\.weight$',
)
# The way back. These patterns start at the root, since names are shorter there.
_RENAMING_BACK = [
    (r'^backbone\.stem\.', 'patch_embed.proj.'),
    (r'^backbone\.stages\.(\d)\.', r'layers.\1.blocks.'),
    (r'^backbone\.downsamples\.(\d)\.conv\.', r'layers.\1.downsample.reduction.'),
    (r'^backbone\.downsamples\.(\d)\.norm\.', r'layers.\1.downsample.norm.'),
    (r'\.(norm[12])\.', r'.\1.norm.'),
    (r'\.attn\.lce\.', '.attn.lepe.'),
    (r'\.attn\.proj\.', '.attn.out_proj.'),
    (r'\.ffn\.conv\.', '.ffn.dwconv.'),
    (r'\.cpe\.', '.pos.'),
    (r'\.scale([12])\.weight$', r'.gamma_\1'),
    (r'^neck\.', ''),
    (r'^head\.fc\.', 'head.'),
]
# Every released state dict has this name.
FIRST_RELEASED = 'patch_embed.proj.0.weight'
# The rotary frequencies are computed, not stored.
_DROPPED = re.compile(r'\.RoPE\.angle$')


def is_released(state_dict: dict[str, Tensor]) -> bool:
    """Return whether the names are those of the authors' released network."""
    return FIRST_RELEASED in state_dict


def from_released(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights that the authors released to the names of this package.

    Args:
        state_dict: State dict of the released network, without ``module.`` before its keys.

    Returns:
        The same weights for an ``ImageClassifier``: keys begin with ``backbone.``, ``neck.``
        (:class:`mmsecvit.SecViTNeck`) and ``head.fc.`` (mmpretrain's ``LinearClsHead``).
    """
    renamed = {}
    for key, value in state_dict.items():
        if _DROPPED.search(key):
            continue
        for pattern, replacement in _RENAMING:
            key = re.sub(pattern, replacement, key)
        if _FLATTENED.search(key):
            value = value.flatten() if '.scale' in key else value.flatten(1)
        renamed[key] = value
    return renamed


def to_released(state_dict: dict[str, Tensor], head_dims: Sequence[int]) -> dict[str, Tensor]:
    """Rename weights to the names of the authors: the inverse of :func:`from_released`.

    Args:
        state_dict: State dict of an ``ImageClassifier`` with a SecViT of the released variant, as
            :func:`from_released` returns it. Neck and head may be missing.
        head_dims: Channels of one head in each stage. The released network stores its rotary
            frequencies, which depend on them.

    Returns:
        The state dict of the released network.
    """
    released = {}
    for key, value in state_dict.items():
        if _FLATTENED.search(key):
            value = value[None, :, None, None] if '.scale' in key else value[..., None, None]
        for pattern, replacement in _RENAMING_BACK:
            key = re.sub(pattern, replacement, key)
        released[key] = value
    for i, dims in enumerate(head_dims):
        frequencies = 1 / 10000 ** torch.linspace(0, 1, dims // 4)
        released[f'layers.{i}.RoPE.angle'] = frequencies.repeat_interleave(2)
    return released
