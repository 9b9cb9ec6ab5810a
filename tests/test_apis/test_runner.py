import pytest
from mmengine.config import Config

from mmsecvit.apis.runner import build_runner


def test_a_config_that_gets_the_image_backend_imports_this_package(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(tmp_path),
            launcher='none',
            model=dict(
                type='ImageClassifier',
                backbone=dict(type='LeNet5', num_classes=10),
                head=dict(type='ClsHead'),
            ),
            test_dataloader=dict(
                batch_size=1,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(type='CustomDataset', pipeline=[dict(type='LoadImageFromFile')]),
            ),
            test_cfg=dict(),
            test_evaluator=dict(type='Accuracy'),
        )
    )
    build_runner(cfg)
    (path,) = tmp_path.glob('*.py')
    dumped = Config.fromfile(path)
    assert dumped.custom_imports.imports == ['mmsecvit']
    loader = dumped.test_dataloader.dataset.pipeline[0]
    assert loader.backend_args == dict(backend='checked_image')
