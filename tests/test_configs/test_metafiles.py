"""Everything that shows the paper's numbers: the metafiles, which `mim` reads, and the tables."""

from pathlib import Path

import yaml

from mmsecvit import list_models
from mmsecvit.analysis import ROWS
from mmsecvit.analysis.results import write_results

ROOT = Path(__file__).parents[2]
# mmsecvit.analysis uses the names of the toolboxes' evaluators.
METRICS = {
    'paper box AP': 'coco/bbox_mAP',
    'paper mask AP': 'coco/segm_mAP',
    'paper mIoU': 'mIoU',
    'paper top-1': 'accuracy/top1',
}


def read_models():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    files = [yaml.safe_load((ROOT / name).read_text()) for name in index['Import']]
    collections = {c['Name'] for file in files for c in file['Collections']}
    return collections, [model for file in files for model in file['Models']]


def test_every_experiment_is_listed_once():
    collections, models = read_models()
    dense = sorted(p.stem for p in (ROOT / 'configs').glob('*_secvit_[tsbl]_*[xk].py'))
    assert len(dense) == 32
    classifiers = [f'{name}_in1k' for name in list_models()]
    assert sorted(model['Name'] for model in models) == sorted(dense + classifiers)
    for model in models:
        assert model['Config'] == f'configs/{model["Name"]}.py'
        assert model['In Collection'] in collections
        assert 'Weights' not in model  # nobody hosts any


def test_results_are_the_papers():
    rows = {row.config: row for row in ROWS}
    for model in read_models()[1]:
        found = {}
        for result in model.get('Results', []):
            found |= {METRICS[name]: value for name, value in result['Metrics'].items()}
        row = rows.get(model['Name'])
        # Metafiles have the main columns of a table.
        expected = {k: v for k, v in row.results.items() if k in METRICS.values()} if row else {}
        assert found == expected


def test_what_shows_the_papers_numbers_is_up_to_date():
    tool = ROOT / 'tools' / 'maintenance' / 'write_paper_results.py'
    texts = write_results(ROOT)
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert {ROOT / name for name in index['Import']} <= set(texts)
    for path, text in texts.items():
        assert path.read_text() == text, f'run {tool}'


def test_readme_has_each_network_of_tables_1_to_5():
    text = (ROOT / 'README.md').read_text()
    table = text.split('<!-- paper results -->')[1].split('<!-- /paper results -->')[0]
    lines = [line.strip('|').split('|') for line in table.splitlines() if '](configs/' in line]
    shown = [row for row in ROWS if row.tables not in ('6', '7')]
    for cells, row in zip(lines, shown, strict=True):
        name, *numbers = (cell.strip() for cell in cells)
        assert name == f'[{row.config}](configs/{row.config}.py)'
        main = [value for key, value in row.results.items() if key in METRICS.values()]
        expected = [row.parameters, row.flops, *main]
        assert [float(number) for number in numbers if number] == expected
