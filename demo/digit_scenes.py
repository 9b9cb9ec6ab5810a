"""Write scenes of handwritten digits with boxes and masks, in COCO's format.

The digits come with scikit-learn (``load_digits``): 1,797 gray images of 8 x 8 pixels. Nothing is
downloaded.
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

SCENE_SIZE = 128  # height and width of a scene in pixels
DIGITS_PER_SCENE = (2, 5)  # minimum and maximum
DIGIT_SIZES = (32, 52)  # minimum and maximum edge of an enlarged 8x8 image in pixels
NUM_DIGITS = 1797  # in load_digits
VAL_DIGITS = 360  # digits for val only: a fifth
MIN_VISIBLE = 0.95  # share of each digit's pixels that other digits must not hide
MIN_CONTRAST = 90  # minimum difference, of 255, between the luminances of digit and background
INK = 0.15  # a pixel belongs to a digit if its ink, 0 to 1, exceeds this

SETTINGS_FILE = 'settings.json'
SPLITS = ('train', 'val')


class Scene(NamedTuple):
    """A scene and its digits in drawing order, in which a later digit hides an earlier one.

    Attributes:
        image: (SCENE_SIZE, SCENE_SIZE, 3) uint8, RGB.
        masks: Visible pixels of each digit, (N, SCENE_SIZE, SCENE_SIZE) bool, disjoint.
        digits: Index of each digit in ``load_digits``, (N,) int.
    """

    image: np.ndarray
    masks: np.ndarray
    digits: np.ndarray


def split_digits(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Split the indices of the 1,797 digits by a seeded permutation.

    Args:
        seed: Seed of the permutation, >= 0.

    Returns:
        The indices for train, (1437,) int64, and for val, (360,) int64; no index is in both.
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
    """Write a data set of digit scenes: RGB images of 128 x 128 pixels and COCO's JSON files.

    The layout is ``OUT/train/*.png``, ``OUT/val/*.png`` and ``OUT/annotations/{train,val}.json``.
    No digit is in both train and val. Boxes, areas and masks are those of the visible pixels. Each
    annotation has its digit's index in ``load_digits`` as ``digit_index``. The same settings give
    the same files.

    To complete an interrupted set, call this again with the same settings: the annotation files are
    written last.

    Args:
        out_dir: OUT, which is created if needed.
        num_train: Number of scenes for training, >= 1.
        num_val: Number of scenes for validation, >= 1.
        seed: Seed of all random numbers, >= 0.
        log: Function that gets each line about the progress.

    Returns:
        True if the set was written, False if it was complete before.

    Raises:
        TypeError: If a number is not an integer.
        ValueError: If a number is too small.
        FileExistsError: If OUT has other content than a complete or interrupted set of the same
            settings.
        ImportError: If scikit-learn is not installed.
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

    bunch = _load_digits()
    # The settings are written first: they tell a later call that it may complete this set.
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / SETTINGS_FILE, settings)
    for folder in (*SPLITS, 'annotations'):
        (out / folder).mkdir(exist_ok=True)
    contents = {}
    for split_id, (split, pool) in enumerate(zip(SPLITS, split_digits(seed), strict=True)):
        made = (
            # Each scene has a random generator, so it does not depend on their number.
            _make_scene(np.random.default_rng([seed, split_id, i]), pool, bunch.images)
            for i in range(settings[split])
        )
        scenes = _with_progress(made, f'{split} scenes', settings[split], log)
        contents[split] = _write_scenes(scenes, out / split, bunch.target, settings)
    for split, content in contents.items():
        _write_json(out / 'annotations' / f'{split}.json', content)
    log(f'Wrote {num_train} train and {num_val} val scenes to {out}.')
    return True


def _load_digits() -> Any:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            'digit scenes need scikit-learn: run `pip install scikit-learn`'
        ) from error
    return load_digits()


def _make_scene(rng: np.random.Generator, pool: np.ndarray, images: np.ndarray) -> Scene:
    count = rng.integers(*DIGITS_PER_SCENE, endpoint=True)
    digits = rng.choice(pool, count, replace=False)
    ink = _place(rng, images[digits] / 16)
    return Scene(_paint(rng, ink), _visible(ink > INK), digits)


def _place(rng: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Enlarge digits and place them at random so that none hides too much of another.

    Args:
        rng: Random number generator.
        images: Ink from 0 to 1, (N, 8, 8).

    Returns:
        Ink of each digit on the scene, (N, SCENE_SIZE, SCENE_SIZE).
    """
    ink = np.zeros((len(images), SCENE_SIZE, SCENE_SIZE))
    while not all(_place_one(rng, ink[: i + 1], image) for i, image in enumerate(images)):
        pass  # The first digits leave no room for the last: start again.
    return ink


def _place_one(rng: np.random.Generator, ink: np.ndarray, image: np.ndarray) -> bool:
    """Place a digit in the last plane of ``ink`` and return whether there was room for it."""
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
    """Remove from each mask, (N, H, W) bool, the pixels that later masks cover."""
    covered = np.logical_or.accumulate(whole[::-1])[::-1]
    visible = whole.copy()
    visible[:-1] &= ~covered[1:]
    return visible


def _paint(rng: np.random.Generator, ink: np.ndarray) -> np.ndarray:
    """Paint a background and then the digits in their order: (H, W, 3) uint8, RGB."""
    background = rng.uniform(40, 215) + rng.uniform(-25, 25, 3)
    canvas = background + _texture(rng)
    # Edges are soft: at the border of a mask the ink covers half.
    for alpha in np.clip((ink - INK) / 0.3 + 0.5, 0, 1)[..., None]:
        canvas += alpha * (_draw_color(rng, background) - canvas)
    canvas += rng.normal(0, 3, canvas.shape)
    return np.clip(canvas, 0, 255).round().astype(np.uint8)


def _texture(rng: np.random.Generator) -> np.ndarray:
    """Return a smooth random texture of low contrast, (SCENE_SIZE, SCENE_SIZE, 1)."""
    cells = rng.integers(4, 24)
    return _enlarge(rng.uniform(-8, 8, (cells, cells)), SCENE_SIZE)[..., None]


def _draw_color(rng: np.random.Generator, background: np.ndarray) -> np.ndarray:
    """Draw a color with enough contrast to the background, (3,)."""
    luminance = np.array([0.299, 0.587, 0.114])
    while True:
        color = rng.uniform(0, 255, 3)
        if abs((color - background) @ luminance) >= MIN_CONTRAST:
            return color


def _enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """Resize a square image to (size, size): bilinear, with ``align_corners=False``.

    This uses no image library, since their results differ between versions.
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
        scenes: Scenes to write.
        folder: Folder for the images.
        labels: Class, 0 to 9, of each digit in ``load_digits``.
        settings: ``info`` of the annotation file.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, scene in enumerate(scenes):
        name = f'{image_id:06d}.png'
        # Higher levels hardly compress noise better.
        Image.fromarray(scene.image).save(folder / name, compress_level=1)
        images.append(dict(id=image_id, file_name=name, height=SCENE_SIZE, width=SCENE_SIZE))
        for mask, digit in zip(scene.masks, scene.digits, strict=True):
            annotations.append(
                dict(
                    id=len(annotations) + 1,  # to pycocotools, 0 means "not matched"
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
    """Return COCO's box (x, y, width, height), area and run-length code of a mask, in pixels."""
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
    """Return whether a folder is empty or has a set, perhaps interrupted, of these settings."""
    return not any(out.iterdir()) or _read_json(out / SETTINGS_FILE) == settings


def _is_complete(out: Path, settings: dict) -> bool:
    """Return whether both annotation files exist, have these settings and all their images."""
    contents = {split: _read_json(out / 'annotations' / f'{split}.json') for split in SPLITS}
    return all(
        isinstance(content, dict)
        and content.get('info') == settings
        and all((out / split / image['file_name']).is_file() for image in content['images'])
        for split, content in contents.items()
    )


def _read_json(path: Path) -> Any:
    """Return the content of a JSON file, or None if there is no such file or it is not JSON."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def _write_json(path: Path, content: Any) -> None:
    """Write a file completely or not at all."""
    part = path.with_name(f'{path.name}.part')
    part.write_text(json.dumps(content))
    part.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write scenes of handwritten digits with boxes and masks, in COCO's format."
    )
    parser.add_argument('out', nargs='?', default='data/digit_scenes', help='new folder for them')
    parser.add_argument('--num-train', type=int, default=2000, help='number of scenes for training')
    parser.add_argument('--num-val', type=int, default=100, help='number for validation')
    parser.add_argument('--seed', type=int, default=0, help='seed of all random numbers')
    args = parser.parse_args()
    try:
        make_digit_scenes(args.out, args.num_train, args.num_val, args.seed)
    except (ValueError, FileExistsError, ImportError) as error:
        sys.exit(str(error))


if __name__ == '__main__':
    main()
