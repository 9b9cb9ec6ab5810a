"""Check a classifier's folders of classes."""

from pathlib import Path

from mmengine.config import ConfigDict

from .findings import DataError, must_exist
from .nodes import is_local, type_name

# mmpretrain's data sets with one folder for each class, and the suffixes of their images.
CLASS_FOLDERS = ('CustomDataset', 'ImageNet', 'ImageNet21k')
IMAGES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')


def check_class_folders(setting: str, dataset: ConfigDict) -> None:
    """Raise an error unless each class of a data set has a folder with images."""
    root, split = dataset.get('data_root') or '', dataset.get('split') or ''
    known = type_name(dataset) in CLASS_FOLDERS
    if not known or not is_local(dataset, root or '.'):
        return
    if root:
        must_exist(f'{setting}.data_root', root)
    prefix = dataset.get('data_prefix') or split
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path', '')
    folder = Path(root, prefix)
    name = 'data_prefix' if dataset.get('data_prefix') else 'split' if split else 'data_root'
    must_exist(f'{setting}.{name}', folder)
    listed = dataset.get('ann_file') or (split and Path(root, 'meta', f'{split}.txt').exists())
    if listed or split == 'test' or not dataset.get('with_label', True):
        return
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    if not classes:
        raise DataError(
            f'{setting}.{name} must have a folder of images for each class, but {folder} has none'
        )
    images = tuple(extension.lower() for extension in dataset.get('extensions', IMAGES))
    for path in classes:
        if not any(file.name.lower().endswith(images) for file in path.rglob('*')):
            raise DataError(
                f'{setting}.{name} must have images of each class, but there are none in {path}: '
                'fill or remove the folder'
            )
