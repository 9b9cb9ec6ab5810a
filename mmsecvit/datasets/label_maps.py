"""Check the label images of a segmenter."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.fileio import list_dir_or_file
from mmengine.registry import DATASETS, METRICS, MODELS, TRANSFORMS

from .findings import Finding, Level, list_some
from .images import IMAGE_SUFFIXES, read_header, unreadable_reason
from .nodes import find_class, find_nodes, type_name
from .samples import (
    MAX_SAMPLES,
    Track,
    build_lazily,
    build_transform,
    count_suffixes,
    find_image_faults,
    find_loader,
    find_missing_files,
    is_of_toolboxes,
    load_samples,
    reads_local_files,
    select,
)

MAX_PIXELS = 1 << 28  # of the label images that a quick check reads of a data set
SCOPE = 'mmseg'


def find_label_faults(
    setting: str, dataset: ConfigDict, cfg: Config, track: Track | None
) -> Iterator[Finding]:
    """Find what is wrong with the images and label images of a segmenter.

    Args:
        setting: Dotted name of the data set.
        dataset: Config of the data set.
        cfg: Config of the whole experiment.
        track: Shows progress over all samples. Without it, the files of all must exist, and the
            label images of a sample are read.
    """
    from mmseg.datasets import BaseSegDataset

    cls = find_class(dataset, DATASETS, SCOPE)
    if not (isinstance(cls, type) and issubclass(cls, BaseSegDataset)):
        return
    data = build_lazily(setting, dataset, SCOPE)
    if data is None:
        return
    if type(data).load_data_list is BaseSegDataset.load_data_list and not data.ann_file:
        others = list(_find_other_suffixes(setting, data))
        yield from others
        if any(finding.level == 'error' for finding in others):
            return
    elif type(data).load_data_list is BaseSegDataset.load_data_list:
        yield from _find_blank_lines(f'{setting}.ann_file', Path(data.ann_file))
    samples = load_samples(setting, data)
    if not samples or 'img_path' not in samples[0]:
        return
    if track is None and reads_local_files(dataset):  # otherwise, all images are read
        yield from find_missing_files(f'{setting}.ann_file', samples, 'img_path')
        yield from find_image_faults(setting, dataset, samples, None, ('img_path',))
    loader = find_loader(dataset, 'LoadAnnotations')
    if loader is None or not _is_of_mmseg(loader) or 'seg_map_path' not in samples[0]:
        return
    if not reads_local_files(dataset, 'LoadAnnotations'):
        return
    yield from find_missing_files(f'{setting}.data_prefix.seg_map_path', samples, 'seg_map_path')
    there = [sample for sample in samples if Path(sample['seg_map_path']).is_file()]
    if there:
        yield from _LabelReader(setting, dataset, cfg, data, loader).find_faults(there, track)


def _is_of_mmseg(loader: ConfigDict) -> bool:
    from mmseg.datasets.transforms import LoadAnnotations

    cls = find_class(loader, TRANSFORMS, SCOPE)
    return isinstance(cls, type) and issubclass(cls, LoadAnnotations)


def _find_blank_lines(setting: str, file: Path) -> Iterator[Finding]:
    lines = file.read_text().splitlines() if file.is_file() else ['a folder, which mmseg accepts']
    blank = [str(i) for i, line in enumerate(lines, 1) if not line.strip()]
    if blank or not lines:
        has = f'line {blank[0]} of {len(lines)} is blank' if blank else 'it is empty'
        message = f'{setting} {file} must name an image in each line, but {has}'
        yield Finding('blank line', str(file), message, count=len(blank) or 1)


def _find_other_suffixes(setting: str, data: Any) -> Iterator[Finding]:
    """Find images that a data set leaves out because of their suffix."""
    folder = Path(data.data_prefix.get('img_path') or '.')
    # As mmseg does, follow links of folders.
    found = list_dir_or_file(folder, list_dir=False, recursive=True) if folder.is_dir() else ()
    names = sorted(found)
    suffixes = (data.img_suffix, data.seg_map_suffix)
    if not any(name.endswith(data.img_suffix) for name in names):
        yield Finding(
            'no images',
            str(folder),
            f'{setting}.img_suffix must be the end of the names of images in {folder}, but no name '
            f'ends with {data.img_suffix!r}: there are {count_suffixes(names) or "no files"}',
        )
        return
    others = [name for name in names if name.lower().endswith(IMAGE_SUFFIXES)]
    others = [name for name in others if not name.endswith(suffixes)]
    if others:
        yield Finding.of(
            others,
            'other suffix',
            str(folder),
            f'{setting} leaves out {len(others)} images in {folder}, whose names do not end with '
            f'its img_suffix, {data.img_suffix!r}: {list_some(others)}',
            'warning',
        )


class _LabelReader:
    """Reads label images as the config's pipeline does, and collects what is wrong with them."""

    def __init__(
        self, setting: str, dataset: ConfigDict, cfg: Config, data: Any, loader: ConfigDict
    ) -> None:
        self.setting = setting
        self.trains = setting.startswith('train_')
        self.load_label = build_transform(loader, SCOPE)
        image = find_loader(dataset, 'LoadImageFromFile')
        self.load_image = build_transform(image, SCOPE) if image else None
        heads, metrics = _find_heads(cfg), _find_metrics(cfg, setting)
        self.classes = tuple(data.metainfo.get('classes') or ())
        numbers = [head.get('num_classes') or 0 for head in heads]
        numbers += [2 for head in heads if head.get('out_channels') == 1]  # with a sigmoid
        self.num_classes = max([len(self.classes), *numbers])
        self.ignored = _find_ignored(heads, metrics)
        self.shift = int(data.reduce_zero_label)  # what the loader has subtracted
        names = [type_name(node) for node in dataset.pipeline]
        after = names[names.index('LoadAnnotations') :]
        # A label image of another size may be resized to its image's.
        self.resizes = self.trains and any('Resize' in name for name in after)
        # Transforms, heads and metrics of the user's own may give the values another meaning.
        parts = ((TRANSFORMS, dataset.pipeline), (MODELS, heads), (METRICS, metrics))
        known = all(
            is_of_toolboxes(node, registry, SCOPE) for registry, nodes in parts for node in nodes
        )
        self.level: Level = 'error' if known else 'warning'
        self.files: dict[str, list[str]] = {}
        self.details: dict[str, str] = {}
        self.pixels: Counter[int] = Counter()  # with each value, after loading

    def find_faults(self, samples: Sequence[dict], track: Track | None) -> Iterator[Finding]:
        """Yield the faults of label images, of which all or a sample are read."""
        (height, width), _ = self._read_size(samples[0])
        most = MAX_PIXELS // (height * width or 1)
        chosen = select(samples, track, min(MAX_SAMPLES, max(4, most)))
        read = 0
        for sample in chosen:
            read += 1
            self._read(sample)
        total = len(samples)
        of = f'all {read}' if read == total else f'the {read} that were read (of {total})'
        for kind, paths in self.files.items():
            yield Finding.of(
                paths,
                kind,
                paths[0],
                f'label images of {self.setting} must {self._describe(kind)}, but {len(paths)} of '
                f'{of} do not: {paths[0]} {self.details[kind]}',
                'warning' if kind in ('other scale', 'turned') else self.level,
            )
        if not set(self.files) - {'other scale', 'turned'}:
            yield from self._find_unused_classes(samples, of, read == total, bool(track))

    def _read(self, sample: dict) -> None:
        path = sample['seg_map_path']
        reason = unreadable_reason(path)
        if reason:
            self._note(reason.partition(':')[0], path, f'is {reason}')
            return
        try:
            label = self.load_label(dict(sample, seg_fields=[]))['gt_seg_map']
        except Exception as error:  # what a decoder raises does not name the file
            self._note('not loaded', path, f'gives: {error or type(error).__name__}')
            return
        if label.ndim != 2:
            self._note('channels', path, f'has {label.shape[-1]}')
            return
        self._compare_sizes(sample, label)
        values, counts = np.unique(label, return_counts=True)
        valid = (values >= 0) & (values < self.num_classes) | np.isin(values, self.ignored)
        self.pixels.update(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        lost = self._find_lost_bits(path, label)
        if lost:
            self._note('bits', path, lost)
        elif not valid.all() and self.num_classes:
            wrong = [self._in_file(value) for value in values[~valid][:5]]
            detail = f'has {", ".join(wrong)}'
            if not self.shift and (values.min(), values.max()) == (1, self.num_classes):
                detail += '; if the classes begin at 1, set reduce_zero_label=True'
            self._note('values', path, detail)

    def _in_file(self, value: int) -> str:
        """Return what a file has where the loader gives a value."""
        return '0 or 255' if self.shift and value == 255 else str(value + self.shift)

    def _note(self, kind: str, path: str, detail: str) -> None:
        self.files.setdefault(kind, []).append(path)
        self.details.setdefault(kind, detail)

    def _describe(self, kind: str) -> str:
        """Say what label images must have, for a kind of fault."""
        first, last = self.shift, self.num_classes - 1 + self.shift
        ignored = sorted({0} if self.shift else set()) + list(self.ignored)
        also = f', or {" or ".join(map(str, ignored))}, which is ignored' if ignored else ''
        return {
            'channels': 'have one channel, which holds the number of the class of each pixel',
            'other size': 'have the size of their images',
            'other scale': 'have the size of their images',
            'turned': 'have the orientation of their images',
            'values': f'have values from {first} to {last}, for {self.num_classes} classes{also}',
            'bits': 'have whole values up to 255, as mmseg reads 8 bits',
        }.get(kind, 'have content that can be read')

    def _find_lost_bits(self, path: str, label: np.ndarray) -> str:
        """Say which value of a file becomes another one, as mmseg reads 8 bits; '' if none does."""
        from PIL import Image

        try:
            with Image.open(path) as image:
                raw = label if image.mode in ('1', 'L', 'P') else np.array(image)
        except Exception:  # the loader has another decoder
            return ''
        if raw.shape != label.shape or label.dtype != np.uint8:
            return ''
        # A value of 65535 or -1 becomes 255: to ignore it may be meant.
        lost = (raw != raw.astype(np.uint8)) & ~np.isin(label, self.ignored)
        if not lost.any():
            return ''
        return f'has {raw[lost][0]}, which is read as {label[lost][0] + self.shift}'

    def _compare_sizes(self, sample: dict, label: np.ndarray) -> None:
        (height, width), orientation = self._read_size(sample)
        path, own = sample['seg_map_path'], label.shape
        turn = ', as it is turned by its EXIF orientation' if orientation != 1 else ''
        if (height, width) != own and height:
            # Up to rounding, a resize makes them equal if their ratios are.
            skew = abs(height * own[1] - width * own[0]) > max(height, width, *own)
            kind = 'other scale' if self.resizes and not skew else 'other size'
            detail = f'has {own[1]}x{own[0]} pixels, and its image {width}x{height}{turn}'
            self._note(kind, path, detail)
        elif turn and (height == width or orientation < 5):  # the size does not tell
            detail = f'belongs to an image that is turned by its EXIF orientation, {orientation}'
            self._note('turned', path, detail)

    def _read_size(self, sample: dict) -> tuple[tuple[int, int], int]:
        """Return height and width of an image as it is loaded, and its EXIF orientation."""
        header = read_header(sample['img_path'])
        if header is None:  # a format that Pillow does not know, or damage, which has its own check
            return (0, 0), 1
        (width, height), orientation = header
        if orientation == 1 or self.load_image is None:
            return (height, width), orientation
        try:
            return self.load_image(dict(sample))['img_shape'], orientation
        except Exception:  # damage
            return (0, 0), 1

    def _find_unused_classes(
        self, samples: Sequence[dict], of: str, complete: bool, thorough: bool
    ) -> Iterator[Finding]:
        used = sorted(self.pixels)
        shown = [value for value in used if value not in self.ignored]
        path = samples[0]['seg_map_path']
        # Of ADE20K's 150 classes, a sample lacks many, and all files lack none.
        from_zero = self.shift and 255 in used and shown == list(range(self.num_classes - 1))
        hint = '; if the classes begin at 0, set reduce_zero_label=False' if from_zero else ''
        if len(shown) < 2 <= self.num_classes:
            values = ' and '.join(map(self._in_file, used))
            ignored = [value for value in used if value in self.ignored]
            certain = complete and self.trains and ignored
            ignores = f', of which {self._in_file(ignored[0])} is ignored' if ignored else ''
            yield Finding(
                'one class',
                path,
                f'label images of {self.setting} must show {self.num_classes} classes by the '
                f'values {self.shift}, {self.shift + 1} and so on, but {of} have only '
                f'{values}{ignores}: the first is {path}{hint}',
                self.level if certain else 'warning',
                len(samples),
                (path,),
            )
        elif hint:
            yield Finding(
                'last class without pixels',
                path,
                f'label images of {self.setting} should show the last class by the value '
                f'{self.num_classes}, but {of} have only {self._in_file(255)}, which is ignored as '
                f'reduce_zero_label=True, and 1 to {self.num_classes - 1}{hint}',
                'warning',
                len(samples),
                (path,),
            )
        elif thorough and self.classes:
            unused = [name for i, name in enumerate(self.classes) if i not in shown]
            if unused:
                yield Finding.of(
                    unused,
                    'class without pixels',
                    path,
                    f'label images of {self.setting} show no {list_some(unused)}',
                    'warning',
                )


def _find_heads(cfg: Config) -> list[ConfigDict]:
    """Return the heads of a segmenter that compare with label images."""
    nodes = find_nodes(cfg.get('model'), 'model', lambda x: type_name(x).endswith('Head'))
    return [head for _, head in nodes]


def _find_metrics(cfg: Config, setting: str) -> list[ConfigDict]:
    """Return the metrics of a data set's split."""
    evaluator = cfg.get(f'{setting.partition("_")[0]}_evaluator') or []
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]


def _find_ignored(heads: list[ConfigDict], metrics: list[ConfigDict]) -> list[int]:
    """Return the values that all heads ignore or, where there are metrics, any head or metric."""
    of_heads = [{head.get('ignore_index', 255)} for head in heads] or [{255}]
    if not metrics:
        return sorted(set.intersection(*of_heads) - {None})
    return sorted(set.union(*of_heads, *({m.get('ignore_index', 255)} for m in metrics)) - {None})
