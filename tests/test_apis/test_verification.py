import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmsecvit.apis import verify_dataset

CONFIGS = Path(__file__).parents[2] / 'configs'


def make_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def find_kinds(config: Path, options: dict | None = None) -> dict[str, tuple]:
    found = verify_dataset(config, options)
    return {finding.kind: (finding.level, finding.count, finding.examples) for finding in found}


def test_a_detectors_images_are_those_of_its_annotations(tmp_path):
    pytest.importorskip('mmdet')
    config = CONFIGS / 'retinanet_secvit_t_1x.py'
    for split, names in (('train', ['a.jpg', 'b.jpg', 'gone.jpg']), ('val', ['c.jpg'])):
        images = [dict(id=i, file_name=name, width=50, height=40) for i, name in enumerate(names)]
        box = dict(bbox=[1, 1, 9, 9], area=81, iscrowd=0, category_id=1)
        content = dict(
            images=images,
            annotations=[dict(id=i + 1, image_id=i, **box) for i in range(len(images))],
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
    train = str(tmp_path / 'train')
    assert find_kinds(config, options) == {
        'empty': ('error', 1, (f'{train}/b.jpg',)),
        'missing': ('error', 1, (f'{train}/gone.jpg',)),
    }
    # What training would say of images and settings is said here, too.
    content = json.loads((tmp_path / 'val.json').read_text())
    content['images'][0].update(width=40, height=50)
    (tmp_path / 'val.json').write_text(json.dumps(content))
    found = find_kinds(config, options | {'model.bbox_head.num_classes': 7})
    assert found['other size'] == ('warning', 1, (str(tmp_path / 'val' / 'c.jpg'),))
    assert found['setting'][0] == 'error'
    content['images'][0].update(width=50, height=40)
    (tmp_path / 'val.json').write_text(json.dumps(content))
    for remote in (
        {'backend_args': dict(_delete_=True, backend='petrel')},
        {'data_root': 's3://x'},
    ):
        remote = {f'train_dataloader.dataset.{key}': value for key, value in remote.items()}
        assert find_kinds(config, options | remote) == {'remote': ('warning', 1, ())}


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
    found = find_kinds(config)
    # Colors are no classes; the other file is missing.
    assert found == {
        'missing': ('error', 1, (str(tmp_path / 'maps' / 'b.png'),)),
        'channels': ('error', 1, (str(tmp_path / 'maps' / 'a.png'),)),
    }


def test_what_would_end_a_training_does_not_end_the_list(tmp_path):
    """A folder is missing in one split; in another, a class and an image are wrong."""
    pytest.importorskip('mmpretrain')
    for name in ('cat', 'dog', '.hidden'):
        make_image(tmp_path / 'train' / name / 'x.jpg')
    (tmp_path / 'train' / 'dog' / 'x.jpg').write_bytes(b'')
    config = tmp_path / 'config.py'
    dataset = f"dict(type='CustomDataset', data_root='{tmp_path}', data_prefix=split)"
    config.write_text(f"""
default_scope = 'mmpretrain'
split = 'train'
train_dataloader = dict(dataset={dataset})
split = 'val'
val_dataloader = dict(dataset={dataset})
test_dataloader = val_dataloader
""")
    out = tmp_path / 'new' / 'findings.json'
    found = verify_dataset(config, out=out)
    assert [(finding.kind, finding.count) for finding in found] == [
        ('hidden folder', 1),
        ('empty', 1),
        ('missing', 1),
    ]
    assert json.loads(out.read_text())[1] == dict(
        kind='empty',
        file=str(tmp_path / 'train/dog/x.jpg'),
        message=found[1].message,
        level='error',
        count=1,
        examples=[str(tmp_path / 'train/dog/x.jpg')],
    )
    with pytest.raises(FileExistsError, match=f'^out must be a new file, but {out} exists$'):
        verify_dataset(config, out=out)
