import errno
import logging
import os
import resource
from types import SimpleNamespace

import pytest

from mmsecvit import apis
from mmsecvit.checkpoints import CheckpointError, read_checkpoint
from mmsecvit.engine.hooks import AtomicCheckpointHook, find_last_checkpoint
from mmsecvit.engine.hooks.checkpoint import AtomicBackend

from ..conftest import read_losses


@pytest.fixture
def limit():
    """Return a function that limits the size of files until the test ends."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_is_complete_or_as_before(tmp_path, limit):
    path = tmp_path / 'new' / 'epoch_1.pth'
    AtomicBackend().put(b'old', path)
    limit(300_000)
    message = rf'too large: checkpoint {path} \(1 MiB\) was not written, and the earlier ones are'
    with pytest.raises(OSError, match=message) as refused:
        AtomicBackend().put(bytes(2**20), path)
    assert refused.value.errno == errno.EFBIG
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == {'epoch_1.pth': b'old'}
    AtomicBackend().put(b'new', path)
    assert path.read_bytes() == b'new'


@pytest.mark.parametrize(
    ('files', 'note', 'found'),
    [
        ([], None, None),
        (['iter_2.pth', 'iter_10.pth'], 'iter_2.pth', 'iter_2.pth'),
        # A crash came before the note was written, or during that.
        (['iter_2.pth', 'iter_10.pth'], None, 'iter_10.pth'),
        (['epoch_2.pth', 'best_acc_epoch_3.pth'], '', 'epoch_2.pth'),
    ],
)
def test_the_last_checkpoint_is_found(tmp_path, files, note, found):
    for i, name in enumerate(files):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (i, i))
    if note is not None:
        (tmp_path / 'last_checkpoint').write_text(note and str(tmp_path / note))
    assert find_last_checkpoint(tmp_path) == (found and tmp_path / found)


def test_a_note_of_what_is_gone_is_refused(tmp_path):
    (tmp_path / 'last_checkpoint').write_text('/nowhere/epoch_3.pth')
    with pytest.raises(CheckpointError, match='names /nowhere/epoch_3.pth, which does not exist'):
        find_last_checkpoint(tmp_path)


@pytest.mark.parametrize('best', [None, 'acc'])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, jobs, limit, best):
    options = {'default_hooks.checkpoint.save_best': best, 'default_hooks.checkpoint.rule': 'less'}
    full = {'custom_hooks': [dict(type='FullDiskHook', step=8)]}  # the second epoch's end
    with pytest.raises(OSError, match='not written, and the earlier ones are as they were; resume'):
        apis.train(jobs / 'epochs.py', work_dir=str(tmp_path), cfg_options=options | full)
    limit(resource.RLIM_INFINITY)
    assert find_last_checkpoint(tmp_path) == tmp_path / 'epoch_1.pth'
    assert read_checkpoint(tmp_path / 'epoch_1.pth')['meta']['iter'] == 4
    assert not (tmp_path / 'epoch_2.pth').exists()
    assert len(list(tmp_path.glob('best*'))) == bool(best)
    apis.train(jobs / 'epochs.py', work_dir=str(tmp_path), resume='auto', cfg_options=options)
    # max_keep_ckpts and save_best: one of each.
    assert [p.name for p in tmp_path.glob('epoch*.pth')] == ['epoch_3.pth']
    assert len(list(tmp_path.glob('best*'))) == bool(best)
    assert [*read_losses(tmp_path)] == [*range(1, 13)]
    assert not (tmp_path / 'unfinished_checkpoint').exists()


@pytest.mark.parametrize('save_best', ['coco/bbox_mAP', 'auto', ['acc', 'coco/bbox_mAP']])
def test_a_validation_without_the_metric_of_the_best_goes_on(caplog, save_best):
    hook = AtomicCheckpointHook(interval=1, save_best=save_best, rule='greater')
    hook.file_backend = None
    runner = SimpleNamespace(logger=logging.getLogger('runner'), epoch=1, iter=1)
    metrics = {} if save_best == 'auto' else dict(acc=0.5)
    hook._save_best_checkpoint(runner, metrics)
    assert 'No best checkpoint is chosen: save_best asks for' in caplog.text
