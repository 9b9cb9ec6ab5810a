import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsecvit.visualization import plot_log
from mmsecvit.visualization.log_curves import join_runs, read_runs

ROOT = Path(__file__).parents[2]


def step(at, loss, **more):
    return dict(lr=0.1, loss=loss, loss_cls=loss / 2, acc=90.0, time=0.1, iter=at, step=at) | more


def val(at, box, **more):
    return {
        'coco/bbox_mAP': box,
        'coco/bbox_mAP_50': 0.9,
        'coco/segm_mAP': box / 2,
        'data_time': 0.1,
        'time': 0.2,
        'step': at,
    } | more


# Killed at 60; the resumed run continues from the checkpoint at 30.
FIRST = [
    step(10, 8),
    step(20, 6),
    val(20, 0.1),
    step(30, 5),
    step(40, 4),
    val(40, 0.3),
    step(60, 3),
]
RESUMED = [step(40, 4.5), val(40, 0.25), step(50, 3.5), val(50, 0.5)]


def write(work_dir, stamp, records, tail=''):
    path = work_dir / stamp / 'vis_data' / 'scalars.json'
    path.parent.mkdir(parents=True)
    path.write_text(''.join(f'{json.dumps(record)}\n' for record in records) + tail)


def check(series, iterations, values):
    np.testing.assert_array_equal(series[0], iterations)
    np.testing.assert_array_equal(series[1], values)


def test_a_resumed_run_replaces_what_it_repeats():
    curves = join_runs([FIRST, RESUMED])
    assert set(curves.losses) == {'loss', 'loss_cls'}
    check(curves.losses['loss'], [10, 20, 30, 40, 50], [8, 6, 5, 4.5, 3.5])
    check(curves.losses['loss_cls'], [10, 20, 30, 40, 50], [4, 3, 2.5, 2.25, 1.75])
    assert set(curves.metrics) == {'coco/bbox_mAP', 'coco/segm_mAP'}
    check(curves.metrics['coco/bbox_mAP'], [20, 40, 50], [0.1, 0.25, 0.5])
    check(curves.metrics['coco/segm_mAP'], [20, 40, 50], [0.05, 0.125, 0.25])


def test_a_run_that_begins_anew_replaces_all():
    curves = join_runs([FIRST, [step(10, 9), step(20, 7)]])
    check(curves.losses['loss'], [10, 20], [9, 7])
    assert curves.metrics == {}


def test_evaluations_alone_do_not_count():
    curves = join_runs([FIRST, [val(0, 0.99)], []])
    check(curves.losses['loss'], [10, 20, 30, 40, 60], [8, 6, 5, 4, 3])
    check(curves.metrics['coco/bbox_mAP'], [20, 40], [0.1, 0.3])


def test_validation_that_is_counted_in_epochs_stands_at_its_iteration():
    run = [step(50, 2, epoch=1), step(100, 1, epoch=1), val(1, 0.4), step(200, 0.5), val(2, 0.6)]
    check(join_runs([run]).metrics['coco/bbox_mAP'], [100, 200], [0.4, 0.6])


def test_headlines_of_the_other_toolboxes():
    segmentation = {'aAcc': 80.0, 'mIoU': 40.0, 'mAcc': 50.0, 'time': 0.1, 'step': 10}
    classification = {'accuracy/top1': 70.0, 'accuracy/top5': 90.0, 'data_time': 0.1, 'step': 10}
    decode = {'loss': 1.0, 'decode.loss_ce': 0.7, 'decode.acc_seg': 3.0, 'step': 10}
    curves = join_runs([[decode, segmentation, classification]])
    assert {name: values.tolist() for name, (_, values) in curves.metrics.items()} == {
        'aAcc': [80],
        'mIoU': [40],
        'mAcc': [50],
        'accuracy/top1': [70],
        'accuracy/top5': [90],
    }
    assert set(curves.losses) == {'loss', 'decode.loss_ce'}


def test_runs_are_read_in_the_order_of_their_folders(tmp_path):
    write(tmp_path, '20250102_000000', RESUMED)
    write(tmp_path, '20250101_235959', FIRST, tail='{"loss": 1.0, "st')
    assert read_runs(tmp_path) == [FIRST, RESUMED]


def test_the_picture_has_both_panels_and_grows_with_the_metrics(tmp_path):
    write(tmp_path, '20250101_000000', FIRST)
    out = tmp_path / 'new' / 'curves.png'
    assert plot_log(tmp_path, out) == out
    with Image.open(out) as image:
        assert (image.format, image.size) == ('PNG', (1440, 540))
        with_metrics = np.asarray(image.convert('RGB'))
    write(tmp_path / 'plain', '20250101_000000', [step(10, 3), step(20, 2)])
    with Image.open(plot_log(tmp_path / 'plain')) as image:
        plain = np.asarray(image.convert('RGB'))

    def frames(picture):
        """Count the panels by their frames: black lines over most of the height."""
        lines = (picture.max(2) < 60).mean(0) > 0.7
        return np.sum(lines[1:] & ~lines[:-1]) // 2

    assert (frames(with_metrics), frames(plain)) == (2, 1)


@pytest.mark.parametrize('records', [None, [], [val(0, 0.5)]])
def test_without_a_log_there_is_one_sentence(tmp_path, records):
    if records is not None:
        write(tmp_path, '20250101_000000', records)
    with pytest.raises(FileNotFoundError, match='holds no log of a training run'):
        plot_log(tmp_path, tmp_path / 'curves.png')
    assert not (tmp_path / 'curves.png').exists()


def test_the_tool(tmp_path, monkeypatch, capsys):
    def run(*options):
        monkeypatch.setattr(sys, 'argv', ['plot_log.py', str(tmp_path), *options])
        runpy.run_path(str(ROOT / 'tools' / 'analysis' / 'plot_log.py'), run_name='__main__')

    with pytest.raises(SystemExit) as refused:
        run()
    assert refused.value.code == f'{tmp_path} holds no log of a training run (no scalars.json)'
    write(tmp_path, '20250101_000000', FIRST)
    run()
    assert capsys.readouterr().out == f'{tmp_path / "curves.png"}\n'
    with Image.open(tmp_path / 'curves.png') as image:
        assert image.size == (1440, 540)
    run()
    mine = tmp_path / 'mine.png'
    mine.write_text('mine')
    with pytest.raises(SystemExit) as refused:
        run('--out', str(mine))
    assert refused.value.code == f'out must be a new file, but {mine} exists'
    assert mine.read_text() == 'mine'
