import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader

from mmsecvit import SecViT
from mmsecvit.checkpoints import read_state_dict

MEAN, STD = [100.0, 110.0, 120.0], [50.0, 60.0, 70.0]
GRAY_LEVELS = range(0, 256, 32)


class Model(BaseModel):
    """A backbone that learns to have no features."""

    def __init__(self):
        super().__init__()
        arch = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
        self.backbone = SecViT(arch, 'released', drop_path_rate=0.5, with_cp=True)

    def forward(self, image, mode):
        x = (torch.stack(image) - torch.tensor(MEAN)) / torch.tensor(STD)
        return dict(loss=self.backbone(x.permute(0, 3, 1, 2))[3].square().mean())


def train(work_dir, hooks):
    torch.manual_seed(0)
    images = [dict(image=torch.full((64, 96, 3), float(level))) for level in GRAY_LEVELS]
    preprocessor = dict(mean=MEAN, std=STD, bgr_to_rgb=True)
    runner = Runner(
        Model(),
        work_dir=str(work_dir),
        train_dataloader=DataLoader(images, batch_size=2, collate_fn=pseudo_collate),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        custom_hooks=hooks,
        visualizer=dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')]),
        randomness=dict(seed=0),
        experiment_name=work_dir.name,
        cfg=Config(dict(model=dict(data_preprocessor=preprocessor))),
    )
    runner.train()
    return read_state_dict(work_dir / 'epoch_1.pth')


def test_pictures_come_at_the_interval_and_training_is_the_same(tmp_path):
    plain = train(tmp_path / 'plain', [])
    hook = dict(type='ClusterVisualizationHook', interval=2, stages=(1, 2, 3, 4))
    watched = train(tmp_path / 'watched', [hook])
    assert plain.keys() == watched.keys()
    assert all(torch.equal(watched[key], value) for key, value in plain.items())

    pictures = sorted((tmp_path / 'watched').rglob('*.png'))
    assert [p.name for p in pictures] == ['clusters_2.png', 'clusters_4.png']
    for picture, level in zip(pictures, (64, 192), strict=True):
        with Image.open(picture) as opened:
            pixels = np.asarray(opened)
        # The image as it was before the data preprocessor, with four panels to its right.
        assert (pixels[:64, :96] == level).all()
        assert pixels.shape[1] == 5 * 96 + 4 * 8
    assert not list((tmp_path / 'plain').rglob('*.png'))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(interval=0), 'interval must be an integer of at least 1, got 0'),
        (dict(interval='5'), "interval must be an integer of at least 1, got '5'"),
        (dict(heads='first'), "heads must be 'all', 'mean' or a head's number, got 'first'"),
        (dict(stages=(5,)), 'stages must be from 1 to 4, got 5'),
    ],
)
def test_bad_arguments_are_refused_before_training(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        train(tmp_path / 'refused', [dict(type='ClusterVisualizationHook', **arguments)])
    assert not list(tmp_path.rglob('*.pth'))
