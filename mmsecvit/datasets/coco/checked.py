"""mmdet's data set and metric for annotation files in COCO's format, with checked annotations.

This module needs mmdet and is imported when a config builds one of its classes.
"""

import logging
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmdet.datasets import CocoDataset
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmengine.fileio import get_local_path
from mmengine.logging import MMLogger, print_log

from ..findings import DataError, report
from ..images import has_other_size
from ..samples import LOCAL_BACKENDS, select
from .content import mend_coco
from .files import find_missing, read_coco

SETTING = 'ann_file'
MAX_SIZES = 50  # images whose size is read


class CheckedCOCO(COCO):
    """Annotations that are checked and mended, with categories in the order of names.

    Args:
        annotation_file: Path of the file.
        name: Name of the file for messages. Defaults to the path.
        **options: Arguments of :func:`mend_coco`.

    Raises:
        DataError: If the file cannot be used. What was mended or is suspicious is logged.
    """

    def __init__(self, annotation_file: str, name: str | None = None, **options: Any) -> None:
        super().__init__()
        name = name or annotation_file
        self.dataset = read_coco(annotation_file, SETTING, name)
        for message in report(mend_coco(self.dataset, SETTING, name, **options)):
            _warn_once(MMLogger.get_current_instance(), message)
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def get_cat_ids(
        self, cat_names: Sequence = (), sup_names: Sequence = (), cat_ids: Sequence = ()
    ) -> list:
        """Return ids of categories: the first belongs to the first name, and so on."""
        if not cat_names:
            return super().get_cat_ids([], sup_names, cat_ids)
        ids = {category.get('name'): category['id'] for category in self.dataset['categories']}
        return [ids[name] for name in cat_names]


class CheckedCocoDataset(CocoDataset):
    """mmdet's ``CocoDataset`` with checked annotations, where label i is ``classes[i]``.

    ``CocoDataset`` numbers the classes in the order of the file's categories. This class takes the
    same arguments. Whatever else in the annotations would end training late, or would leave out
    objects without a word, is refused, mended or said: see :func:`mend_coco`.

    Example:
        >>> train_dataloader = dict(dataset=dict(type='CheckedCocoDataset'))
    """

    def load_data_list(self) -> list[dict]:
        """Load and check the annotation file.

        Raises:
            DataError: If it cannot be used.
        """
        self.COCOAPI = partial(
            CheckedCOCO,
            name=self.ann_file,
            classes=self.metainfo['classes'],
            masks=any(getattr(step, 'with_mask', False) for step in self.pipeline.transforms),
            use='predict' if self.test_mode else 'train',
        )
        try:
            return super().load_data_list()
        finally:
            del self.COCOAPI

    def filter_data(self) -> list[dict]:
        """Filter images by ``filter_cfg``, and log how many it leaves out.

        Raises:
            DataError: If no image is left, or the file of one does not exist.
        """
        kept = super().filter_data()
        self._check_files(kept)
        total = len(self.data_list)
        if len(kept) < total:
            known = {id(sample) for sample in kept}
            least = self.filter_cfg.get('min_size', 0)
            left_out = [sample for sample in self.data_list if id(sample) not in known]
            small = sum(min(sample['width'], sample['height']) < least for sample in left_out)
            has = (
                f'filter_cfg leaves out {len(left_out)} of {total} images of {self.ann_file}: '
                f'{small} with a side below {least}, the others without objects of the classes'
            )
            if not kept:
                raise DataError(has)
            print_log(has, 'current', logging.INFO)
        return kept

    def _check_files(self, samples: list[dict]) -> None:
        """Raise a DataError if mmcv's own loader would not find files on local disks."""
        loaders = [step for step in self.pipeline.transforms if type(step) is LoadImageFromFile]
        if not loaders or loaders[0].ignore_empty or loaders[0].file_client_args:
            return
        backend = (loaders[0].backend_args or {}).get('backend', 'local')
        used = self._used(samples)
        paths = [sample['img_path'] for sample in used]
        if backend not in LOCAL_BACKENDS or any('://' in path for path in paths):
            return
        missing = find_missing(paths)
        if missing:
            windows = any('\\' in path for path in missing[:1])
            hint = ', which has backslashes as on Windows' if windows else ''
            raise DataError(
                f'data_prefix.img {self.data_prefix["img"]} must have the images of '
                f'{self.ann_file}, but {len(missing)} of {len(paths)} files do not exist, the '
                f'first is {missing[0]}{hint}'
            )
        looked_at = list(select(used, None, MAX_SIZES))
        oriented = loaders[0].color_type in ('color', 'grayscale')
        others = [sample['img_path'] for sample in looked_at if has_other_size(sample, oriented)]
        if others:
            _warn_once(
                MMLogger.get_current_instance(),
                f'ann_file {self.ann_file} has another height and width than the image of '
                f'{len(others)} of {len(looked_at)} images that were looked at, such as '
                f'{others[0]}: boxes are in pixels of the image as it is read, turned as its '
                'metadata says',
            )

    def _used(self, samples: list[dict]) -> list[dict]:
        """Return the samples that the argument ``indices`` leaves."""
        if self._indices is None:
            return samples
        if isinstance(self._indices, int):
            return samples[: self._indices] if self._indices >= 0 else samples[self._indices :]
        return [samples[i] for i in self._indices]


class CheckedCocoMetric(CocoMetric):
    """mmdet's ``CocoMetric`` with checked annotations, where label i is ``classes[i]``.

    It takes the same arguments, and scores the images of the data set: with ``indices``, a data set
    may have fewer than the annotation file. ``iou_thrs`` may be a number or a list.

    Example:
        >>> val_evaluator = dict(type='CheckedCocoMetric', ann_file='val.json')
    """

    def __init__(self, ann_file: str | None = None, *args: Any, **kwargs: Any) -> None:
        self._dataset_meta: dict | None = None
        super().__init__(None, *args, **kwargs)
        # pycocotools compares all of them with a number.
        self.iou_thrs: Any = np.atleast_1d(self.iou_thrs)
        self.ann_file = ann_file

    @property
    def dataset_meta(self) -> dict | None:
        """Meta information of the data set. To set it loads the annotations for its classes.

        Raises:
            DataError: If the annotation file cannot be used.
        """
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict) -> None:
        classes = dataset_meta['classes']
        if self.ann_file is not None and classes != (self._dataset_meta or {}).get('classes'):
            with get_local_path(self.ann_file, backend_args=self.backend_args) as path:
                self._coco_api = CheckedCOCO(
                    path,
                    name=str(self.ann_file),
                    classes=classes,
                    masks='segm' in self.metrics and not self.format_only,
                    use='predict' if self.format_only else 'score',
                )
            self.ids_of_labels = self._coco_api.get_cat_ids(cat_names=classes)
        self._dataset_meta = dataset_meta

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Score the results of the data set's images."""
        if self.ann_file is not None:
            self.img_ids = list(dict.fromkeys(result['img_id'] for _, result in results))
            total = len(self._coco_api.imgs)
            if len(self.img_ids) < total:
                has = f'{len(self.img_ids)} of {total} images of {self.ann_file} are scored: '
                print_log(f'{has}the data set has no others.', 'current', logging.WARNING)
            # The axis of classes in pycocotools' results is sorted by ids.
            self.cat_ids = sorted(self.ids_of_labels)
        return super().compute_metrics(results)

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict:
        """Write results with the ids that the categories have in the file."""
        if self.ann_file is None:
            return super().results2json(results, outfile_prefix)
        sorted_ids, self.cat_ids = self.cat_ids, self.ids_of_labels
        try:
            return super().results2json(results, outfile_prefix)
        finally:
            self.cat_ids = sorted_ids


@cache
def _warn_once(logger: MMLogger, message: str) -> None:
    """Log a message once in a run: a data set and its evaluator share a file."""
    logger.warning(message)
