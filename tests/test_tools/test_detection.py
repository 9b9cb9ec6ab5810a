import json
import os
import pickle
import runpy
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from mmsecvit import apis
from mmsecvit.checkpoints import read_checkpoint, read_state_dict

from .conftest import CONFIG

ROOT = CONFIG.parents[1]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def read_log(work_dir):
    """Return all lines of the scalars in a work directory, in the order of its runs."""
    files = sorted(work_dir.glob('*/vis_data/scalars.json'))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope='module')
def trained(tmp_path_factory, digit_options) -> Path:
    work_dir = tmp_path_factory.mktemp('trained')
    # Without a best checkpoint; test_classification_and_segmentation.py has one.
    options = digit_options | {'default_hooks.checkpoint.save_best': None}
    options['default_hooks.logger.interval'] = 1
    tensorboard = find_spec('tensorboard') is not None
    apis.train(CONFIG, work_dir=str(work_dir), tensorboard=tensorboard, cfg_options=options)
    return work_dir


def test_testing_repeats_the_validation_of_training(tmp_path, trained, digit_options):
    out = tmp_path / 'predictions.pkl'
    metrics = apis.test(
        CONFIG,
        str(trained / 'iter_2.pth'),
        work_dir=str(tmp_path / 'test'),
        out=str(out),
        show_dir=str(tmp_path / 'pictures'),
        cfg_options=digit_options,
    )
    validation = next(line for line in read_log(trained) if 'coco/bbox_mAP' in line)
    for name in ('coco/bbox_mAP', 'coco/segm_mAP'):
        assert metrics[name] == pytest.approx(validation[name])
    assert [p['img_id'] for p in pickle.loads(out.read_bytes())] == [0, 1, 2, 3]
    assert len(list((tmp_path / 'pictures').rglob('*.png'))) == 4

    with pytest.raises(FileExistsError, match='out must be a new file, but .* exists'):
        apis.test(CONFIG, str(trained / 'iter_2.pth'), out=str(out))


def test_resuming_goes_on_where_training_stopped(tmp_path, digit_options):
    work_dir = str(tmp_path)
    once = digit_options | {'train_cfg.max_iters': 1}
    apis.train(CONFIG, work_dir=work_dir, resume='auto', cfg_options=once)
    (log,) = tmp_path.glob('*/*.log')
    assert f'There is nothing to resume: {work_dir} holds no checkpoint.' in log.read_text()
    with pytest.raises(FileExistsError, match=r'holds checkpoints .*iter_1.pth.*: add --resume'):
        apis.train(CONFIG, work_dir=work_dir, cfg_options=digit_options)
    apis.train(CONFIG, work_dir=work_dir, resume='auto', cfg_options=digit_options)
    checkpoint = read_checkpoint(tmp_path / 'iter_2.pth')
    assert checkpoint['meta']['iter'] == 2
    steps = {int(state['step']) for state in checkpoint['optimizer']['state'].values()}
    assert steps == {2}


def test_pretrained_sets_the_backbones_weights_and_silences_the_warning(
    tmp_path, trained, digit_options
):
    still = digit_options | {'optim_wrapper.optimizer.lr': 0.0, 'train_cfg.max_iters': 1}
    pretrained = trained / 'iter_2.pth'
    apis.train(CONFIG, work_dir=str(tmp_path), pretrained=str(pretrained), cfg_options=still)
    given, got = read_state_dict(pretrained), read_state_dict(tmp_path / 'iter_1.pth')
    for name, value in got.items():
        if name.startswith('backbone.') and 'running' not in name and 'num_batches' not in name:
            assert torch.equal(value, given[name]), name
    head = 'neck.lateral_convs.0.conv.weight'
    assert not torch.equal(got[head], given[head])
    warnings = [
        sum('trains from scratch' in log.read_text() for log in d.glob('*/*.log'))
        for d in (tmp_path, trained)
    ]
    assert warnings == [0, 1]


def test_a_checkpoint_of_another_model_is_refused(tmp_path, trained, digit_options):
    other = digit_options | {'model.backbone.variant': 'paper'}
    with pytest.raises(
        ValueError,
        match=r'iter_2.pth is not of the model of .*: 12 weights of the file have no place',
    ):
        apis.test(CONFIG, str(trained / 'iter_2.pth'), work_dir=str(tmp_path), cfg_options=other)
    # Fine-tuning: heads may differ.
    other['load_from'] = str(trained / 'iter_2.pth')
    other['model.roi_head.bbox_head.fc_out_channels'] = 64
    with pytest.raises(ValueError, match='12 weights of the file have no place'):
        apis.train(CONFIG, work_dir=str(tmp_path / 'tuned'), cfg_options=other)


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (
            dict(pretrained='no.pth'),
            FileNotFoundError,
            'pretrained must be a checkpoint, but no.pth',
        ),
        (dict(resume='no.pth'), FileNotFoundError, 'resume must be a checkpoint, but no.pth'),
        (
            dict(cfg_options={'auto_scale_lr': {}}, auto_scale_lr=True),
            ValueError,
            'base_batch_size',
        ),
    ],
)
def test_options_that_cannot_work_are_refused_before_training(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        apis.train(CONFIG, work_dir=str(tmp_path), **arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_options_that_need_a_gpu_say_so(tmp_path, digit_options):
    with pytest.raises(ValueError, match='amp needs an accelerator'):
        apis.train(CONFIG, work_dir=str(tmp_path), amp=True)
    with pytest.raises(ValueError, match="launcher 'slurm' needs accelerators"):
        apis.train(CONFIG, work_dir=str(tmp_path), launcher='slurm', cfg_options=digit_options)


def run_in_two_processes(script, *arguments):
    """Run one of the shell scripts with two processes, from the root of the repository."""
    environment = os.environ | {
        'PYTHON': sys.executable,
        'PORT': str(free_port()),
        'OMP_NUM_THREADS': '1',
    }
    done = subprocess.run(
        [f'tools/{script}', *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_two_processes_train_together_without_a_gpu(tmp_path, digit_options):
    options = [f'{key}={value}' for key, value in digit_options.items()]
    run_in_two_processes(
        'dist_train.sh', CONFIG, '2', '--work-dir', tmp_path, '--cfg-options', *options
    )
    (log,) = tmp_path.glob('*/*.log')
    assert 'GPU number: 2' in log.read_text()
    assert (tmp_path / 'iter_2.pth').is_file()
    assert any('coco/bbox_mAP' in line for line in read_log(tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_two_processes_predict_what_one_predicts(tmp_path, trained, digit_options):
    out = tmp_path / 'predictions.pkl'
    options = [f'{key}={value}' for key, value in digit_options.items()]
    arguments = [CONFIG, trained / 'iter_2.pth', '2', '--work-dir', tmp_path, '--out', out]
    run_in_two_processes('dist_test.sh', *arguments, '--cfg-options', *options)
    together = pickle.loads(out.read_bytes())
    assert [p['img_id'] for p in together] == [0, 1, 2, 3]
    apis.test(
        CONFIG,
        str(trained / 'iter_2.pth'),
        work_dir=str(tmp_path / 'single'),
        out=str(tmp_path / 'single.pkl'),
        cfg_options=digit_options,
    )
    for ours, theirs in zip(
        together, pickle.loads((tmp_path / 'single.pkl').read_bytes()), strict=True
    ):
        for name in ('labels', 'scores', 'bboxes'):
            torch.testing.assert_close(ours['pred_instances'][name], theirs['pred_instances'][name])


def test_the_command_lines_offer_what_mmdets_users_know(monkeypatch, capsys):
    for tool, options in {
        'train.py': ['--work-dir', '--pretrained', '--amp', '--auto-scale-lr', '--resume'],
        'test.py': ['checkpoint', '--work-dir', '--out', '--show', '--show-dir', '--wait-time'],
    }.items():
        monkeypatch.setattr(sys, 'argv', [tool, '--help'])
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        printed = capsys.readouterr().out
        for option in [*options, '--cfg-options', '--launcher {none,pytorch,slurm,mpi}']:
            assert option in printed


COMMANDS = {
    'dist_train.sh': (
        ['c.py', '4', '--amp'],
        'tools/torchrun.py --nnodes=2 --node_rank=1 --master_addr=10.0.0.1 '
        '--master_port=12345 --nproc_per_node=4 tools/train.py c.py --launcher pytorch --amp',
    ),
    'dist_test.sh': (
        ['c.py', 'x.pth', '4', '--out', 'a b.pkl'],
        'tools/torchrun.py --nnodes=2 --node_rank=1 --master_addr=10.0.0.1 '
        '--master_port=12345 --nproc_per_node=4 tools/test.py c.py x.pth --launcher pytorch '
        '--out a b.pkl',
    ),
    'slurm_train.sh': (
        ['part', 'job', 'c.py', 'work', '--amp'],
        '-p part --job-name=job --gres=gpu:4 --ntasks=16 --ntasks-per-node=4 --cpus-per-task=5 '
        '--kill-on-bad-exit=1 --mem 9G PYTHON -u tools/train.py c.py --work-dir work '
        '--launcher slurm --amp',
    ),
    'slurm_test.sh': (
        ['part', 'job', 'c.py', 'x.pth'],
        '-p part --job-name=job --gres=gpu:4 --ntasks=16 --ntasks-per-node=4 --cpus-per-task=5 '
        '--kill-on-bad-exit=1 --mem 9G PYTHON -u tools/test.py c.py x.pth --launcher slurm',
    ),
}


@pytest.mark.parametrize('script', COMMANDS)
def test_launchers_pass_everything_on(tmp_path, script):
    arguments, expected = COMMANDS[script]
    echo = tmp_path / 'srun'
    echo.write_text('#!/bin/sh\necho $$ "$@"\n')
    echo.chmod(0o755)
    environment = os.environ | {
        'PATH': f'{tmp_path}:{os.environ["PATH"]}',
        'PYTHON': str(echo),
        'NNODES': '2',
        'NODE_RANK': '1',
        'MASTER_ADDR': '10.0.0.1',
        'PORT': '12345',
        'GPUS': '16',
        'GPUS_PER_NODE': '4',
        'SRUN_ARGS': '--mem 9G',
    }
    launched = subprocess.Popen(
        [f'tools/{script}', *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    printed, _ = launched.communicate()
    expected = expected.replace('PYTHON', str(echo)).replace('tools/', f'{ROOT}/tools/')
    # The script is replaced by its command (exec): a signal to the script reaches the command.
    assert printed.strip() == f'{launched.pid} {expected}'
    usage = subprocess.run([f'tools/{script}', 'x'], cwd=ROOT, capture_output=True, text=True)
    assert usage.returncode == 2
    assert 'usage:' in usage.stderr


def test_without_a_best_checkpoint_training_ends_with_the_last(trained):
    (log,) = trained.glob('*/*.log')
    validation = next(line for line in read_log(trained) if 'coco/bbox_mAP' in line)
    *_, checkpoint, _, command = log.read_text().splitlines()
    found = [f'{name} {validation[name]:.4g}' for name in ('coco/bbox_mAP', 'coco/segm_mAP')]
    path, *metrics = checkpoint.removeprefix('Last checkpoint: ').split(', ')
    assert metrics == found
    assert Path(path).resolve() == trained / 'iter_2.pth'
    # The dumped config has all overrides, so the command has none.
    config = command.removeprefix('Evaluate it with: python tools/test.py ').split()[0]
    assert Path(config).resolve() == trained / CONFIG.name


def test_training_without_checkpoints_ends_with_the_log(tmp_path, digit_options):
    options = digit_options | {'train_cfg.max_iters': 1, 'default_hooks.checkpoint': None}
    apis.train(CONFIG, work_dir=str(tmp_path), cfg_options=options)
    (log,) = tmp_path.glob('*/*.log')
    *_, complete, where = log.read_text().splitlines()
    assert complete.endswith('Training is complete.')
    assert Path(where.removeprefix('Log: ')).resolve() == log


def test_inference_repeats_the_predictions_of_testing(tmp_path, trained, digits, digit_options):
    checkpoint = str(trained / 'iter_2.pth')
    out = tmp_path / 'predictions.pkl'
    apis.test(
        CONFIG,
        checkpoint,
        work_dir=str(tmp_path / 'test'),
        out=str(out),
        cfg_options=digit_options | {'test_dataloader.batch_size': 1},
    )
    tested = pickle.loads(out.read_bytes())[0]
    (image, *_) = sorted((digits / 'val').iterdir())
    assert Path(tested['img_path']).name == image.name
    assert apis.infer([image], trained / CONFIG.name, checkpoint, tmp_path / 'out') == {}
    prediction = json.loads((tmp_path / 'out' / 'preds' / f'{image.stem}.json').read_text())
    instances = tested['pred_instances']
    assert prediction['labels'] == instances['labels'].tolist()
    assert prediction['classes'] == [str(label) for label in prediction['labels']]
    torch.testing.assert_close(torch.tensor(prediction['scores']), instances['scores'])
    torch.testing.assert_close(torch.tensor(prediction['bboxes']), instances['bboxes'])
    assert [m['size'] for m in prediction['masks']] == [[128, 128]] * len(prediction['labels'])
    assert (tmp_path / 'out' / 'vis' / f'{image.stem}.png').is_file()


def test_tensorboard_gets_what_the_log_gets(trained):
    reader = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator', reason='needs tensorboard'
    )
    (folder,) = trained.glob('*/vis_data')
    events = reader.EventAccumulator(str(folder)).Reload()
    lines = read_log(trained)
    names = {name for line in lines for name in line if 'loss' in name or 'mAP' in name}
    assert {'loss', 'loss_rpn_cls', 'loss_mask', 'coco/bbox_mAP'} < names
    for name in names:
        written = {event.step: event.value for event in events.Scalars(name)}
        logged = {line['step']: line[name] for line in lines if name in line}
        assert sorted(logged) == ([1, 2] if 'loss' in name else [2])
        assert written == pytest.approx(logged, rel=1e-6)  # events are in float32


def test_without_its_package_tensorboard_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'tensorboard', None)
    with pytest.raises(ValueError, match='tensorboard needs the package of that name: pip install'):
        apis.train(CONFIG, work_dir=str(tmp_path), tensorboard=True)


@pytest.mark.slow
def test_an_empty_image_ends_a_run_with_its_name(tmp_path, trained, digits, digit_options):
    scenes = tmp_path / 'scenes'
    shutil.copytree(digits, scenes)
    options = {
        name: str(scenes) if name.endswith('data_root') else value
        for name, value in digit_options.items()
    }
    for split in ('train', 'val'):
        for image in (scenes / split).iterdir():
            image.write_bytes(b'')
    message = rf'^image file {scenes}/train/\d+.png must be readable, but is not: empty$'
    with pytest.raises(ValueError, match=message):
        apis.train(CONFIG, work_dir=str(tmp_path / 'train'), cfg_options=options)
    first, *_ = sorted((scenes / 'val').iterdir())
    message = f'^image file {first} must be readable, but is not: empty$'
    with pytest.raises(ValueError, match=message):
        apis.test(
            CONFIG,
            str(trained / 'iter_2.pth'),
            work_dir=str(tmp_path / 'test'),
            cfg_options=options,
        )


def test_tta_merges_boxes_and_refuses_masks(tmp_path, trained, digit_options):
    checkpoint = read_checkpoint(trained / 'iter_2.pth')
    arguments = dict(work_dir=str(tmp_path), tta=True, cfg_options=digit_options)
    with pytest.raises(ValueError, match='DetTTAModel merges boxes, no masks'):
        apis.test(CONFIG, str(trained / 'iter_2.pth'), **arguments)
    weights = {k: v for k, v in checkpoint['state_dict'].items() if 'mask_head' not in k}
    torch.save(dict(checkpoint, state_dict=weights), tmp_path / 'boxes.pth')
    boxes = {f'model.roi_head.{part}': None for part in ('mask_head', 'mask_roi_extractor')}
    boxes |= {'test_evaluator.metric': 'bbox', 'model.test_cfg.rcnn.score_thr': 0.0}
    arguments['cfg_options'] = digit_options | boxes
    apis.test(CONFIG, str(tmp_path / 'boxes.pth'), out=str(tmp_path / 'flips.pkl'), **arguments)
    arguments.update(tta=False)
    apis.test(CONFIG, str(tmp_path / 'boxes.pth'), out=str(tmp_path / 'plain.pkl'), **arguments)
    flips, plain = (
        pickle.loads((tmp_path / f'{name}.pkl').read_bytes())[0]['pred_instances']
        for name in ('flips', 'plain')
    )
    # The mirror image adds boxes, of which suppression keeps the best.
    assert flips['scores'].max() >= plain['scores'].max()
    assert flips['bboxes'].tolist() != plain['bboxes'].tolist()
