"""Predict for image files: what tools/demo.py does."""

import glob
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.utils import track_iter_progress
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..checkpoints import CheckpointReader, check_weights
from ..errors import InputError
from .config import check_operators, load_config

# Takes the path of an image. Returns a picture of the prediction, (H, W, 3) uint8 RGB, and the
# prediction as plain data.
Predict = Callable[[str], tuple[np.ndarray, dict]]


def infer(
    images: Sequence[str | Path],
    config: str | Path,
    checkpoint: str,
    out_dir: str | Path,
    trust: bool = False,
) -> list[Path]:
    """Predict with a detector, segmenter or classifier, by the inferencer of its toolbox.

    For each image, write the drawn prediction to ``vis/NAME.png``, and the prediction as data to
    ``preds/NAME.json``. Every JSON file names the image and the classes. In addition, it has:

    - of a detector, mmdet's ``labels``, ``scores``, ``bboxes`` (x1, y1, x2, y2 in pixels) and
      ``masks``;
    - of a segmenter, ``labels`` and ``masks`` of the classes that are in the image;
    - of a classifier, mmpretrain's ``pred_label``, ``pred_score`` and ``pred_scores``.

    Masks are COCO's RLE.

    Args:
        images: Files, folders (the image files in them, not in their subfolders) and glob
            patterns.
        config: Path of the config file.
        checkpoint: Weights of the whole model, a file or an http(s) address.
        out_dir: New or empty folder.
        trust: Whether to execute code that the checkpoint may hold.

    Returns:
        The files that could not be read as an image.

    Raises:
        FileNotFoundError: If there are no images, or the config or the checkpoint does not exist.
        FileExistsError: If ``out_dir`` holds files.
        ValueError: If two images have the same name, the config is of no known toolbox, or the
            checkpoint does not belong to its model.
    """
    paths = find_images(images)
    out_dir = Path(out_dir)
    if out_dir.exists() and any(out_dir.iterdir()):
        raise FileExistsError(f'out_dir must be a new or empty folder, but {out_dir} holds files')
    cfg = load_config(config)
    if cfg.get('default_scope') not in _INFERENCERS:
        raise InputError(
            f'config must have one of {", ".join(_INFERENCERS)} as its default_scope, '
            f'got {cfg.get("default_scope")}'
        )
    check_operators(cfg)
    reader = CheckpointReader(trust)
    content = reader.read(checkpoint)
    with reader.serving_mmengine():
        model, predict = _INFERENCERS[cfg.default_scope](cfg, checkpoint)
    # The inferencer loads what fits and skips the rest.
    check_weights(model, content, checkpoint, config)
    del content
    for name in ('vis', 'preds'):
        (out_dir / name).mkdir(parents=True)
    unreadable = []
    for path in track_iter_progress(paths):
        if not _is_readable(path):
            unreadable.append(path)
            continue
        picture, prediction = predict(str(path))
        mmcv.imwrite(mmcv.rgb2bgr(picture), str(out_dir / 'vis' / f'{path.stem}.png'))
        record = json.dumps(dict(image=str(path), **prediction))
        (out_dir / 'preds' / f'{path.stem}.json').write_text(record)
    return unreadable


def find_images(images: Sequence[str | Path]) -> list[Path]:
    """List the image files that files, folders and glob patterns name.

    Raises:
        FileNotFoundError: If one of them names no file.
        ValueError: If two files have the same name in different folders or with different
            suffixes: the results of one would replace those of the other.
    """
    paths: dict[str, Path] = {}
    for given in images:
        if Path(given).is_dir():
            found = [p for p in Path(given).iterdir() if p.suffix.lower() in IMG_EXTENSIONS]
        elif Path(given).is_file():
            found = [Path(given)]
        else:
            found = [Path(name) for name in glob.glob(str(given))]
        if not found:
            raise FileNotFoundError(f'images must be files, folders or patterns; {given} has none')
        for path in sorted(found):
            if paths.setdefault(path.stem, path) != path:
                raise InputError(
                    f'images must have different names, got {paths[path.stem]} and {path}'
                )
    return list(paths.values())


def _detector(cfg: Config, checkpoint: str) -> tuple[nn.Module, Predict]:
    from mmdet.apis import DetInferencer

    inferencer = DetInferencer(cfg, checkpoint)
    inferencer.show_progress = False  # see _INFERENCERS

    def predict(path: str) -> tuple[np.ndarray, dict]:
        results = inferencer(path, return_vis=True)
        (prediction,) = results['predictions']
        names = inferencer.model.dataset_meta['classes']
        classes = [names[label] for label in prediction['labels']]
        return results['visualization'][0], dict(classes=classes, **prediction)

    return inferencer.model, predict


def _segmenter(cfg: Config, checkpoint: str) -> tuple[nn.Module, Predict]:
    from mmseg.apis import MMSegInferencer
    from pycocotools import mask as coco_mask

    inferencer = MMSegInferencer(cfg, checkpoint)
    inferencer.show_progress = False  # see _INFERENCERS

    def predict(path: str) -> tuple[np.ndarray, dict]:
        results = inferencer(path, return_vis=True)
        segmentation = results['predictions']
        labels = np.unique(segmentation).tolist()
        masks = [coco_mask.encode(np.asfortranarray(segmentation == i, np.uint8)) for i in labels]
        names = inferencer.model.dataset_meta['classes']
        prediction = dict(
            classes=[names[label] for label in labels],
            labels=labels,
            masks=[dict(mask, counts=mask['counts'].decode()) for mask in masks],
        )
        return results['visualization'], prediction

    return inferencer.model, predict


def _classifier(cfg: Config, checkpoint: str) -> tuple[nn.Module, Predict]:
    from mmpretrain.apis import ImageClassificationInferencer
    from mmpretrain.visualization import UniversalVisualizer

    inferencer = ImageClassificationInferencer(cfg, checkpoint)
    visualizer = UniversalVisualizer()

    def predict(path: str) -> tuple[np.ndarray, dict]:
        # The steps of a call, without its progress bar: see _INFERENCERS.
        (data,) = inferencer.preprocess([path])
        samples = inferencer.forward(data)
        (prediction,) = inferencer.postprocess(samples, visualization=None)
        picture = visualizer.visualize_cls(
            mmcv.imread(path, channel_order='rgb'),
            samples[0],
            classes=inferencer.classes,
            draw_gt=False,
        )
        scores = prediction['pred_scores'].tolist()
        return picture, {'classes': inferencer.classes, **prediction, 'pred_scores': scores}

    return inferencer.model, predict


# A call of an inferencer draws a progress bar, here for each image. mmdet <= 3.3.0 (OneDL's
# <= 3.5.1) and mmseg <= 1.2.2 (OneDL's <= 1.4.2) can switch it off by an attribute, mmpretrain
# <= 1.2.0 (OneDL's <= 1.3.6) cannot. Call all three plainly when they have an argument for it.
_INFERENCERS = {'mmdet': _detector, 'mmseg': _segmenter, 'mmpretrain': _classifier}


def _is_readable(path: Path) -> bool:
    try:
        return mmcv.imread(path) is not None
    except (OSError, cv2.error):
        return False
