import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmsecvit.apis import verify_images
from mmsecvit.apis.verification import find_damaged_images

CONFIGS = Path(__file__).parents[2] / 'configs'


def make_image(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path.read_bytes()


@pytest.mark.parametrize('extension', ['jpg', 'png', 'bmp', 'webp'])
def test_damaged_images_are_found_and_whole_ones_are_not(tmp_path, extension):
    whole = make_image(tmp_path / f'whole.{extension}')
    content = {
        'more behind its end': whole + b'\0' * 100,
        'half': whole[: len(whole) // 2],
        'two bytes': whole[:2],
        'nothing': b'',
        'text': b'<html>404</html>',
    }
    for name, data in content.items():
        (tmp_path / f'{name}.{extension}').write_bytes(data)
    names = ['whole', *content, 'nowhere']
    found = find_damaged_images(tmp_path / f'{name}.{extension}' for name in names)
    faults = {'half': 'cut off', 'two bytes': 'no image', 'nothing': 'empty'}
    faults |= {'nowhere': 'missing', 'text': 'no image'}
    assert found == {str(tmp_path / f'{name}.{extension}'): faults[name] for name in sorted(faults)}


def test_what_pillow_cannot_tell_is_no_fault(tmp_path, monkeypatch):
    names = ['float.tiff', 'large.png']
    cv2.imwrite(str(tmp_path / 'float.tiff'), np.zeros((8, 8, 3), np.float32))
    make_image(tmp_path / 'large.png')
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 900)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / 'large.png')
    assert find_damaged_images(tmp_path / name for name in names) == {}


def test_a_detectors_images_are_those_of_its_annotations(tmp_path):
    pytest.importorskip('mmdet')
    config = CONFIGS / 'retinanet_secvit_t_1x.py'
    for split, names in (('train', ['a.jpg', 'b.jpg', 'gone.jpg']), ('val', ['c.jpg'])):
        images = [dict(id=i, file_name=name, width=50, height=40) for i, name in enumerate(names)]
        box = dict(bbox=[1, 1, 9, 9], area=81, iscrowd=0, category_id=1)
        content = dict(
            images=images,
            annotations=[dict(id=i, image_id=i, **box) for i in range(len(images))],
            categories=[dict(id=1, name='cat')],
        )
        (tmp_path / f'{split}.json').write_text(json.dumps(content))
        for name in names:
            make_image(tmp_path / split / name)
    (tmp_path / 'train' / 'gone.jpg').unlink()
    (tmp_path / 'train' / 'b.jpg').write_bytes(b'')
    (tmp_path / 'train' / 'nobody asks for this.jpg').write_bytes(b'')
    options = {'model.bbox_head.num_classes': 1}
    for split, folder in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        options |= {
            f'{split}_dataloader.dataset.data_root': str(tmp_path),
            f'{split}_dataloader.dataset.ann_file': f'{folder}.json',
            f'{split}_dataloader.dataset.data_prefix.img': folder,
            f'{split}_dataloader.dataset.metainfo': dict(classes=('cat',)),
            f'{split}_evaluator.ann_file': str(tmp_path / f'{folder}.json'),
        }
    options.pop('train_evaluator.ann_file')
    assert verify_images(config, options) == (
        4,
        {
            str(tmp_path / 'train' / 'b.jpg'): 'empty',
            str(tmp_path / 'train' / 'gone.jpg'): 'missing',
        },
    )
    for remote in (
        {'backend_args': dict(_delete_=True, backend='petrel')},
        {'data_root': 's3://x'},
    ):
        remote = {f'train_dataloader.dataset.{key}': value for key, value in remote.items()}
        with pytest.raises(ValueError, match='^train_dataloader.dataset must be on local disks'):
            verify_images(config, options | remote)


def test_a_segmenters_images_have_their_maps_beside_them(tmp_path):
    pytest.importorskip('mmseg')
    config = tmp_path / 'config.py'
    loader = 'dict(dataset=dict(data_root=root, data_prefix=prefix))'
    config.write_text(f"""
_base_ = '{CONFIGS / 'upernet_secvit_t_160k.py'}'
root = '{tmp_path}'
prefix = dict(img_path='images', seg_map_path='maps')
train_dataloader = val_dataloader = test_dataloader = {loader}
""")
    for name in ('a', 'b'):
        make_image(tmp_path / 'images' / f'{name}.jpg')
        make_image(tmp_path / 'maps' / f'{name}.png')
    (tmp_path / 'maps' / 'b.png').unlink()
    assert verify_images(config) == (4, {str(tmp_path / 'maps' / 'b.png'): 'missing'})
