"""Check a classifier's folders of classes and its lists of images."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_dir_or_file
from mmengine.registry import DATASETS

from .findings import MISSING, Finding, list_some, must_be_path
from .images import IMAGE_SUFFIXES
from .nodes import find_class, find_datasets, is_local
from .samples import (
    MAX_SAMPLES,
    Track,
    build_lazily,
    find_image_faults,
    find_missing_files,
    reads_local_files,
    select,
)

SCOPE = 'mmpretrain'
MAX_FOLDERS = 20  # that a quick check lists to their end
# Folders that file managers and notebooks make.
FOREIGN = ('__MACOSX', '@eaDir', '__pycache__')


def find_class_faults(
    setting: str, dataset: ConfigDict, cfg: Config, track: Track | None
) -> Iterator[Finding]:
    """Find what makes a classifier's data set name its classes wrongly, or have no images.

    Args:
        setting: Dotted name of the data set. Others than those with a folder for each class, or
            with a list of images, may download themselves and are not checked.
        dataset: Config of the data set.
        cfg: Config of the whole experiment.
        track: Shows progress over all images of a list. Without it, a sample of them must exist.
    """
    data = _build(setting, dataset)
    root = dataset.get('data_root')
    if data is None:
        return
    if root and not Path(root).exists():
        yield Finding(MISSING, root, f'{setting}.data_root must exist, but {root} does not')
        return
    name = next((key for key in ('data_prefix', 'split') if dataset.get(key)), 'data_root')
    option = 'ann_file' if data.ann_file else name
    path = Path(data.ann_file or data.img_prefix)
    if not path.exists():
        yield Finding(MISSING, str(path), f'{setting}.{option} must exist, but {path} does not')
    elif path.is_dir() == bool(data.ann_file):
        kind, other = ('file', 'folder') if data.ann_file else ('folder', 'file')
        message = f'{setting}.{option} must be a {kind}, but {path} is a {other}'
        yield Finding(f'no {kind}', str(path), message)
    elif data.ann_file:
        yield from _find_list_faults(setting, data, dataset, cfg, track)
    elif data.with_label:
        option = f'{setting}.{name}'
        yield from _find_folder_faults(setting, option, data, dataset, cfg, track)


def _build(setting: str, dataset: ConfigDict) -> Any:
    """Build a data set of folders or lists without its samples; return None for other kinds."""
    from mmpretrain.datasets import CustomDataset

    cls: Any = find_class(dataset, DATASETS, SCOPE)
    if getattr(cls, 'load_data_list', None) is not CustomDataset.load_data_list:
        return None
    must_be_path(f'{setting}.ann_file', dataset.get('ann_file'))
    return build_lazily(setting, dataset, SCOPE)


def _find_folder_faults(
    setting: str,
    option: str,
    data: Any,
    dataset: ConfigDict,
    cfg: Config,
    track: Track | None,
) -> Iterator[Finding]:
    folder = Path(data.img_prefix)
    names = _list_folders(folder)
    if not names:
        yield Finding(
            'no folders',
            str(folder),
            f'{option} must have a folder of images for each class, but {folder} has none',
        )
        return
    given = data.CLASSES
    hidden = [name for name in names if _is_hidden(name) and name not in (given or ())]
    for name in hidden:
        yield Finding(
            'hidden folder',
            str(folder / name),
            f'{option} must have folders of classes only, but mmpretrain takes {folder / name} '
            'for a class, too: remove the folder',
        )
    classes = [folder / name for name in names if name not in hidden]
    images = {path: _find_image(data, path) for path in classes}
    needed = setting.startswith('train_') or not any(images.values())
    for path, image in images.items():
        if image is None:
            message = (
                f'{option} must have images of each class, but there are none in {path}: fill or '
                'remove the folder'
            )
            if not needed:  # The folder itself may be, so that the next ones keep their numbers.
                message = f'{path} ({option}) has no images: its class is not scored'
            yield Finding('empty folder', str(path), message, 'error' if needed else 'warning')
    yield from _find_other_suffixes(setting, data, classes if track else classes[:MAX_FOLDERS])
    if track is None:  # otherwise, all images are read
        samples = [dict(img_path=str(path)) for path in images.values() if path]
        yield from find_image_faults(setting, dataset, samples, None)
    if hidden:
        return  # They are counted as classes.
    others = list(_compare_with_training(option, folder, names, cfg))
    yield from others
    if given is not None and not others:
        yield from _compare_with_names(setting, folder, names, list(given))
    elif not others:
        yield from _compare_with_head(option, folder, names, cfg)


def _compare_with_names(
    setting: str, folder: Path, names: list[str], given: list[str]
) -> Iterator[Finding]:
    """Compare folders with the names in the config: the i-th folder gets the i-th name."""
    if len(names) != len(given):
        yield Finding.of(
            names,
            'number of folders',
            str(folder),
            f'{setting}.metainfo.classes must have a name for each folder in {folder}, which has '
            f'{len(names)}, {list_some(names)}; it has {len(given)}, {list_some(given)}',
        )
        return
    plain = [_plain(name) for name in names]
    swapped = [
        f'{name} for the folder {names[i]}'
        for i, name in enumerate(given)
        if _plain(name) in plain and plain.index(_plain(name)) != i
    ]
    if swapped and len(set(plain)) == len(plain):
        yield Finding.of(
            swapped,
            'order of classes',
            str(folder),
            f'{setting}.metainfo.classes must be in the alphabetical order of the folders in '
            f'{folder}, which number the classes, but it has {list_some(swapped)}',
        )


def _compare_with_head(
    option: str, folder: Path, names: list[str], cfg: Config
) -> Iterator[Finding]:
    number = _num_classes(cfg)
    if number and len(names) != number:
        yield Finding.of(
            names,
            'number of folders',
            str(folder),
            f'model.head.num_classes must be the number of folders in {folder} ({option}), '
            f'{len(names)}, got {number}',
            'error' if len(names) > number else 'warning',
        )


def _compare_with_training(
    option: str, folder: Path, names: list[str], cfg: Config
) -> Iterator[Finding]:
    """Compare folders with those of the first data set in training, which number the classes."""
    for setting, dataset in find_datasets(cfg.get('train_dataloader') or {}, 'train_dataloader'):
        local = is_local(dataset, dataset.get('data_root') or '.')
        data = _build(setting, dataset) if local else None
        if data is None or data.ann_file or not data.with_label:
            return
        trained = Path(data.img_prefix)
        known = _list_folders(trained) if trained.is_dir() else []
        extra = [name for name in names if name not in known]
        missing = [name for name in known if name not in names]
        # Without the last ones the others have the same numbers.
        numbered = not any(map(_is_hidden, known))
        if known and numbered and names != known[: len(names)]:
            faults = [f'has no {list_some(missing)}'] * bool(missing)
            faults += [f'has {list_some(extra)} in addition'] * bool(extra)
            yield Finding.of(
                missing + extra,
                'other folders',
                str(folder),
                f'{option} must have the folders of {trained} ({setting}), since the order of the '
                f'folders numbers the classes, but {folder} {" and ".join(faults)}',
            )
        return


def _find_list_faults(
    setting: str, data: Any, dataset: ConfigDict, cfg: Config, track: Track | None
) -> Iterator[Finding]:
    """Find lines of a list that are no path and label, labels out of range, absent images."""
    setting = f'{setting}.ann_file'
    lines = Path(data.ann_file).read_text().splitlines()
    if not lines:
        message = f'{setting} must have a line for each image, but {data.ann_file} is empty'
        yield Finding('empty list', str(data.ann_file), message)
        return
    number = _num_classes(cfg) or 0  # pretraining without classes does not use the labels
    samples, labels = [], set()
    odd, outside = [], []
    for i, line in enumerate(lines, 1):
        try:
            name, label = _parse(line) if data.with_label else (line, 0)
        except ValueError:
            odd.append(f'line {i}: {line[:80]!r}' if line.strip() else f'line {i} is blank')
            continue
        samples.append(dict(img_path=str(Path(data.img_prefix, name))))
        labels.add(label)
        if number and not 0 <= label < number:
            outside.append(f'line {i}: {line[:80]!r}')
    if odd:
        yield Finding.of(
            odd,
            'odd lines',
            str(data.ann_file),
            f'{setting} must have a path, a space and the number of a class in each line, but of '
            f'{len(lines)} lines of {data.ann_file} {len(odd)} have not, {odd[0]}',
        )
    if outside:
        from_one = min(labels) == 1 and max(labels) == number
        yield Finding.of(
            outside,
            'labels out of range',
            str(data.ann_file),
            f'{setting} must have labels from 0 to {number - 1}, for {number} classes, but of '
            f'{len(lines)} lines of {data.ann_file} {len(outside)} have others, {outside[0]}'
            + ('; count the classes from 0' if from_one else ''),
        )
    names = dict(enumerate(data.CLASSES or ()))
    unused = [str(names.get(i, i)) for i in range(number) if i not in labels]
    if unused and data.with_label and not odd and not outside:
        yield Finding.of(
            unused,
            'class without images',
            str(data.ann_file),
            f'{data.ann_file} ({setting}) has no image of {list_some(unused)}',
            'warning',
        )
    if track is None and reads_local_files(dataset):  # otherwise, all images are read
        chosen = list(select(samples, None, 10 * MAX_SAMPLES))
        yield from find_missing_files(setting, chosen, 'img_path')


def _parse(line: str) -> tuple[str, int]:
    """Read the path and the label of a line as mmpretrain does."""
    name, label = line.strip().rsplit(' ', 1)
    return name, int(label)


def _list_folders(folder: Path) -> list[str]:
    """List folders in the order in which mmpretrain numbers them."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def _is_hidden(name: str) -> bool:
    return name.startswith('.') or name in FOREIGN


def _find_image(data: Any, folder: Path) -> Path | None:
    """Return an image in a folder, or None if mmpretrain finds none."""
    names = list_dir_or_file(folder, list_dir=False, recursive=True)
    return next((folder / name for name in names if data.is_valid_file(name)), None)


def _find_other_suffixes(setting: str, data: Any, folders: list[Path]) -> Iterator[Finding]:
    """Find images in folders of classes that mmpretrain leaves out because of their suffix."""
    others = [
        f'{folder.name}/{name}'
        for folder in folders
        for name in sorted(list_dir_or_file(folder, list_dir=False, recursive=True))
        if name.lower().endswith(IMAGE_SUFFIXES) and not data.is_valid_file(name)
    ]
    if others:
        yield Finding.of(
            others,
            'other suffix',
            str(data.img_prefix),
            f'{setting} leaves out {len(others)} images in {data.img_prefix}, whose names do not '
            f'end with one of its extensions, {", ".join(sorted(data.extensions))}: '
            f'{list_some(others)}',
            'warning',
        )


def _num_classes(cfg: Config) -> int | None:
    head = (cfg.get('model') or {}).get('head')
    return head.get('num_classes') if isinstance(head, dict) else None


def _plain(name: str) -> str:
    return str(name).casefold().replace('_', ' ').replace('-', ' ')
