"""Compare the package's numbers with an independent copy of the paper's tables."""

import pytest
import yaml

from mmsecvit.analysis import ROWS

from ..conftest import DATA


@pytest.fixture(scope='module')
def tables():
    return yaml.safe_load((DATA / 'paper_tables.yml').read_text())


def rows(*tables):
    return {row.config: row for row in ROWS if row.tables in tables}


def check(row, reported):
    assert (row.parameters, row.flops) == (reported['params'], reported['flops']), row.config


def test_classification(tables):
    found = rows('1, 8', '2, 8')
    assert {name.removesuffix('_in1k') for name in found} == set(tables['architectures'])
    for name, reported in tables['architectures'].items():
        row = found[f'{name}_in1k']
        check(row, reported)
        assert row.results == {'accuracy/top1': tables['imagenet_top1'][name]}
        assert row.shape == (224, 224)


def test_detection(tables):
    found = rows('3', '4')
    for experiment, networks in tables['coco'].items():
        framework, schedule = experiment.rsplit('_', 1)
        for name, reported in networks.items():
            row = found.pop(f'{framework}_{name}_{schedule}')
            check(row, reported)
            assert list(row.results.values()) == reported['ap']
            last = 'bbox_mAP_l' if framework == 'retinanet' else 'segm_mAP_75'
            assert list(row.results)[::5] == ['coco/bbox_mAP', f'coco/{last}']
            assert row.shape == (800, 1280)
            assert row.tables == ('3' if schedule == '3x' else '4')
    assert not found


def test_segmentation(tables):
    found = rows('5')
    for experiment, networks in tables['ade20k'].items():
        framework, schedule = experiment.rsplit('_', 1)
        for name, reported in networks.items():
            row = found.pop(f'{framework}_{name}_{schedule}')
            check(row, reported)
            assert row.results == {'mIoU': reported['miou']}
            assert row.shape == ((512, 512) if name == 'secvit_t' else (512, 2048))
    assert not found


def test_ablations(tables):
    found, reported = rows('6', '7'), tables['ablation']
    names = dict(
        secvit_t_cswin_in1k='seca_to_cswsa',
        secvit_t_wo_lce_in1k='without_lce',
        secvit_t_wo_cpe_in1k='without_cpe',
        secvit_t_wo_conv_stem_in1k='without_conv_stem',
    )
    for config, name in names.items():
        row = found.pop(config)
        assert [row.parameters, row.flops, row.results['accuracy/top1']] == reported[name]
        assert (row.tables, row.shape) == ('6', (224, 224))
    for clusters, (flops, top1) in reported['clusters_secvit_s'].items():
        if clusters == '32,8,2':  # the network of Table 1
            continue
        row = found.pop(f'secvit_s_clusters_{clusters.replace(",", "_")}_in1k')
        assert (row.parameters, row.flops) == (None, flops)
        assert (row.tables, row.results) == ('7', {'accuracy/top1': top1})
    assert not found
