"""Write the paper's numbers into the metafiles and the tables of a source tree."""

import re
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config

from .paper import ROWS, PaperRow

# The metrics that are shown: the evaluator's name, then the dataset, the task and a short name.
METRICS = {
    'accuracy/top1': ('ImageNet-1k', 'Image Classification', 'top-1'),
    'coco/bbox_mAP': ('COCO', 'Object Detection', 'box AP'),
    'coco/segm_mAP': ('COCO', 'Instance Segmentation', 'mask AP'),
    'mIoU': ('ADE20K', 'Semantic Segmentation', 'mIoU'),
}
# Each metafile has the configs whose names match the pattern.
FAMILIES = {
    'secvit': ('secvit_[tsbl]_in1k', ['SecViT']),
    'sec_swin': ('sec_swin_[ts]_in1k', ['SEC-Swin']),
    'sec_fastervit': ('sec_fastervit_[01]_in1k', ['SEC-FasterViT']),
    'mask_rcnn': ('mask_rcnn_secvit_[tsbl]_[13]x', ['SecViT', 'Mask R-CNN']),
    'cascade_mask_rcnn': (
        'cascade_mask_rcnn_secvit_[tsbl]_[13]x',
        ['SecViT', 'Cascade Mask R-CNN'],
    ),
    'retinanet': ('retinanet_secvit_[tsbl]_[13]x', ['SecViT', 'RetinaNet']),
    'semantic_fpn': ('semantic_fpn_secvit_[tsbl]_80k', ['SecViT', 'Semantic FPN']),
    'upernet': ('upernet_secvit_[tsbl]_160k', ['SecViT', 'UPerNet']),
}
METAFILE_HEAD = """\
# Written by tools/maintenance/write_paper_results.py: edit mmsecvit/analysis/paper.yml instead.
# 'paper ...' is a result of the paper's authors. None of their trainings has been repeated here.
"""
TABLES = re.compile(r'(<!-- paper results(?:: ([\d, ]+))? -->\n).*?(<!-- /paper results -->)', re.S)
TABLE_HEAD = """\
**The paper's numbers**, as its authors measured them. Results are in percent.
"""


def _write_metafile(root: Path, family: str) -> str:
    """Write what OpenMMLab's installer `mim` reads about one family of configs."""
    pattern, architecture = FAMILIES[family]
    name = ' with '.join(reversed(architecture))
    paths = sorted((root / 'configs').glob(f'{pattern}.py'), key=_rank)
    # All sizes of a network share a schedule.
    schedules = {path.stem.split('_')[-1]: path for path in paths}
    trainings = {schedule: _read_training(path) for schedule, path in schedules.items()}
    found = {path.stem: _results(path.stem) for path in paths}
    (dataset,) = {result['Dataset'] for result in sum(found.values(), [])}
    collection = {
        'Name': name,
        'Metadata': {
            'Training Data': dataset,
            'Training Techniques': ['AdamW'],
            'Architecture': architecture,
        },
        'Paper': {
            'Title': 'Semantic Equitable Clustering',
            'URL': 'https://arxiv.org/abs/2405.13337',
        },
        'README': 'README.md',
    }
    models = [
        {
            'Name': config,
            'In Collection': name,
            'Config': f'configs/{config}.py',
            'Metadata': trainings[config.split('_')[-1]],
            **({'Results': reported} if reported else {}),
        }
        for config, reported in found.items()
    ]
    content = {'Collections': [collection], 'Models': models}
    return METAFILE_HEAD + yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, default_flow_style=None
    )


class _Dumper(yaml.SafeDumper):
    """Write shared values in full, not as anchors and aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _rank(path: Path) -> tuple:
    """Sort small networks before large ones, then short schedules before long ones."""
    size, schedule = path.stem.split('_')[-2:]
    return 'tsbl01'.index(size), schedule


def _read_training(path: Path) -> dict:
    config = Config.fromfile(path)
    if 'max_epochs' in config.train_cfg:
        length = {'Epochs': config.train_cfg.max_epochs}
    else:
        length = {'Iterations': config.train_cfg.max_iters}
    return {**length, 'Batch Size': config.auto_scale_lr.base_batch_size}


def _results(config: str) -> list[dict]:
    reported = {row.config: row.results for row in ROWS}.get(config, {})
    return [
        {'Task': task, 'Dataset': dataset, 'Metrics': {f'paper {metric}': reported[key]}}
        for key, (dataset, task, metric) in METRICS.items()
        if key in reported
    ]


def _write_table(rows: list[PaperRow], with_links: bool) -> str:
    """Write a Markdown table with one row for each config."""
    metrics = {
        key: f'{dataset} {metric}'
        for key, (dataset, _, metric) in METRICS.items()
        if any(key in row.results for row in rows)
    }
    lines = [
        TABLE_HEAD,
        _write_row(['config', 'parameters (M)', 'FLOPs (G)', *metrics.values()]),
        '|---|' + '---|' * (2 + len(metrics)),
    ]
    for row in rows:
        path = f'configs/{row.config}.py'
        config = f'[{row.config}]({path})' if with_links else f'`{path}`'
        lines.append(
            _write_row([config, row.parameters, row.flops, *map(row.results.get, metrics)])
        )
    return '\n'.join(lines) + '\n'


def _write_row(cells: list) -> str:
    return f'|{"|".join(" " if cell is None else f" {cell} " for cell in cells)}|'


def _write_tables(page: Path, with_links: bool) -> str:
    """Return the text of a page with new tables. By default, a table shows Tables 1 to 5."""

    def renewed(match: re.Match) -> str:
        wanted = {number.strip() for number in (match[2] or '1, 2, 3, 4, 5').split(',')}
        rows = [row for row in ROWS if wanted & set(row.tables.split(', '))]
        table = _write_table(rows, with_links)
        return f'{match[1]}\n{table}\n{match[3]}'

    return TABLES.sub(renewed, page.read_text(encoding='utf-8'))


def write_results(root: Path) -> dict[Path, str]:
    """Return every file that shows the paper's numbers, with its content.

    These are the metafiles in ``configs/``, ``README.md`` and the pages of ``docs/``. Their tables
    are between the comments ``<!-- paper results -->`` (or ``<!-- paper results: TABLES -->``) and
    ``<!-- /paper results -->``.

    Args:
        root: Source tree of this package. Nothing is written into it.

    Returns:
        The new content of each file, by its path.
    """
    texts = {
        root / f'configs/{family}_metafile.yml': _write_metafile(root, family)
        for family in FAMILIES
    }
    texts[root / 'README.md'] = _write_tables(root / 'README.md', with_links=True)
    # The site of docs/ does not have the configs.
    for page in (root / 'docs').glob('*.md'):
        texts[page] = _write_tables(page, with_links=False)
    return texts
