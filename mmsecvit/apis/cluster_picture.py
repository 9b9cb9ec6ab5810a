"""Draw the clusters of an image file: what tools/analysis/visualize_clusters.py does."""

from collections.abc import Sequence
from pathlib import Path

import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from ..checkpoints import CheckpointReader
from ..errors import InputError
from ..visualization import draw_clusters, image_normalization, record_ranks
from .config import load_config
from .models import find_configs
from .pictures import find_fault
from .pretrained import find_backbone_config, set_pretrained

# Mean and standard deviation of ImageNet, as in mmpretrain's configs.
NORMALIZATION = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)


def visualize_clusters(
    image: str | Path,
    out: str | Path,
    config: str | Path | None = None,
    checkpoint: str | None = None,
    stages: Sequence[int] = (1, 2, 3),
    block: int = -1,
    heads: str | int = 'mean',
    trust: bool = False,
) -> Path:
    """Draw the clusters of an image, at the size of the image.

    Args:
        image: Image file.
        out: PNG file to write, which must not exist yet.
        config: Config file of a detector, segmenter or classifier with a SecViT backbone. Defaults
            to SecViT-T, the released variant.
        checkpoint: Weights of the backbone or of a whole model with it, also as the authors
            released them. Defaults to None: random weights.
        stages: Stages to draw, counted from 1.
        block: Which block of each stage, counted from 0; -1 is the last.
        heads: ``mean``, ``all``, or a head's number from 0, as in
            :func:`mmsecvit.visualization.cluster_maps`.
        trust: Whether to execute code that the checkpoint may hold.

    Returns:
        The path of the picture.

    Raises:
        FileNotFoundError: If the image, the config or the checkpoint does not exist.
        FileExistsError: If ``out`` exists.
        ValueError: If the image cannot be read, the checkpoint does not fit, or the backbone has
            no such stage, block or head.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f'out must be a new file, but {out} exists')
    if not Path(image).is_file():
        raise FileNotFoundError(f'image {image} does not exist')
    fault = find_fault(image)
    if fault:
        raise InputError(f'image {image} must be readable, but is not: {fault}')
    pixels = mmcv.imread(image)
    cfg = load_config(config) if config else _default_config()
    reader = CheckpointReader(trust)
    if checkpoint:
        set_pretrained(cfg, checkpoint, reader)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope')), reader.serving_mmengine():
        backbone = MODELS.build([*find_backbone_config(cfg).values()][-1])
        if checkpoint:
            backbone.init_weights()
    normalization = {k: np.array(v) for k, v in image_normalization(cfg).items()}
    x = torch.from_numpy(mmcv.imnormalize(pixels, **normalization))
    backbone.eval()
    with torch.no_grad(), record_ranks(backbone, stages, block) as recorded:
        backbone(x.permute(2, 0, 1)[None])
    picture = draw_clusters(mmcv.bgr2rgb(pixels), recorded, heads)
    mmcv.imwrite(mmcv.rgb2bgr(picture), str(out))
    return out


def _default_config() -> Config:
    """Return the model of SecViT-T, from a config that needs no toolbox."""
    cfg = Config.fromfile(find_configs() / '_base_' / 'models' / 'classifier_secvit.py')
    cfg.model.data_preprocessor = NORMALIZATION
    return cfg
