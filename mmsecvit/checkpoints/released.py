"""The authors' released state dict in this package's names (mmpretrain's ImageClassifier)."""

import re

from torch import Tensor

# Applied in this order, each to the result of those before.
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
# 1x1 convolutions there are linear layers here; LayerScale's factors lose their map's axes.
_FLATTENED = re.compile(
    r'(attn\.(qkv|proj)|ffn\.fc[12]|head\.fc|scale[12])\.weight$',
)
# The rotary frequencies are computed, not stored.
_DROPPED = re.compile(r'\.RoPE\.angle$')


def is_released(state_dict: dict[str, Tensor]) -> bool:
    """Whether the names are those of the authors' released network."""
    return 'patch_embed.proj.0.weight' in state_dict


def from_released(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename the authors' released weights to this package's.

    Args:
        state_dict: The released network's, without ``module.`` before its keys.

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
