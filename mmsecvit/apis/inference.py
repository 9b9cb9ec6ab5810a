"""Predict for image files: what tools/demo.py does."""

import glob
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.utils import track_iter_progress
from torch import nn
from torchvision.datasets.folder import IMG_EXTENSIONS

from ..checkpoints import CheckpointReader, check_weights, extract_state_dict
from ..datasets import type_name
from ..datasets.nodes import find_nodes
from ..errors import InputError
from .class_names import name_classes
from .config import check_operators, load_config
from .pictures import find_fault, name_results

# Takes the path of an image. Returns a picture of the prediction, (H, W, 3) uint8 RGB, and the
# prediction as plain data.
Predict = Callable[[str], tuple[np.ndarray, dict]]

Known = dict[str, list]  # classes and palette, as name_classes returns them


def infer(
    images: Sequence[str | Path],
    config: str | Path,
    checkpoint: str,
    out_dir: str | Path,
    trust: bool = False,
) -> dict[Path, str]:
    """Predict with a detector, segmenter or classifier, by the inferencer of its toolbox.

    For each image, write the drawn prediction to ``vis/NAME.png``, and the prediction as data to
    ``preds/NAME.json``; see :func:`mmsecvit.apis.pictures.name_results`. Every JSON file names the
    image and the classes; see :func:`mmsecvit.apis.class_names.name_classes`. In addition, it has:

    - of a detector, mmdet's ``labels``, ``scores``, ``bboxes`` (x1, y1, x2, y2 in pixels) and
      ``masks``;
    - of a segmenter, ``labels`` and ``masks`` of the classes that are in the image;
    - of a classifier, mmpretrain's ``pred_label``, ``pred_score`` and ``pred_scores``.

    Masks are COCO's RLE.

    Args:
        images: Files, folders (the image files in them, not in their subfolders) and glob
            patterns, in which ``**`` stands for any depth of folders.
        config: Path of the config file.
        checkpoint: Weights of the whole model, a file or an http(s) address.
        out_dir: New or empty folder.
        trust: Whether to execute code that the checkpoint may hold.

    Returns:
        The files that could not be read as an image, or that the model does not take, and why.

    Raises:
        FileNotFoundError: If there are no images, or the config or the checkpoint does not exist.
        FileExistsError: If ``out_dir`` holds files.
        InputError: If the config is of no known toolbox, or the checkpoint does not belong to its
            model.
    """
    paths = find_images(images)
    out_dir = Path(out_dir)
    if out_dir.is_file() or (out_dir.exists() and any(out_dir.iterdir())):
        has = 'is a file' if out_dir.is_file() else 'holds files'
        raise FileExistsError(f'out_dir must be a new or empty folder, but {out_dir} {has}')
    cfg = load_config(config)
    if cfg.get('default_scope') not in _INFERENCERS:
        raise InputError(
            f'config must have one of {", ".join(_INFERENCERS)} as its default_scope, '
            f'got {cfg.get("default_scope")}'
        )
    # The inferencers of OneDL's mmdet 3.5.1 and of mmseg <= 1.2.2 (OneDL's <= 1.4.2) find loaders
    # by names, not by classes.
    for _, transform in find_nodes(cfg.get('test_dataloader'), '', _is_loader):
        transform.type = type_name(transform)
    check_operators(cfg)
    reader = CheckpointReader(trust)
    content = reader.read(checkpoint)
    # Without names in the checkpoint, the inferencers take those of COCO, Cityscapes or ImageNet.
    weights = extract_state_dict(content, checkpoint)
    known = name_classes(cfg, content.get('meta') or {})
    content.clear()
    content.update(state_dict=weights, meta=dict(dataset_meta=known))
    with reader.serving_mmengine():
        model, predict = _INFERENCERS[cfg.default_scope](cfg, checkpoint, known)
    # The inferencer loads what fits and skips the rest.
    check_weights(model, content, checkpoint, config)
    del content, weights
    for folder in ('vis', 'preds'):
        (out_dir / folder).mkdir(parents=True)
    unreadable: dict[Path, str] = {}
    unknown: Exception | None = None
    names = name_results(paths)
    for path in track_iter_progress(paths):
        fault = find_fault(path)
        if fault:
            unreadable[path] = fault
            continue
        try:
            picture, prediction = predict(str(path))
        except (ValueError, RuntimeError) as error:  # such as of an image that is too small
            unreadable[path] = ' '.join(str(error).split()) or type(error).__name__
            unknown = unknown or (None if isinstance(error, InputError) else error)
            continue
        name = names[str(path)]
        mmcv.imwrite(mmcv.rgb2bgr(picture), f'{out_dir}/vis/{name}.png')
        record = Path(f'{out_dir}/preds/{name}.json')
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(dict(image=str(path), **prediction)))
    if unknown and len(unreadable) == len(paths):
        raise unknown  # The fault may not be the images'.
    return unreadable


def find_images(images: Sequence[str | Path]) -> list[Path]:
    """List the image files that files, folders and glob patterns name.

    Raises:
        FileNotFoundError: If one of them names no file.
    """
    paths: list[Path] = []
    for given in images:
        if Path(given).is_dir():
            found = [p for p in Path(given).iterdir() if p.suffix.lower() in IMG_EXTENSIONS]
        elif Path(given).is_file():
            found = [Path(given)]
        else:
            matching = map(Path, glob.glob(str(given), recursive=True))
            found = [path for path in matching if path.is_file()]
        if not found:
            raise FileNotFoundError(f'images must be files, folders or patterns; {given} has none')
        paths += sorted(found)
    return list({os.path.abspath(path): path for path in reversed(paths)}.values())[::-1]


def _is_loader(node: dict) -> bool:
    is_class = not isinstance(node.get('type', ''), str)
    return is_class and type_name(node) in ('LoadImageFromFile', 'LoadAnnotations')


def _detector(cfg: Config, checkpoint: str, known: Known) -> tuple[nn.Module, Predict]:
    from mmdet.apis import DetInferencer

    # Without a palette, the inferencer builds the data set to look for one.
    inferencer = DetInferencer(cfg, checkpoint, palette=known['palette'])
    inferencer.show_progress = False  # see _INFERENCERS

    def predict(path: str) -> tuple[np.ndarray, dict]:
        results = inferencer(path, return_vis=True)
        (prediction,) = results['predictions']
        classes = _name(prediction.get('labels', ()), known)
        return results['visualization'][0], dict(classes=classes, **prediction)

    return inferencer.model, predict


def _segmenter(cfg: Config, checkpoint: str, known: Known) -> tuple[nn.Module, Predict]:
    from mmseg.apis import MMSegInferencer
    from pycocotools import mask as coco_mask

    inferencer = MMSegInferencer(cfg, checkpoint)
    inferencer.show_progress = False  # see _INFERENCERS

    def predict(path: str) -> tuple[np.ndarray, dict]:
        results = inferencer(path, return_vis=True)
        segmentation = results['predictions'].astype(np.int64)  # a sigmoid's are floats
        labels = np.unique(segmentation).tolist()
        masks = [coco_mask.encode(np.asfortranarray(segmentation == i, np.uint8)) for i in labels]
        prediction = dict(
            classes=_name(labels, known),
            labels=labels,
            masks=[dict(mask, counts=mask['counts'].decode()) for mask in masks],
        )
        return results['visualization'], prediction

    return inferencer.model, predict


def _classifier(cfg: Config, checkpoint: str, known: Known) -> tuple[nn.Module, Predict]:
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


def _name(labels: Sequence[int], known: Known) -> list[str]:
    names = dict(enumerate(known['classes']))
    return [names.get(label, str(label)) for label in labels]


# A call of an inferencer draws a progress bar, here for each image. mmdet <= 3.3.0 (OneDL's
# <= 3.5.1) and mmseg <= 1.2.2 (OneDL's <= 1.4.2) can switch it off by an attribute, mmpretrain
# <= 1.2.0 (OneDL's <= 1.3.6) cannot. Call all three plainly when they have an argument for it.
_INFERENCERS = {'mmdet': _detector, 'mmseg': _segmenter, 'mmpretrain': _classifier}
