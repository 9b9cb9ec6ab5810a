import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from torch import nn
from torch.utils.data import DataLoader

from mmsecvit.apis.batches import check_image_sizes, check_training_batches, find_starved_norm
from mmsecvit.apis.config import ConfigError

ARCH = dict(embed_dims=[32, 64, 128, 192], depths=[1, 1, 1, 1], num_heads=[2, 4, 8, 12])
BACKBONE = dict(type='SecViT', arch=ARCH, variant='released', num_clusters=(2, 1, 1, 1))
NORM = dict(norm_cfg=dict(type='BN'))


class Images(list):
    """A data set of images of given sizes."""

    def sample(self, image: torch.Tensor) -> BaseDataElement:
        return BaseDataElement(gt_sem_seg=PixelData(data=image[:1].long()))

    def __getitem__(self, i: int) -> dict:
        image = torch.full((3, *super().__getitem__(i)), random.randrange(9) + np.random.rand())
        return dict(inputs=image, data_samples=self.sample(image))

    def get_data_info(self, i: int) -> dict:
        return dict(img_path=f'{i}.jpg')


def make_runner(
    model: nn.Module | None,
    sizes: list,
    batch_size: int,
    scope: str = 'mmpretrain',
    sampler: type = DefaultSampler,
    max_iters: int = 100,
    **options,
) -> SimpleNamespace:
    images = Images(sizes)
    loader = DataLoader(
        images, batch_size, sampler=sampler(images), collate_fn=pseudo_collate, **options
    )
    loop = SimpleNamespace(dataloader=loader, max_iters=max_iters)
    cfg = Config(dict(default_scope=scope))
    return SimpleNamespace(model=model, cfg=cfg, train_loop=loop, val_loop=loop, test_loop=loop)


def build(scope: str, model: dict) -> nn.Module:
    pytest.importorskip(scope)
    with MODELS.switch_scope_and_registry(scope) as registry:
        return registry.build(model)


@pytest.fixture(scope='module')
def classifier() -> nn.Module:
    neck = dict(type='SecViTNeck', in_channels=192, out_channels=64)
    head = dict(type='LinearClsHead', num_classes=3, in_channels=64)
    return build(
        'mmpretrain',
        dict(
            type='ImageClassifier', backbone=dict(BACKBONE, out_indices=(3,)), neck=neck, head=head
        ),
    )


def make_segmenter(head: dict) -> nn.Module:
    head = dict(
        dict(in_channels=[32, 64, 128, 192], in_index=[0, 1, 2, 3], channels=32, num_classes=2),
        **head,
    )
    preprocessor = dict(type='SegDataPreProcessor', size=(64, 64))
    return build(
        'mmseg',
        dict(
            type='EncoderDecoder',
            backbone=BACKBONE,
            decode_head=head,
            data_preprocessor=preprocessor,
        ),
    )


def test_a_last_batch_of_one_small_image_is_refused(classifier):
    runner = make_runner(classifier, [(32, 32)] * 9, batch_size=4)
    with pytest.raises(ConfigError) as error:
        check_training_batches(runner)
    assert str(error.value) == (
        'train_dataloader.batch_size must leave no batch of one image, but of 9 images in batches '
        'of 4, the last has 1 (drop_last=True leaves it out): from it, the batch norm '
        'backbone.downsamples.2.norm gets a single value for each channel, and needs more to train'
    )


@pytest.mark.parametrize(
    'options',
    [
        dict(sizes=[(64, 64)] * 9),  # a map of 2x2
        dict(sizes=[(32, 32)] * 10),
        dict(drop_last=True),
        dict(max_iters=2),  # training ends before
        dict(sampler=InfiniteSampler),
        dict(scope='mmdet'),
    ],
)
def test_batches_that_a_batch_norm_can_take_are_accepted(classifier, options):
    check_training_batches(
        make_runner(classifier, **{**dict(sizes=[(32, 32)] * 9, batch_size=4), **options})
    )


def test_frozen_norms_take_one_image(classifier):
    classifier.backbone.norm_eval = True
    runner = make_runner(classifier, [(32, 32)] * 9, batch_size=4)
    with pytest.raises(ConfigError, match=r'the batch norm neck\.norm gets'):
        check_training_batches(runner)
    classifier.neck.norm.train = lambda mode=True: classifier.neck.norm.eval()
    classifier.neck.norm.eval = lambda: setattr(classifier.neck.norm, 'training', False)
    check_training_batches(runner)
    del classifier.neck.norm.train, classifier.neck.norm.eval
    classifier.backbone.norm_eval = False


UPER = dict(type='UPerHead', pool_scales=(1, 2), **NORM)


@pytest.mark.parametrize('sampler', [DefaultSampler, InfiniteSampler])
def test_one_image_is_refused_where_a_segmenter_pools_to_one_value(sampler):
    runner = make_runner(make_segmenter(UPER), [(64, 96)] * 4, 1, 'mmseg', sampler)
    message = r'^train_dataloader.batch_size must leave no batch of one image: .* decode_head.psp'
    with pytest.raises(ConfigError, match=message):
        check_training_batches(runner)
    check_training_batches(make_runner(runner.model, [(64, 96)] * 4, 2, 'mmseg', sampler))


@pytest.mark.parametrize(
    'head',
    [
        dict(type='UPerHead', pool_scales=(2, 3), **NORM),
        dict(type='UPerHead', pool_scales=(1, 2), norm_cfg=dict(type='GN', num_groups=8)),
        dict(type='FCNHead', in_channels=192, in_index=3, **NORM),
    ],
)
def test_segmenters_without_such_a_norm_take_one_image(head):
    check_training_batches(make_runner(make_segmenter(head), [(64, 96)] * 4, 1, 'mmseg'))


def test_the_check_changes_neither_weights_nor_random_numbers(classifier):
    runner = make_runner(classifier, [(32, 32)] * 9, batch_size=4)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    numbers = []
    for check in (lambda: None, lambda: find_starved_norm(runner, runner.train_loop.dataloader)):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        check()
        numbers.append((random.random(), np.random.rand(), torch.rand(1).item()))
    assert numbers[0] == numbers[1]
    after = classifier.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not classifier.neck.norm._forward_pre_hooks


def test_more_images_than_there_are_are_refused_with_drop_last():
    runner = make_runner(None, [(32, 32)] * 3, batch_size=4, drop_last=True)
    with pytest.raises(ConfigError) as error:
        check_training_batches(runner)
    assert str(error.value) == (
        'train_dataloader.batch_size must be at most the number of images of a process, 3, with '
        'drop_last, which leaves no batch otherwise, got 4'
    )
    runner = make_runner(None, [(32, 32)] * 3, 4, sampler=InfiniteSampler, drop_last=True)
    check_training_batches(runner)
    check_training_batches(make_runner(None, [(32, 32)] * 4, 4, drop_last=True))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.chdir(tmp_path)

    def write(sizes: list) -> list:
        for i, (height, width) in enumerate(sizes):
            Image.new('RGB', (width, height)).save(f'{i}.jpg')
        return sizes

    return write


def make_tester(sizes: list, batch_size: int) -> SimpleNamespace:
    pytest.importorskip('mmseg')
    from mmseg.models import SegDataPreProcessor

    model = SimpleNamespace(data_preprocessor=SegDataPreProcessor())
    return make_runner(
        model, sizes, batch_size, 'mmseg', lambda images: DefaultSampler(images, shuffle=False)
    )


@pytest.mark.parametrize('split', ['val', 'test'])
def test_several_sizes_in_a_batch_of_a_segmenter_are_refused(folder, split):
    sizes = folder([(32, 48), (32, 48), (32, 48), (48, 32)])
    with pytest.raises(ConfigError) as error:
        check_image_sizes(make_tester(sizes, 4), split)
    assert str(error.value) == (
        f'{split}_dataloader.batch_size must be 1, since mmseg predicts for batches of images of '
        'one size only, and the batch of 0.jpg has images of 32x48 and 48x32 pixels; got 4'
    )
    check_image_sizes(make_tester(sizes, 1), split)
    # Where sizes change between batches, all is well.
    check_image_sizes(make_tester(folder([(32, 48), (32, 48), (48, 32), (48, 32)]), 2), split)


def test_images_that_get_one_size_may_differ(folder):
    folder([(32, 48), (48, 32)])
    check_image_sizes(make_tester([(64, 64)] * 2, 2), 'val')
