from pathlib import Path

import pytest

from mmsecvit.analysis import ROWS, Comparison, Complexity, PaperRow, compare, report

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
ROW = PaperRow('5', 'upernet', (512, 2048), 130, 1256, {'mIoU': 53.6})


def test_mask_rcnn_costs_what_table_4_says():
    (row,) = (row for row in ROWS if row.config == 'mask_rcnn_secvit_t_1x')
    comparison = compare(row, CONFIGS)
    assert comparison.agrees
    assert comparison.ours.parameters / 1e6 == pytest.approx(33.58, abs=0.01)
    # Table 4 has 221.
    assert comparison.ours.module_flops / 1e9 == pytest.approx(221, rel=0.005)
    # Both products, for 200x320, 100x160, 50x80 and 25x40 tokens. Each token attends to 2000 tokens
    # in the first three stages, and to 1000 in the last.
    attention = sum(
        depth * 2 * length * attended * channels
        for depth, length, attended, channels in [
            (2, 64_000, 2000, 64),
            (2, 16_000, 2000, 128),
            (9, 4000, 2000, 256),
            (2, 1000, 1000, 512),
        ]
    )
    assert comparison.ours.attention_flops == attention


@pytest.mark.parametrize(
    ('parameters', 'module_flops', 'note'),
    [
        (130_400_000, 1_290 * 10**9, ''),
        (130_600_000, 1_256 * 10**9, 'not explained'),
        (126_590_000, 1_256 * 10**9, 'not explained'),
        (130_000_000, 1_294 * 10**9, 'not explained'),
        (130_000_000, 1_218 * 10**9, 'not explained'),
    ],
)
def test_rows_that_differ_say_so(parameters, module_flops, note):
    comparison = Comparison(ROW, Complexity(parameters, module_flops, 10**9))
    assert comparison.note == note
    assert comparison.agrees == (note == '')


def test_report(tmp_path):
    without = compare(ROW._replace(tables='2, 8'), tmp_path)
    page = report([Comparison(ROW, Complexity(126_590_000, 1_250 * 10**9, 500 * 10**9)), without])
    assert (
        '| upernet | 2048x512 | 126.59 | 130 | -2.6% | 1250 | 1256 | -0.5% | 1750 | not explained |'
        in page.splitlines()
    )
    assert '| upernet | 2048x512 | | 130 | | | 1256 | | | no config yet |' in page.splitlines()
    assert page.index('## Table 5') < page.index('## Tables 2 and 8')
    tables = [line for line in page.splitlines() if line.startswith('|')]
    assert {line.count('|') for line in tables} == {11}


def test_the_committed_page_is_up_to_date():
    # All rows take minutes: one is counted, and of the others the paper's numbers are compared.
    counted = {'secvit_t_in1k'}
    expected = report(
        [compare(row, CONFIGS if row.config in counted else ROOT / 'none') for row in ROWS]
    )
    page = (ROOT / 'docs' / 'paper_tables.md').read_text()
    for line, made in zip(page.splitlines(), expected.splitlines(), strict=True):
        if made.endswith('no config yet |'):
            cells, paper = line.split('|'), made.split('|')
            assert [cells[i] for i in (1, 2, 4, 7)] == [paper[i] for i in (1, 2, 4, 7)]
        else:
            assert line == made, 'run tools/analysis/compare_with_paper.py'
