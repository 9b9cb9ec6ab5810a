import copy
import pickle
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from mmengine import fileio
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

from mmsecvit.datasets import DamagedImageError, MissingImageError, set_image_backend

CONFIGS = Path(__file__).parents[2] / 'configs'
BACKEND = dict(backend='checked_image')


def find_backends(cfg):
    """Return the backends of all loaders of the test pipeline by type."""
    return {
        transform.type: transform.get('backend_args')
        for transform in cfg.test_dataloader.dataset.pipeline
        if transform.type.startswith('Load')
    }


@pytest.mark.parametrize('name', ['retinanet_secvit_t_1x', 'secvit_t_in1k'])
def test_loaders_with_the_default_backend_get_the_one_that_names_files(name):
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    before = copy.deepcopy(cfg)
    changed = set_image_backend(cfg)
    assert all(backend == BACKEND for backend in find_backends(cfg).values())
    assert 'test_dataloader.dataset.pipeline.0.backend_args' in changed
    assert set_image_backend(cfg) == []
    # Nothing else differs.
    for setting in changed:
        *path, last = setting.split('.')
        for node in (cfg, before):
            for key in path:
                node = node[int(key) if key.isdigit() else key]
            node.pop(last, None)
    assert cfg.to_dict() == before.to_dict()


def test_the_pipelines_that_are_written_here_name_it():
    cfg = Config.fromfile(CONFIGS / 'semantic_fpn_secvit_t_80k.py')
    assert find_backends(cfg) == {'LoadImageFromFile': BACKEND, 'LoadAnnotations': BACKEND}
    assert set_image_backend(cfg) == []


def test_a_backend_of_the_users_choice_stays():
    cfg = Config.fromfile(CONFIGS / 'secvit_t_in1k.py')
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader'].dataset.pipeline[0]
        loader.backend_args = dict(backend='petrel')
    assert set_image_backend(cfg) == []


def test_loaders_inside_other_data_sets_and_as_classes_are_found():
    from mmcv.transforms import LoadImageFromFile

    pipeline = [dict(type=LoadImageFromFile), dict(type='mmdet.LoadAnnotations', with_seg=True)]
    dataset = dict(type='ConcatDataset', datasets=[dict(type='CocoDataset', pipeline=pipeline)])
    loader = dict(dataset=dict(type='MultiImageMixDataset', dataset=dataset, pipeline=[]))
    changed = set_image_backend(Config(dict(train_dataloader=loader)))
    prefix = 'train_dataloader.dataset.dataset.datasets.0.pipeline'
    assert changed == [f'{prefix}.{i}.backend_args' for i in range(2)]


@pytest.mark.parametrize('extension', ['jpg', 'png', 'bmp', 'webp', 'tiff', 'gif'])
def test_whole_images_are_read_as_they_are(tmp_path, extension):
    path = tmp_path / f'image.{extension}'
    Image.new('RGB', (8, 6)).save(path)
    whole = path.read_bytes()
    assert fileio.get(path, backend_args=BACKEND) == whole
    for content in (b'', whole[:2], b'<html>'):
        path.write_bytes(content)
        with pytest.raises(DamagedImageError, match=f'^image file {path} must be readable'):
            fileio.get(path, backend_args=BACKEND)


def test_an_image_that_only_opencv_reads_is_left_to_the_decoder(tmp_path):
    path = tmp_path / 'image.png'
    Image.new('RGB', (8, 6)).save(path)
    whole = path.read_bytes()
    # Pillow refuses so long a text.
    text = b'zTXta\0\0' + zlib.compress(bytes(2 << 20))
    size, checksum = (n.to_bytes(4, 'big') for n in (len(text) - 4, zlib.crc32(text)))
    path.write_bytes(whole[:33] + size + text + checksum + whole[33:])
    with pytest.raises(ValueError, match='Decompressed data too large'):
        Image.open(path)
    assert fileio.get(path, backend_args=BACKEND) == path.read_bytes()


def test_importing_the_package_registers_it(tmp_path):
    code = (
        'import mmsecvit\n'
        'from mmengine import fileio\n'
        'fileio.get("image.png", backend_args=dict(backend="checked_image"))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.stderr.splitlines()[-1] == (
        'mmsecvit.datasets.file_backend.MissingImageError: image file image.png does not exist'
    )


@pytest.mark.parametrize('error', [DamagedImageError, MissingImageError])
def test_the_message_of_a_worker_is_one_sentence(error):
    from torch._utils import ExceptionWrapper

    try:
        raise error('image file x.png is broken')
    except error:
        wrapper = pickle.loads(pickle.dumps(ExceptionWrapper(where='in a worker')))
    with pytest.raises(error, match=r'^image file x\.png is broken$'):
        wrapper.reraise()


@pytest.fixture(params=['path', 'array'])
def image(request, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'image.png')
    return str(tmp_path / 'image.png') if request.param == 'path' else pixels[..., ::-1]


@pytest.mark.parametrize(
    ('toolbox', 'inferencer', 'name'),
    [
        ('mmdet', 'DetInferencer', 'retinanet_secvit_t_1x'),
        ('mmseg', 'MMSegInferencer', 'semantic_fpn_secvit_t_80k'),
    ],
)
def test_the_pipelines_of_inferencers_read_images(image, toolbox, inferencer, name):
    apis = pytest.importorskip(f'{toolbox}.apis')
    cfg = Config.fromfile(CONFIGS / f'{name}.py')
    set_image_backend(cfg)
    assert all(backend == BACKEND for backend in find_backends(cfg).values())
    cls = getattr(apis, inferencer)
    with DefaultScope.overwrite_default_scope(toolbox):
        pipeline = cls._init_pipeline(cls.__new__(cls), cfg)
        sample = pipeline(image)
    assert sample['data_samples'].ori_shape == (48, 64)


def test_the_pipeline_of_the_inferencer_of_classifiers_reads_images(image):
    apis = pytest.importorskip('mmpretrain.apis')
    cfg = Config.fromfile(CONFIGS / 'secvit_t_in1k.py')
    set_image_backend(cfg)
    inferencer = apis.ImageClassificationInferencer.__new__(apis.ImageClassificationInferencer)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        inferencer.pipeline = inferencer._init_pipeline(cfg)
        (batch,) = inferencer.preprocess([image])
    assert batch['inputs'].shape == (1, 3, 224, 224)


def test_an_image_with_too_many_pixels_for_opencv_is_named(tmp_path, monkeypatch):
    path = tmp_path / 'image.png'
    Image.new('RGB', (8, 6)).save(path)
    monkeypatch.setenv('OPENCV_IO_MAX_IMAGE_PIXELS', '47')
    message = (
        f'^image file {path} must be readable, but is not: too large: .*IMAGE_PIXELS=48 or more'
    )
    with pytest.raises(DamagedImageError, match=message):
        fileio.get(path, backend_args=BACKEND)
