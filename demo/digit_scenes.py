"""Scenes of handwritten digits in COCO's format: instance segmentation without a download.

The digits are those of scikit-learn's ``load_digits``: 1,797 grey images of 8 x 8 pixels, written
by people, which lie inside its wheel.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

try:
    from sklearn.datasets import load_digits
except ImportError as error:
    raise ImportError('digit scenes need scikit-learn: run `pip install scikit-learn`') from error

SCENE_SIZE = 128  # height and width of a scene, pixels
DIGITS_PER_SCENE = (2, 5)  # least and most
DIGIT_SIZES = (32, 52)  # least and most edge of an enlarged 8x8 image, pixels
NUM_DIGITS = 1797  # in load_digits
VAL_DIGITS = 360  # of them set aside for val: a fifth
MIN_VISIBLE = 0.95  # share of each digit's pixels that later digits must not hide
MIN_CONTRAST = 90  # least distance of a digit's luminance from its background's, of 255
INK = 0.15  # a pixel belongs to a digit where its ink, 0 to 1, exceeds this

SETTINGS_FILE = 'settings.json'
SPLITS = ('train', 'val')


class Scene(NamedTuple):
    """One scene and what is in it, in drawing order: a later digit hides an earlier one.

    Attributes:
        image: (SCENE_SIZE, SCENE_SIZE, 3) uint8, RGB.
        masks: (N, SCENE_SIZE, SCENE_SIZE) bool: the visible pixels of each digit, disjoint.
        digits: (N,) int: each digit's index into ``load_digits``.
    """

    image: np.ndarray
    masks: np.ndarray
    digits: np.ndarray


def split_digits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Divide the indices of the 1,797 digits into two disjoint sets by a seeded permutation.

    Args:
        seed: Seed of the permutation, >= 0.

    Returns:
        The indices for train, (1437,) int64, and for val, (360,) int64.
    """
    order = np.random.default_rng(seed).permutation(NUM_DIGITS)
    return order[VAL_DIGITS:], order[:VAL_DIGITS]


def make_digit_scenes(
    out_dir: str | os.PathLike,
    num_train: int,
    num_val: int,
    seed: int = 0,
    log: Callable[[str], Any] = print,
) -> bool:
    """Write a data set of digit scenes: 128 x 128 RGB images, and COCO JSON with boxes and masks.

    The layout is ``OUT/train/*.png``, ``OUT/val/*.png`` and ``OUT/annotations/{train,val}.json``.
    Train and val are composed from disjoint digits. Boxes, areas and masks are those of the
    visible pixels; each annotation carries its digit's index into ``load_digits`` as
    ``digit_index``. The same settings give the same files.

    A set that was interrupted is completed by calling this again with the same settings: the
    annotation files are written last.

    Args:
        out_dir: OUT, made where it does not exist.
        num_train: Scenes for training, >= 1.
        num_val: Scenes for validation, >= 1.
        seed: Seed of everything that is drawn by chance, >= 0.
        log: Takes each line on progress.

    Returns:
        True if the set was written, False if it was complete already.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is too small.
        FileExistsError: If OUT holds anything but a set, complete or begun, of the same settings.
    """
    for name, value, least in (
        ('num_train', num_train, 1),
        ('num_val', num_val, 1),
        ('seed', seed, 0),
    ):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f'{name} must be an integer, got {value!r}')
        if value < least:
            raise ValueError(f'{name} must be {least} or more, got {value}')
    settings: dict[str, Any] = dict(
        description='mmsecvit digit scenes', version=1, train=num_train, val=num_val, seed=seed
    )

    out = Path(out_dir)
    if out.exists() and not (out.is_dir() and _may_write(out, settings)):
        raise FileExistsError(
            f'{out} exists and is not a set of digit scenes with these settings: '
            'choose another folder, or remove it'
        )
    if _is_complete(out, settings):
        log(f'{out} already holds these {num_train} train and {num_val} val scenes.')
        return False

    # The settings come first: by them a later call knows an interrupted set as its own.
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / SETTINGS_FILE, settings)
    for folder in (*SPLITS, 'annotations'):
        (out / folder).mkdir(exist_ok=True)
    bunch = load_digits()
    contents = {}
    for split_id, (split, pool) in enumerate(zip(SPLITS, split_digits(seed), strict=True)):
        made = (
            # A generator for each scene: scene i does not depend on how many there are.
            _make_scene(np.random.default_rng([seed, split_id, i]), pool, bunch.images)
            for i in range(settings[split])
        )
        scenes = _with_progress(made, f'{split} scenes', settings[split], log)
        contents[split] = _write_scenes(scenes, out / split, bunch.target, settings)
    for split, content in contents.items():
        _write_json(out / 'annotations' / f'{split}.json', content)
    log(f'Wrote {num_train} train and {num_val} val scenes to {out}.')
    return True


def _make_scene(rng: np.random.Generator, pool: np.ndarray, images: np.ndarray) -> Scene:
    count = rng.integers(*DIGITS_PER_SCENE, endpoint=True)
    digits = rng.choice(pool, count, replace=False)
    ink = _place(rng, images[digits] / 16)
    return Scene(_paint(rng, ink), _visible(ink > INK), digits)


def _place(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Put digits, enlarged, on a scene by chance until none hides too much of another.

    Args:
        rng: Source of chance.
        images: (N, 8, 8), ink from 0 to 1.

    Returns:
        The ink of each digit on the scene, (N, SCENE_SIZE, SCENE_SIZE).
    """
    ink = np.zeros((len(images), SCENE_SIZE, SCENE_SIZE))
    while not all(_place_one(rng, ink[: i + 1], image) for i, image in enumerate(images)):
        pass  # the first digits lie such that there is no room for the last: begin again
    return ink


def _place_one(rng: np.random.Generator, ink: np.ndarray, image: np.ndarray) -> bool:
    """Write a digit's ink into the last of ``ink``; tell whether room was found for it."""
    for _ in range(50):
        size = int(rng.integers(*DIGIT_SIZES, endpoint=True))
        top, left = rng.integers(0, SCENE_SIZE - size, 2, endpoint=True)
        ink[-1] = 0
        ink[-1, top : top + size, left : left + size] = _enlarge(image, size)
        whole = ink > INK
        if (_visible(whole).sum((1, 2)) >= MIN_VISIBLE * whole.sum((1, 2))).all():
            return True
    return False


def _visible(whole: np.ndarray) -> np.ndarray:
    """Take from each mask, (N, H, W) bool, what later masks cover."""
    covered = np.logical_or.accumulate(whole[::-1])[::-1]
    visible = whole.copy()
    visible[:-1] &= ~covered[1:]
    return visible


def _paint(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """Colour a background and, one after the other, the digits on it: (H, W, 3) uint8, RGB."""
    background = rng.uniform(40, 215) + rng.uniform(-25, 25, 3)
    canvas = background + _texture(rng)
    # Edges are soft, and half-way through where the masks end.
    for alpha in np.clip((ink - INK) / 0.3 + 0.5, 0, 1)[..., None]:
        canvas += alpha * (_digit_colour(rng, background) - canvas)
    canvas += rng.normal(0, 3, canvas.shape)
    return np.clip(canvas, 0, 255).round().astype(np.uint8)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Smooth random blotches of low contrast, (SCENE_SIZE, SCENE_SIZE, 1)."""
    cells = rng.integers(4, 24)
    return _enlarge(rng.uniform(-8, 8, (cells, cells)), SCENE_SIZE)[..., None]


def _digit_colour(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """Any colour whose luminance stands off the background's, (3,)."""
    luminance = np.array([0.299, 0.587, 0.114])
    while True:
        colour = rng.uniform(0, 255, 3)
        if abs((colour - background) @ luminance) >= MIN_CONTRAST:
            return colour


def _enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """Enlarge a square image to (size, size), bilinearly, with aligned pixel centres.

    Written out: image libraries differ by version in this, and the scenes must not.
    """
    n = len(image)
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))
    return weights @ image @ weights.T


def _write_scenes(
    scenes: Iterable[Scene], folder: Path, labels: np.ndarray, settings: dict
) -> dict:
    """Write the images and return the content of their annotation file.

    Args:
        scenes: What to write.
        folder: Where to write the images to.
        labels: The class, 0 to 9, of each digit of ``load_digits``.
        settings: Goes into the annotation file as its ``info``.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene in enumerate(scenes):
        name = f'{image_id:06d}.png'
        # Noise packs hardly better at higher levels.
        Image.fromarray(scene.image).save(folder / name, compress_level=1)
        images.append(dict(id=image_id, file_name=name, height=SCENE_SIZE, width=SCENE_SIZE))
        for mask, digit in zip(scene.masks, scene.digits, strict=True):
            annotations.append(
                dict(
                    id=len(annotations) + 1,  # pycocotools takes 0 for 'not matched'
                    image_id=image_id,
                    category_id=int(labels[digit]) + 1,
                    iscrowd=0,
                    digit_index=int(digit),
                    **_outline(mask),
                )
            )
    categories = [dict(id=i + 1, name=str(i)) for i in range(10)]
    return dict(info=settings, images=images, annotations=annotations, categories=categories)


def _outline(mask: np.ndarray) -> dict:
    """Get COCO's box (x, y, width, height), area and run-length code of a mask, in pixels."""
    ys, xs = np.nonzero(mask)
    left, top = int(xs.min()), int(ys.min())
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(
        bbox=[left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top],
        area=int(mask.sum()),
        segmentation=dict(size=code['size'], counts=code['counts'].decode('ascii')),
    )


def _with_progress(
    items: Iterable[Any], what: str, total: int, log: Callable[[str], Any]
) -> Iterable[Any]:
    for count, item in enumerate(items, 1):
        yield item
        if count % 500 == 0 or count == total:
            log(f'{what}: {count} of {total}')


def _may_write(out: Path, settings: dict) -> bool:
    """Tell whether a folder is empty or was begun by a call with these settings."""
    return not any(out.iterdir()) or _read_json(out / SETTINGS_FILE) == settings


def _is_complete(out: Path, settings: dict) -> bool:
    """Tell whether both annotation files stand, are of these settings and have all their images."""
    contents = {split: _read_json(out / 'annotations' / f'{split}.json') for split in SPLITS}
    return all(
        isinstance(content, dict)
        and content.get('info') == settings
        and all((out / split / image['file_name']).is_file() for image in content['images'])
        for split, content in contents.items()
    )


def _read_json(path: Path) -> Any:
    """Read a file, or get None where there is none or it is no JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f'{path.name}.part')
    part.write_text(json.dumps(content))
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write scenes of handwritten digits with boxes and masks, in COCO's format."
    )
    parser.add_argument('out', nargs='?', default='data/digit_scenes', help='folder to write to')
    parser.add_argument('--num-train', type=int, default=2000, help='scenes for training')
    parser.add_argument('--num-val', type=int, default=100, help='scenes for validation')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    try:
        make_digit_scenes(args.out, args.num_train, args.num_val, args.seed)
    except (ValueError, FileExistsError) as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
