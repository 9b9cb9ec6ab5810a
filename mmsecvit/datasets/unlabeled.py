"""Find metrics that need labels where the data has none."""

from collections.abc import Iterator

from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS

from .findings import Finding
from .nodes import find_class, find_datasets, find_nodes, type_name

# The toolboxes' metrics that compare predictions with labels of a sample, and what to do instead.
PREDICT_SEGMENTS = 'format_only=True and an output_dir, which writes the predictions'
PREDICT_CLASSES = "type='DumpResults' and an out_file_path, which writes the predictions"
NEED_LABELS = {
    'IoUMetric': PREDICT_SEGMENTS,
    'CityscapesMetric': PREDICT_SEGMENTS,
    'Accuracy': PREDICT_CLASSES,
    'SingleLabelMetric': PREDICT_CLASSES,
    'ConfusionMatrix': PREDICT_CLASSES,
    'AveragePrecision': PREDICT_CLASSES,
    'MultiLabelMetric': PREDICT_CLASSES,
}


def find_missing_labels(cfg: Config, split: str) -> Iterator[Finding]:
    """Find the metrics and loaders of a split that need labels which its data does not have.

    Args:
        cfg: Config of a segmenter or classifier.
        split: ``train``, ``val`` or ``test``.
    """
    loader = f'{split}_dataloader'
    for setting, dataset in find_datasets(cfg.get(loader), loader):
        why = _reason_without_labels(cfg.default_scope, dataset)
        if not why:
            continue
        for name, _ in find_nodes(dataset.get('pipeline'), f'{setting}.pipeline', _loads_labels):
            yield _finding(f'{name} loads labels, but {setting} has none ({why}): leave it out')
        evaluator = f'{split}_evaluator'
        for name, metric in find_nodes(cfg.get(evaluator), evaluator, _needs_labels):
            instead = NEED_LABELS[type_name(metric)]
            yield _finding(
                f'{name} ({type_name(metric)}) needs labels, but {setting} has none ({why}): '
                f'set {instead}'
            )


def _reason_without_labels(scope: str, dataset: ConfigDict) -> str:
    cls = find_class(dataset, DATASETS, scope)
    if not getattr(cls, '__module__', '').startswith(f'{scope}.'):
        return ''  # A class of one's own may have its labels from anywhere.
    prefixes = dataset.get('data_prefix')
    if scope == 'mmseg' and isinstance(prefixes, dict) and prefixes.get('seg_map_path') is None:
        return 'data_prefix has no seg_map_path'
    if scope == 'mmpretrain' and dataset.get('with_label') is False:
        return 'with_label=False'
    if type_name(dataset) == 'ImageNet' and dataset.get('split') == 'test':
        return "split='test'"
    return ''


def _loads_labels(node: dict) -> bool:
    return type_name(node) == 'LoadAnnotations'


def _needs_labels(node: dict) -> bool:
    return type_name(node) in NEED_LABELS and not node.get('format_only')


def _finding(message: str) -> Finding:
    return Finding('without labels', '', message)
