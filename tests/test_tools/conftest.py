from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / 'configs' / 'mask_rcnn_secvit_digits.py'


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> Path:
    """Sixteen training and four validation scenes of handwritten digits."""
    pytest.importorskip('sklearn', reason='needs the extra `demo`')
    from digit_scenes import make_digit_scenes

    root = tmp_path_factory.mktemp('digits') / 'scenes'
    make_digit_scenes(root, num_train=16, num_val=4)
    return root


@pytest.fixture(scope='session')
def digit_options(digits) -> dict:
    """Options that turn the demo's config into a run of two iterations on `digits`."""
    options = {'train_dataloader.batch_size': 2, 'train_cfg.max_iters': 2}
    options |= {'train_cfg.val_interval': 2, 'default_hooks.checkpoint.interval': 1}
    for split in ('train', 'val', 'test'):
        options |= {
            f'{split}_dataloader.dataset.data_root': str(digits),
            f'{split}_dataloader.num_workers': 0,
            f'{split}_dataloader.persistent_workers': False,
        }
    for split in ('val', 'test'):
        options[f'{split}_evaluator.ann_file'] = str(digits / 'annotations/val.json')
    return options
