import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import digit_scenes
import numpy as np
import pytest
from digit_scenes import make_digit_scenes, split_digits
from PIL import Image
from pycocotools.coco import COCO
from sklearn.datasets import load_digits

ROOT = Path(__file__).parents[2]
NUM_TRAIN, NUM_VAL = 12, 6


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    out = tmp_path_factory.mktemp('scenes') / 'set'
    assert make_digit_scenes(out, NUM_TRAIN, NUM_VAL, log=lambda line: None)
    return out


@pytest.fixture(params=['train', 'val'])
def coco(request, scenes):
    coco = COCO(scenes / 'annotations' / f'{request.param}.json')
    coco.folder = scenes / request.param
    return coco


def test_layout(scenes):
    names = {str(name) for name in contents(scenes)}
    assert names == (
        {f'train/{i:06d}.png' for i in range(NUM_TRAIN)}
        | {f'val/{i:06d}.png' for i in range(NUM_VAL)}
        | {'annotations/train.json', 'annotations/val.json', 'settings.json'}
    )
    with Image.open(scenes / 'train' / '000000.png') as image:
        assert (image.size, image.mode) == ((128, 128), 'RGB')


def test_the_splits_of_the_digits_are_disjoint_and_whole():
    train, val = split_digits(seed=3)
    assert (len(train), len(val)) == (1437, 360)
    np.testing.assert_array_equal(np.sort(np.concatenate([train, val])), np.arange(1797))
    assert len(load_digits().images) == 1797
    assert not np.array_equal(val, split_digits(seed=4)[1])


def test_train_and_val_scenes_take_digits_of_their_own_split(scenes):
    for split, pool in zip(('train', 'val'), split_digits(0), strict=True):
        annotations = json.loads((scenes / 'annotations' / f'{split}.json').read_text())
        used = {a['digit_index'] for a in annotations['annotations']}
        assert len(used) >= NUM_VAL
        assert used <= set(pool.tolist())


def test_boxes_and_areas_are_those_of_the_masks(coco):
    for annotation in coco.dataset['annotations']:
        mask = coco.annToMask(annotation)
        assert mask.shape == (128, 128)
        ys, xs = np.nonzero(mask)
        width, height = xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
        assert annotation['bbox'] == [xs.min(), ys.min(), width, height]
        assert annotation['area'] == mask.sum()
        assert max(width, height) <= 52
        assert annotation['iscrowd'] == 0


def test_the_category_is_the_label_of_the_digit(coco):
    labels = load_digits().target
    names = {c['id']: c['name'] for c in coco.dataset['categories']}
    assert list(names.values()) == list('0123456789')
    for annotation in coco.dataset['annotations']:
        assert names[annotation['category_id']] == str(labels[annotation['digit_index']])


def test_scenes_have_two_to_five_digits_whose_masks_are_disjoint(coco):
    for image_id in coco.getImgIds():
        masks = [coco.annToMask(a) for a in coco.imgToAnns[image_id]]
        assert 2 <= len(masks) <= 5
        assert np.sum(masks, 0).max() == 1


def test_masks_lie_on_pixels_that_stand_off_the_background(coco):
    luminance = np.array([0.299, 0.587, 0.114])
    for image_id, info in coco.imgs.items():
        with Image.open(coco.folder / info['file_name']) as file:
            image = np.asarray(file) @ luminance
        masks = [coco.annToMask(a).astype(bool) for a in coco.imgToAnns[image_id]]
        background = image[~np.any(masks, 0)].mean()
        for mask in masks:
            assert abs(image[mask].mean() - background) > 30


def test_a_later_digit_hides_an_earlier_one():
    whole = np.zeros((3, 1, 6), dtype=bool)
    whole[0, 0, 0:4] = whole[1, 0, 2:6] = whole[2, 0, 3:5] = True
    np.testing.assert_array_equal(
        digit_scenes._visible(whole)[:, 0].astype(int),
        [[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 1], [0, 0, 0, 1, 1, 0]],
    )


def test_a_later_digit_is_painted_over_an_earlier_one():
    ink = np.zeros((2, 128, 128))
    ink[0, 20:60, 20:60] = 1
    ink[1, 40:80, 40:80] = 1
    image = digit_scenes._paint(np.random.default_rng(0), ink).astype(float)
    first, both, second = image[20:40, 20:40], image[40:60, 40:60], image[60:80, 60:80]
    np.testing.assert_allclose(both.mean((0, 1)), second.mean((0, 1)), atol=1)
    assert both.std((0, 1)).max() < 5  # one color, whatever is under it
    assert abs(first.mean((0, 1)) - both.mean((0, 1))).max() > 20


def test_no_digit_is_hidden_beyond_the_limit(monkeypatch):
    images = load_digits().images[:5] / 16
    for seed in range(5):
        whole = digit_scenes._place(np.random.default_rng(seed), images) > digit_scenes.INK
        share = digit_scenes._visible(whole).sum((1, 2)) / whole.sum((1, 2))
        assert share.min() >= 0.95
    # The limit is what does it: without one, the same chance hides more.
    monkeypatch.setattr(digit_scenes, 'MIN_VISIBLE', 0)
    shares = []
    for seed in range(5):
        whole = digit_scenes._place(np.random.default_rng(seed), images) > digit_scenes.INK
        shares.append((digit_scenes._visible(whole).sum((1, 2)) / whole.sum((1, 2))).min())
    assert min(shares) < 0.9


def test_the_enlargement_is_that_of_torch():
    import torch

    image = np.random.default_rng(0).uniform(size=(8, 8))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[None, None], size=(37, 37), mode='bilinear', align_corners=False
    )
    np.testing.assert_allclose(digit_scenes._enlarge(image, 37), expected[0, 0], atol=1e-12)


def test_a_seed_gives_one_set(scenes, tmp_path):
    make_digit_scenes(tmp_path / 'again', NUM_TRAIN, NUM_VAL, seed=0)
    assert contents(tmp_path / 'again') == contents(scenes)
    make_digit_scenes(tmp_path / 'other', NUM_TRAIN, NUM_VAL, seed=1)
    first = Path('train/000000.png')
    assert contents(tmp_path / 'other')[first] != contents(scenes)[first]


def test_a_scene_does_not_depend_on_the_number_of_scenes(scenes, tmp_path):
    make_digit_scenes(tmp_path, 3, 1)
    few, many = contents(tmp_path), contents(scenes)
    images = [name for name in few if name.suffix == '.png']
    assert len(images) == 4
    assert all(few[name] == many[name] for name in images)


def test_a_complete_set_is_left_as_it_is(scenes):
    before = {p: p.stat().st_mtime_ns for p in scenes.rglob('*')}
    lines = []
    assert not make_digit_scenes(scenes, NUM_TRAIN, NUM_VAL, log=lines.append)
    assert lines == [f'{scenes} already holds these 12 train and 6 val scenes.']
    assert {p: p.stat().st_mtime_ns for p in scenes.rglob('*')} == before


@pytest.mark.parametrize('options', [(13, 6, 0), (12, 7, 0), (12, 6, 1)])
def test_a_set_of_other_settings_is_not_overwritten(scenes, options):
    before = contents(scenes)
    with pytest.raises(FileExistsError, match='not a set of digit scenes with these settings'):
        make_digit_scenes(scenes, *options)
    assert contents(scenes) == before


def test_anything_else_is_not_overwritten(tmp_path):
    (tmp_path / 'train').mkdir()
    (tmp_path / 'train' / '000000.png').write_text('mine')
    with pytest.raises(FileExistsError, match='choose another folder, or remove it'):
        make_digit_scenes(tmp_path, 2, 2)
    file = tmp_path / 'file'
    file.write_text('mine')
    with pytest.raises(FileExistsError, match='file exists and is not'):
        make_digit_scenes(file, 2, 2)
    assert contents(tmp_path) == {Path('train/000000.png'): b'mine', Path('file'): b'mine'}


@pytest.mark.parametrize('lines', [0, 1])
def test_an_interrupted_set_is_completed(scenes, tmp_path, monkeypatch, lines):
    """Interrupt while the train scenes are written, or the val scenes."""
    original, calls = Image.Image.save, []

    def save(image, *args, **kwargs):
        calls.append(1)
        if len(calls) == 5 + lines * NUM_TRAIN:
            raise KeyboardInterrupt
        original(image, *args, **kwargs)

    monkeypatch.setattr(Image.Image, 'save', save)
    with pytest.raises(KeyboardInterrupt):
        make_digit_scenes(tmp_path, NUM_TRAIN, NUM_VAL)
    assert not list((tmp_path / 'annotations').iterdir())
    monkeypatch.undo()
    with pytest.raises(FileExistsError):
        make_digit_scenes(tmp_path, NUM_TRAIN, NUM_VAL, seed=1)
    assert make_digit_scenes(tmp_path, NUM_TRAIN, NUM_VAL)
    assert contents(tmp_path) == contents(scenes)


@pytest.mark.parametrize('missing', ['val/000005.png', 'annotations/train.json'])
def test_a_set_that_lost_a_file_is_completed(scenes, tmp_path, missing):
    out = tmp_path / 'set'
    shutil.copytree(scenes, out)
    (out / missing).unlink()
    assert make_digit_scenes(out, NUM_TRAIN, NUM_VAL)
    assert contents(out) == contents(scenes)


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ((0, 1), ValueError, 'num_train must be 1 or more, got 0'),
        ((1, -2), ValueError, 'num_val must be 1 or more, got -2'),
        ((1, 1, -1), ValueError, 'seed must be 0 or more, got -1'),
        ((1.5, 1), TypeError, 'num_train must be an integer, got 1.5'),
        ((True, 1), TypeError, 'num_train must be an integer, got True'),
    ],
)
def test_bad_numbers_are_named(tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        make_digit_scenes(tmp_path / 'out', *options)
    assert not (tmp_path / 'out').exists()


def test_the_tool(tmp_path, scenes, monkeypatch, capsys):
    out = tmp_path / 'out'

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['digit_scenes.py', str(out), *args])
        runpy.run_path(str(ROOT / 'demo/digit_scenes.py'), run_name='__main__')

    run('--num-train', '12', '--num-val', '6')
    assert capsys.readouterr().out.splitlines() == [
        'train scenes: 12 of 12',
        'val scenes: 6 of 6',
        f'Wrote 12 train and 6 val scenes to {out}.',
    ]
    assert contents(out) == contents(scenes)
    with pytest.raises(SystemExit) as refused:
        run('--num-train', '13')
    assert refused.value.code == (
        f'{out} exists and is not a set of digit scenes with these settings: '
        'choose another folder, or remove it'
    )


def test_without_scikit_learn_there_is_one_sentence(tmp_path):
    code = (
        'import runpy, sys; sys.modules["sklearn"] = None\n'
        'sys.argv = ["digit_scenes.py", "out"]\n'
        f'runpy.run_path({str(ROOT / "demo/digit_scenes.py")!r}, run_name="__main__")'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (1, '')
    assert done.stderr == 'digit scenes need scikit-learn: run `pip install scikit-learn`\n'
    assert not list(tmp_path.iterdir())
