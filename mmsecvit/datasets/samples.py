"""Find the samples of a data set, and what is wrong with their image files."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import ConfigDict
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope, Registry

from .file_backend import LOADERS
from .findings import MISSING, DataError, Finding, Level
from .images import count_bits, has_other_size, unreadable_reason
from .nodes import find_class, type_name

PACKAGES = ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'mmsecvit')
LOCAL_BACKENDS = ('local', 'disk', 'checked_image')
MAX_SAMPLES = 100  # read in a quick check, of each data set
Track = Callable[[Sequence], Iterable]


def select(items: Sequence, track: Track | None, most: int = MAX_SAMPLES) -> Iterable:
    """Return all items, with progress, or without `track` evenly spaced ones, `most` at most."""
    if track:
        return track(items)
    number = min(len(items), most)
    return [items[i * len(items) // number] for i in range(number)]


def build_dataset(setting: str, dataset: ConfigDict, scope: str, **arguments: Any) -> Any:
    """Build a data set without its pipeline.

    Args:
        setting: Dotted name of the data set.
        dataset: Config of the data set.
        scope: Toolbox of the config.
        arguments: Values that replace those of the config.

    Raises:
        DataError: If it cannot be built.
    """
    if 'pipeline' in dataset:
        arguments['pipeline'] = []
    try:
        with DefaultScope.overwrite_default_scope(scope):
            return DATASETS.build({**dataset, **arguments})
    except Exception as error:
        raise DataError(f'{setting} cannot be built: {error or type(error).__name__}') from error


def build_lazily(setting: str, dataset: ConfigDict, scope: str) -> Any:
    """Build a data set without its samples; None if a class of the user's own cannot be."""
    try:
        return build_dataset(setting, dataset, scope, lazy_init=True)
    except DataError as error:
        if isinstance(error.__cause__, TypeError):
            return None
        raise


def load_samples(setting: str, data: Any) -> list[dict]:
    """Return what a data set that was built without its samples knows of each of them.

    Raises:
        DataError: If it cannot load them.
    """
    data.serialize_data = False  # which saves memory of workers and takes half a second
    try:
        data.full_init()
        return [data.get_data_info(i) for i in range(len(data))]
    except Exception as error:
        raise DataError(f'{setting} cannot be loaded: {error or type(error).__name__}') from error


def find_loader(dataset: ConfigDict, name: str) -> ConfigDict | None:
    """Return a transform of a data set's pipeline by the name of its type, or None."""
    transforms = dataset.get('pipeline') or ()
    return next((node for node in transforms if type_name(node) == name), None)


def reads_local_files(dataset: ConfigDict, name: str = 'LoadImageFromFile') -> bool:
    """Tell whether a loader of a data set's pipeline reads files on local disks, not in a store."""
    loader = find_loader(dataset, name) or {}
    chosen = loader.get('backend_args') or loader.get('file_client_args') or {}
    return chosen.get('backend', 'local') in LOCAL_BACKENDS


def is_of_toolboxes(node: dict, registry: Registry, scope: str | None) -> bool:
    """Tell whether the type of a part of a config is a toolbox's own: we know what it does."""
    cls = find_class(node, registry, scope)
    return getattr(cls, '__module__', '').partition('.')[0] in PACKAGES


def build_transform(node: ConfigDict, scope: str) -> Any:
    """Build a transform that loads a file, so that an error names the file."""
    chosen = node.get('backend_args') or node.get('file_client_args')
    named = {} if chosen else dict(backend_args=dict(backend='checked_image'))
    with DefaultScope.overwrite_default_scope(scope):
        return TRANSFORMS.build({**node, **named})


def find_missing_files(setting: str, samples: Sequence[dict], key: str) -> Iterator[Finding]:
    """Find the samples whose file does not exist.

    Args:
        setting: Dotted name of the option that names the files.
        samples: What the data set knows of each sample.
        key: The path's key in a sample.
    """
    missing = [sample[key] for sample in samples if not Path(sample[key]).is_file()]
    if not missing:
        return
    folder = Path(missing[0]).parent
    there = count_suffixes(path.name for path in folder.iterdir()) if folder.is_dir() else ''
    hint = f' (the files there end with {there})' if there else ''
    yield Finding.of(
        missing,
        MISSING,
        missing[0],
        f'{setting} must name files that exist, but {len(missing)} of {len(samples)} do not, the '
        f'first is {missing[0]}{hint}',
    )


def count_suffixes(names: Iterable[str]) -> str:
    """List the suffixes of file names for a message, as in ``.png (12), .txt (1)``."""
    counts = Counter(Path(name).suffix for name in names)
    return ', '.join(f'{suffix} ({count})' for suffix, count in counts.most_common(5) if suffix)


def find_damage(setting: str, dataset: ConfigDict, scope: str, track: Track) -> Iterator[Finding]:
    """Find the files of a data set that cannot be read; all are tried."""
    data = build_lazily(setting, dataset, scope)
    if data is None:
        data = build_dataset(setting, dataset, scope)
    samples = load_samples(setting, data)
    # Label images are read in another check.
    keys = ('img_path',) if scope == 'mmseg' else ('img_path', 'seg_map_path')
    yield from find_image_faults(setting, dataset, samples, track, keys)
    if scope == 'mmdet':
        yield from _find_other_sizes(setting, dataset, samples)


def _find_other_sizes(
    setting: str, dataset: ConfigDict, samples: Sequence[dict]
) -> Iterator[Finding]:
    """Find images of another size than the annotations say."""
    loader = find_loader(dataset, 'LoadImageFromFile') or {}
    oriented = loader.get('color_type', 'color') in ('color', 'grayscale')
    sized = [s for s in samples if 'height' in s and Path(s['img_path']).is_file()]
    others = [sample['img_path'] for sample in sized if has_other_size(sample, oriented)]
    if others:
        yield Finding.of(
            others,
            'other size',
            others[0],
            f'{setting} has another height and width than the image of {len(others)} of '
            f'{len(sized)} images, such as {others[0]}: boxes are in pixels of the image as it is '
            'read, turned as its metadata says',
            'warning',
        )


def find_image_faults(
    setting: str,
    dataset: ConfigDict,
    samples: Sequence[dict],
    track: Track | None,
    keys: tuple[str, ...] = ('img_path', 'seg_map_path'),
) -> Iterator[Finding]:
    """Find image files that cannot be read, and those of which bits are lost.

    Args:
        setting: Dotted name of the data set.
        dataset: Config of the data set.
        samples: What the data set knows of each sample.
        track: Shows progress over all files. Without it, only the depth of a sample is read.
        keys: The keys of files in a sample.
    """
    names = [type_name(node) for node in dataset.get('pipeline') or ()]
    if any(name.startswith('Load') and 'Image' in name and name not in LOADERS for name in names):
        return  # Its files may be anything.
    if not reads_local_files(dataset):
        return
    loader = find_loader(dataset, 'LoadImageFromFile') or {}
    level: Level = 'warning' if loader.get('ignore_empty') else 'error'
    named = (sample.get(key) for sample in samples for key in keys)
    files = sorted({path for path in named if isinstance(path, str)})
    labels = {sample.get('seg_map_path') for sample in samples}
    faults: dict[str, list[str]] = {}
    reasons: dict[str, str] = {}
    deep: list[str] = []
    for path in select(files, track):
        reason = unreadable_reason(path) if track else None
        if reason:
            kind = reason.partition(':')[0]
            faults.setdefault(kind, []).append(path)
            reasons.setdefault(kind, reason)
        elif path not in labels and count_bits(path) > 8:
            deep.append(path)
    for kind, paths in faults.items():
        yield Finding.of(
            paths,
            kind,
            paths[0],
            f'{setting} must have image files that can be read, but of {len(files)} files '
            f'{len(paths)} cannot: {paths[0]} is {reasons[kind]}',
            level,
        )
    if deep and loader.get('color_type', 'color') == 'color':
        yield Finding.of(
            deep,
            'more than 8 bits',
            deep[0],
            f'{setting} has {len(deep)} images with more than 8 bits a channel, such as {deep[0]}: '
            'LoadImageFromFile keeps the upper 8 of 16 bits, so that images which do not use the '
            'whole range become nearly black: convert them to 8 bits',
            'warning',
        )
