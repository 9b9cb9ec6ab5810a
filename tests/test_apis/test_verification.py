import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsecvit.apis import verify_images

CONFIGS = Path(__file__).parents[2] / 'configs'


def make_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


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


def test_a_segmenters_images_have_their_maps_next_to_them(tmp_path):
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
