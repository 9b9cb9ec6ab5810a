"""Record and draw the clusters in which tokens attend (Figure 4 of the paper)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import matplotlib
import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import InputError
from ..layers import SECA
from ..ops import cluster_bounds
from ..ops.clustering import invert_order

GAP = 8  # pixels between panels


class TokenRanks(NamedTuple):
    """Ranks of the tokens in the order in which one attention cuts them into clusters.

    Attributes:
        ranks: Rank of each token by rising similarity to the mean key, (B, heads, H, W), int64,
            where H x W is the grid of the stage.
        num_clusters: Number of clusters into which the order is cut.
    """

    ranks: Tensor
    num_clusters: int


@contextmanager
def record_ranks(
    backbone: BaseModule, stages: Sequence[int] = (1, 2, 3, 4), block: int = -1
) -> Iterator[dict[int, TokenRanks]]:
    """Record the clusters of each forward pass of a backbone inside the ``with`` block.

    The outputs of the backbone do not change: the keys are computed a second time. With the
    ``triton`` backend, a token whose similarity is within rounding of a boundary may be drawn in
    the neighboring cluster.

    Args:
        backbone: A backbone with :class:`mmsecvit.layers.SECA` in its ``stages``.
        stages: Stages to record, counted from 1.
        block: Which attention of each stage, counted from 0; -1 is the last.

    Yields:
        The ranks by stage: empty at first, replaced by each forward pass.

    Raises:
        ValueError: If the backbone has no such stage or block, or if a stage has no clusters.

    Example:
        >>> backbone = SecViT('tiny').eval()
        >>> with record_ranks(backbone) as recorded:
        ...     _ = backbone(torch.rand(1, 3, 224, 224))
        >>> recorded[1].ranks.shape
        torch.Size([1, 2, 56, 56])
    """
    recorded: dict[int, TokenRanks] = {}

    def record(attn: SECA, inputs: tuple, output: Tensor, stage: int) -> None:
        with torch.no_grad():
            x, rotary, norm = (*inputs, None, None)[:3]
            _, k, _ = attn.split_heads(attn.qkv(norm(x) if norm else x), rotary)
            ranks = invert_order(attn.order(k)).unflatten(-1, x.shape[1:3])
        recorded[stage] = TokenRanks(ranks, attn.num_clusters_of(ranks[0, 0].numel()))

    attentions = {stage: _find_attention(backbone, stage, block) for stage in stages}
    handles = [
        attn.register_forward_hook(partial(record, stage=stage))
        for stage, attn in attentions.items()
    ]
    try:
        yield recorded
    finally:
        for handle in handles:
            handle.remove()


def cluster_maps(ranks: TokenRanks, heads: str | int = 'mean') -> Tensor:
    """Return the cluster of each token of an image.

    Args:
        ranks: Ranks of a batch, of which the first image is used.
        heads: ``all``; the number of a head, from 0; or ``mean``, which orders the tokens by their
            mean rank over the heads and cuts this order into clusters.

    Returns:
        Number of the cluster of each token, int64, (heads, H, W) for ``all``, else (1, H, W).
        Cluster 0 is the least similar to the mean key.

    Raises:
        ValueError: If there is no such head.
    """
    every = ranks.ranks[0]
    if heads == 'all':
        chosen = every
    elif heads == 'mean':
        order = every.flatten(1).double().mean(0, keepdim=True).argsort(dim=-1, stable=True)
        chosen = invert_order(order).unflatten(-1, every.shape[1:])
    elif heads in range(len(every)):
        chosen = every[[heads]]
    else:
        raise InputError(f"heads must be 'all', 'mean' or from 0 to {len(every) - 1}, got {heads}")
    bounds = cluster_bounds(every[0].numel(), ranks.num_clusters)
    inner = torch.tensor(bounds[1:-1], device=chosen.device, dtype=chosen.dtype)
    return torch.bucketize(chosen.contiguous(), inner, right=True)


def cluster_colors(num_clusters: int) -> np.ndarray:
    """Return the colors of the clusters, dark for the least similar: (n, 3) uint8, RGB.

    These are matplotlib's viridis, in which equal steps look equally large.
    """
    values = np.linspace(0, 1, num_clusters)
    return matplotlib.colormaps['viridis'](values, bytes=True)[:, :3]


def paint_clusters(clusters: Tensor, num_clusters: int, size: tuple[int, int]) -> np.ndarray:
    """Paint each token's pixels in the color of its cluster.

    Args:
        clusters: Cluster of each token, (H, W), int64.
        num_clusters: Number of clusters, which is the number of colors.
        size: Height and width of the image. A token covers stride x stride pixels, where the
            stride is a power of two. The last row and column may reach beyond the image.

    Returns:
        Picture of this size, (height, width, 3), uint8, RGB.
    """
    height, width = size
    stride = 1
    while clusters.shape[0] * stride < height or clusters.shape[1] * stride < width:
        stride *= 2
    colors = cluster_colors(num_clusters)[clusters.cpu().numpy()]
    return colors.repeat(stride, axis=0).repeat(stride, axis=1)[:height, :width]


def draw_clusters(
    image: np.ndarray, recorded: dict[int, TokenRanks], heads: str | int = 'mean'
) -> np.ndarray:
    """Draw an image and its clusters side by side, at the image's resolution.

    Args:
        image: Input of the backbone, (H, W, 3), uint8, RGB.
        recorded: Ranks by stage, as from :func:`record_ranks`, of this image or of a batch
            that begins with it.
        heads: As in :func:`cluster_maps`. With ``all``, each stage has a column of panels.

    Returns:
        A picture, uint8, RGB: the image and a panel for each stage. The legend under a panel has
        the number of clusters, their size in tokens, and the colors from the least similar
        cluster to the most similar.

    Raises:
        ValueError: If there is no such head.
    """
    columns = [[_panel(image, ['image', 'dark: least similar'], num_colors=0)]]
    for stage, ranks in recorded.items():
        maps = cluster_maps(ranks, heads)
        sizes = np.diff(cluster_bounds(maps[0].numel(), ranks.num_clusters))
        size = ' or '.join(str(n) for n in sorted({*sizes.tolist()}))
        column = []
        for i, clusters in enumerate(maps):
            which = {'all': f'head {i}', 'mean': 'mean of heads'}.get(str(heads), f'head {heads}')
            text = [f'stage {stage}, {which}', f'{len(sizes)} clusters of {size} tokens']
            painted = paint_clusters(clusters, len(sizes), image.shape[:2])
            column.append(_panel(painted, text, len(sizes)))
        columns.append(column)
    height, width = columns[0][0].shape[:2]
    rows = max(len(column) for column in columns)
    canvas = np.full(
        (rows * (height + GAP) - GAP, len(columns) * (width + GAP) - GAP, 3), 255, np.uint8
    )
    for x, column in enumerate(columns):
        for y, panel in enumerate(column):
            top, left = y * (height + GAP), x * (width + GAP)
            canvas[top : top + height, left : left + width] = panel
    return canvas


def _find_attention(backbone: BaseModule, stage: int, block: int) -> SECA:
    if stage not in range(1, len(backbone.stages) + 1):
        raise InputError(f'stages must be from 1 to {len(backbone.stages)}, got {stage}')
    attentions = [m for m in backbone.stages[stage - 1].modules() if isinstance(m, SECA)]
    if not attentions:
        raise InputError(f'stages must be stages with clusters, got {stage}, which has none')
    if block not in range(-len(attentions), len(attentions)):
        raise InputError(f'block must be below {len(attentions)} in stage {stage}, got {block}')
    return attentions[block]


def _panel(picture: np.ndarray, text: list[str], num_colors: int) -> np.ndarray:
    """Put a legend under a picture: lines of text and a bar of colors."""
    width = picture.shape[1]
    size = min(max(width // 20, 10), 24)
    line = round(1.4 * size)
    paper = Image.new('RGB', (width, 3 * line), 'white')
    draw = ImageDraw.Draw(paper)
    font = ImageFont.load_default(size)
    for i, words in enumerate(text):
        draw.text((2, i * line), words, fill='black', font=font)
    legend = np.array(paper)
    if num_colors:
        at_pixel = np.arange(width) * num_colors // width
        legend[2 * line + 2 :] = cluster_colors(num_colors)[at_pixel]
    return np.concatenate([picture, legend])


def image_normalization(cfg: Config) -> dict:
    """Return ``mean``, ``std`` and ``to_rgb`` of a config's data preprocessor."""
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    # mmdet's MultiBranchDataPreprocessor has the detector's inside.
    preprocessor = preprocessor.get('data_preprocessor') or preprocessor
    # mmpretrain calls `to_rgb` what mmdet and mmseg call `bgr_to_rgb`.
    to_rgb = preprocessor.get('bgr_to_rgb') or preprocessor.get('to_rgb')
    mean, std = preprocessor.get('mean') or [0, 0, 0], preprocessor.get('std') or [1, 1, 1]
    return dict(mean=mean, std=std, to_rgb=bool(to_rgb))
