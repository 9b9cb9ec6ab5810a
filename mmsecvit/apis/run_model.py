"""Predict with an exported model: ``python run_model.py MODEL.onnx IMAGES... --out DIR``.

This file needs onnxruntime, NumPy and Pillow, nothing else, and runs wherever it is copied.
"""

import argparse
import glob
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

try:
    import numpy as np
    import onnxruntime
    from PIL import Image, ImageDraw, ImageFont, ImageOps
except ImportError as error:
    needs = f'run_model.py needs more packages: pip install onnxruntime numpy pillow ({error})'
    if __name__ == '__main__':
        sys.exit(needs)
    raise ImportError(needs) from error

Size = Sequence[int]  # height and width

SUFFIXES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')


class InputError(ValueError):
    """A file, an image or an argument is not what it must be."""


class ExportedModel:
    """A classifier, segmenter or detector in an ONNX file of ``tools/deployment/export.py``.

    Its ``info`` is what the file says about itself, such as ``task``, ``classes`` and ``size``.

    Raises:
        InputError: If there is no such file, or it is another or an older one, or a backbone.
    """

    def __init__(self, path: str | Path) -> None:
        try:
            self._session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
        except Exception as error:  # those of onnxruntime have no other base class
            raise InputError(f'{path} must be an ONNX file that can be run: {error}') from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if 'mmsecvit' not in metadata:
            raise InputError(
                f'{path} must be a file that tools/deployment/export.py of mmsecvit wrote'
            )
        self.path, self.info = path, json.loads(metadata['mmsecvit'])
        if self.info['part'] != 'model':
            raise InputError(f'{path} must hold a whole model, but holds its {self.info["part"]}')
        expected = ['image', 'size'] if self.info['task'] == 'detection' else ['image']
        inputs = [x.name for x in self._session.get_inputs()]
        if inputs != expected:
            raise InputError(
                f'{path} must take {" and ".join(expected)}, but takes {" and ".join(inputs)}, as '
                'files of another version of mmsecvit: export it again'
            )

    def __call__(self, image: Any) -> dict[str, Any]:
        """Predict for a path, a Pillow image or an array, (H, W, 3), uint8, RGB.

        Returns:
            Of a classifier, ``pred_label``, ``pred_score``, ``pred_class``, ``pred_scores`` and
            all ``classes``; of a segmenter, the ``labels`` in the image, their ``classes`` and
            ``masks``; of a detector, ``labels``, ``classes``, ``scores``, ``bboxes`` (x1, y1, x2,
            y2) and perhaps ``masks``. Boxes are in pixels of the image, and masks are arrays, (H,
            W), bool. ``json.dumps(result, default=encode_mask)`` writes them as COCO's RLE.

        Raises:
            InputError: If the image cannot be read, or is not as the model takes it.
        """
        pixels = load_image(image)
        resized = self._transform(pixels)
        names = [output.name for output in self._session.get_outputs()]
        inputs = {'image': self._pad(resized)}
        if self.info['task'] == 'detection':
            inputs['size'] = np.array(resized.shape[:2], np.int64)  # without padding
        outputs = self._session.run(names, inputs)
        finish = getattr(self, f'_{self.info["task"]}')
        return finish(dict(zip(names, outputs, strict=True)), resized.shape[:2], pixels.shape[:2])

    def draw(self, image: Any, result: dict[str, Any], threshold: float = 0.3) -> Image.Image:
        """Draw a result into its image; of a detector, the scores from ``threshold`` on."""
        pixels, notes = load_image(image), []
        scores, palette = result.get('scores'), self.info['palette'] or [(220, 20, 60)]
        for i, label in enumerate(result.get('labels', ())):
            color = tuple(palette[label % len(palette)])
            if scores and scores[i] < threshold:
                continue
            if scores:
                notes.append((result['bboxes'][i], color, result['classes'][i], scores[i]))
            if 'masks' in result:
                mask = result['masks'][i]
                pixels[mask] = pixels[mask] // 2 + np.array(color, np.uint8) // 2
        if 'pred_class' in result:
            notes = [([0] * 4, (255, 255, 255), result['pred_class'], result['pred_score'])]
        picture = Image.fromarray(pixels)
        canvas = ImageDraw.Draw(picture)
        font = ImageFont.load_default(max(10, min(picture.size) // 40))
        for box, color, name, score in notes:
            text = f'{name} {score:.2f}'
            canvas.rectangle(box, outline=color, width=2)
            canvas.rectangle(canvas.textbbox(box[:2], text, font), fill=color)
            canvas.text(box[:2], text, text_color(color), font)
        return picture

    def _transform(self, pixels: np.ndarray) -> np.ndarray:
        """Resize and crop as the config's test pipeline, or to what fits into a fixed size."""
        for step in self.info['transforms']:
            old, scale = pixels.shape[:2], step.get('scale')
            if step['type'] == 'CenterCrop':
                h, w = map(min, old, step['crop_size'])
                top, left = round((old[0] - h) / 2), round((old[1] - w) / 2)
                pixels = pixels[top : top + h, left : left + w]
                continue
            if step['type'] == 'ResizeEdge':
                size = [int(scale * n / min(old)) for n in old]
            elif step['keep_ratio']:
                fits = [m / n for m, n in zip(self.info['size'] or (), old, strict=False)]
                ratio = min(max(scale) / max(old), min(scale) / min(old), *fits)
                size = [max(1, int(n * ratio + 0.5)) for n in old]
            else:
                size = scale[::-1]
            kind = step.get('interpolation', 'bilinear')
            if step.get('backend') == 'pillow':
                picture = Image.fromarray(pixels)
                pixels = np.array(picture.resize(size[::-1], Image.Resampling[kind.upper()]))
            elif kind == 'bilinear':
                pixels = resize_pixels(pixels, size)
            else:
                pixels = resize(pixels, size, kind).round().clip(0, 255).astype(np.uint8)
        return pixels

    def _pad(self, pixels: np.ndarray) -> np.ndarray:
        """Turn an image, (H, W, 3), into the input, (1, 3, H', W'): padded at bottom and right."""
        shape, size, divisor = [*pixels.shape[:2]], self.info['size'], self.info['divisor'] or 1
        whole = self.info['task'] == 'classification'  # not padded to a fixed size
        if size and (whole and shape != size or any(map(int.__gt__, shape, size))):
            raise InputError(f'{self.path} takes {size} pixels after its transforms, got {shape}')
        padded = np.empty((*(size or [-(-n // divisor) * divisor for n in shape]), 3), np.float32)
        padded[:] = self.info['pad_value']
        order = slice(None, None, -1 if self.info['channel_order'] == 'BGR' else 1)
        padded[: shape[0], : shape[1]] = pixels[..., order]
        return np.ascontiguousarray(padded.transpose(2, 0, 1)[None])

    def _classification(self, found: dict, *sizes: Size) -> dict[str, Any]:
        scores, classes = found['scores'][0].tolist(), self.info['classes']
        best = int(np.argmax(scores))
        result = dict(pred_label=best, pred_score=scores[best], pred_class=classes[best])
        return dict(classes=classes, pred_scores=scores, **result)

    def _segmentation(self, found: dict, resized: Size, size: Size) -> dict[str, Any]:
        inside = (0, ..., slice(resized[0]), slice(resized[1]))
        if found.get('scores', np.empty((1, 1))).shape[1] > 1:
            # As mmseg: resize the scores, then take the best; one class at a time, for memory.
            best, labels = np.full(size, -np.inf, np.float32), np.zeros(size, int)
            for label, score in enumerate(found['scores'][inside]):
                score = resize(score, size)
                labels[score > best] = label
                best = np.maximum(best, score)
        else:
            picture = Image.fromarray(found['labels'][inside].astype(np.int32))
            labels = np.array(picture.resize((size[1], size[0]), Image.Resampling.NEAREST))
        present = np.unique(labels).tolist()
        classes = [self.info['classes'][label] for label in present]
        return dict(classes=classes, labels=present, masks=[labels == i for i in present])

    def _detection(self, found: dict, resized: Size, size: Size) -> dict[str, Any]:
        (height, width), (new_height, new_width) = size, resized
        boxes = found['boxes'] / np.array([new_width / width, new_height / height] * 2, np.float32)
        labels = found['labels'].tolist()
        result = dict(classes=[self.info['classes'][label] for label in labels], labels=labels)
        result |= dict(scores=found['scores'].tolist(), bboxes=boxes.tolist())
        if 'masks' in found:
            result['masks'] = [
                paste_mask(mask, box, size) >= self.info['mask_threshold']
                for mask, box in zip(found['masks'], boxes, strict=True)
            ]
        return result


def load_image(image: Any) -> np.ndarray:
    """Return an image as a new array, (H, W, 3), uint8, RGB, turned as its EXIF data say."""
    if isinstance(image, np.ndarray):
        if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size:
            return image.copy()
        got = f'{image.dtype} of shape {image.shape}'
        if image.size and image.dtype.kind == 'f':
            got += f' with values from {image.min():.3g} to {image.max():.3g}'
        raise InputError(f'image must be (H, W, 3), uint8, with values from 0 to 255, got {got}')
    try:
        picture = image if isinstance(image, Image.Image) else Image.open(image)
        return np.array(ImageOps.exif_transpose(picture).convert('RGB'))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f'{image} cannot be read as an image: {error}') from error


def resize_pixels(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize (H, W, 3), uint8, to a height and width as OpenCV's bilinear resizing, to the bit.

    A gray level may move a token over the edge of a cluster. So this has OpenCV's integers: weights
    of 11 bits, of which the sum over a row's neighbors drops 4 before the sum over rows.
    """
    pixels = image.astype(np.int64)
    for axis in (1, 0):
        old, new = pixels.shape[axis], size[axis]
        center = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
        first = np.floor(center).astype(int)
        weight = (center - first).astype(np.float32)
        if axis == 1:
            weight[(first < 0) | (first >= old - 1)] = 0
        shape = (-1, *[1] * (2 - axis))
        near, far = (np.rint(w * 2048).astype(int).reshape(shape) for w in (1 - weight, weight))
        a, b = (pixels.take((first + i).clip(0, old - 1), axis) for i in (0, 1))
        if axis == 1:
            pixels = a * near + b * far
        else:
            pixels = (((a >> 4) * near >> 16) + ((b >> 4) * far >> 16) + 2) >> 2
    return pixels.astype(np.uint8)


def resize(image: np.ndarray, size: Size, kind: str = 'bilinear') -> np.ndarray:
    """Resize (H, W) or (H, W, C) to a height and width as OpenCV, but in float32, unrounded."""
    image = image.astype(np.float32)
    for axis, new in enumerate(size):
        old = image.shape[axis]
        center = (np.arange(new) + 0.5) * (old / new) - 0.5
        first, total = np.floor(center).astype(int), np.zeros(1, np.float32)
        for tap in (-1, 0, 1, 2) if kind == 'bicubic' else (0, 1):
            x = np.abs(center - first - tap).astype(np.float32)
            weights = 1 - x
            if kind == 'bicubic':
                far = ((3.75 - 0.75 * x) * x - 6) * x + 3
                weights = np.where(x < 1, (1.25 * x - 2.25) * x * x + 1, far)
            pixels = image.take((first + tap).clip(0, old - 1), axis)
            total = total + pixels * weights.reshape(-1, *[1] * (image.ndim - 1 - axis))
        image = total
    return image


def text_color(background: Sequence[int]) -> tuple[int, int, int]:
    """Return black or white, whichever can be read on a color, RGB."""
    # WCAG's luminance, with sRGB's curve taken as a power of 2.2: black and white have the same
    # contrast to 0.179.
    luminance = np.dot((np.array(background) / 255) ** 2.2, (0.2126, 0.7152, 0.0722))
    return (0, 0, 0) if luminance > 0.179 else (255, 255, 255)


def paste_mask(mask: np.ndarray, box: np.ndarray, size: Size) -> np.ndarray:
    """Interpolate a mask inside a box of an image; it is zero outside, and if a side is zero."""
    sides = []
    for start, end, old, new in zip(box[1::-1], box[:1:-1], mask.shape, size, strict=True):
        length = max(end - start, 1e-6)  # at the border, a clipped box may have none
        center = (np.arange(new) + 0.5 - start) / length * old - 0.5
        sides.append(np.maximum(0, 1 - np.abs(center[:, None] - np.arange(old))))
    return sides[0] @ mask @ sides[1].T


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Return COCO's compressed RLE of a mask, (H, W)."""
    flat = np.concatenate([[False], mask.ravel('F')])
    counts = np.diff([0, *np.flatnonzero(flat[1:] != flat[:-1]), mask.size]).tolist()
    text = ''
    for i, count in enumerate(counts):
        rest = count - counts[i - 2] if i > 2 else count
        more = True
        while more:  # five bits at a time, the lowest first; 32 says that more follow
            low, rest = rest & 31, rest >> 5
            more = rest != (-1 if low & 16 else 0)
            text += chr(48 + low + 32 * more)
    return dict(size=[*mask.shape], counts=text)


def find_images(images: Sequence[str]) -> list[Path]:
    """List the image files that files, folders (not their subfolders) and glob patterns name."""
    paths: list[Path] = []
    for given in images:
        if Path(given).is_dir():
            found = [path for path in Path(given).iterdir() if path.suffix.lower() in SUFFIXES]
        else:
            matching = [given] if Path(given).is_file() else glob.glob(given, recursive=True)
            found = [Path(path) for path in matching if Path(path).is_file()]
        if not found:
            raise InputError(f'images must be files, folders or patterns; {given} has none')
        paths += sorted(found)
    return [*{os.path.abspath(path): path for path in paths}.values()]


def run(model: str, images: Sequence[str], out: str) -> list[str]:
    """Write ``vis/NAME.png`` and ``preds/NAME.json`` for each image; return what is wrong."""
    paths: dict[str, Path] = {}
    for path in find_images(images):
        other = paths.setdefault(path.stem, path)
        if other != path:
            raise InputError(f'images must differ in names without suffix, got {other} and {path}')
    vis, preds = Path(out, 'vis'), Path(out, 'preds')
    files = [x for name in paths for x in (vis / f'{name}.png', preds / f'{name}.json')]
    taken = [x for x in files if x.exists()] + [x for x in (Path(out), vis, preds) if x.is_file()]
    if taken:
        raise InputError(
            f'out must be a folder without results of these images, but {taken[0]} exists'
        )
    exported = ExportedModel(model)
    for folder in (vis, preds):
        folder.mkdir(parents=True, exist_ok=True)
    faults = []
    for name, path in paths.items():
        try:
            result = exported(path)
        except InputError as error:
            faults.append(str(error))
            continue
        exported.draw(path, result).save(vis / f'{name}.png')
        text = json.dumps(dict(image=str(path), **result), default=encode_mask)
        (preds / f'{name}.json').write_text(text)
    done = f'{len(paths) - len(faults)} of {len(paths)} images'
    print(f'Predicted for {done}: pictures are in {vis}, predictions in {preds}.')
    return faults


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description='Predict for images with an exported model.')
    parser.add_argument('model', help='ONNX file of tools/deployment/export.py')
    parser.add_argument('images', nargs='+', help='image files, folders or quoted glob patterns')
    parser.add_argument('--out', default='outputs', help='folder for results (default: outputs)')
    try:
        faults = run(**vars(parser.parse_args()))
    except InputError as error:
        sys.exit(str(error))
    if faults:
        sys.exit('\n'.join(['Skipped what cannot be read or predicted for:', *faults]))
