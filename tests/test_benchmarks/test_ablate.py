"""Runs of many configs and seeds: which are left, what they record, and what the tables say."""

import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / 'benchmarks'


@pytest.fixture
def load(monkeypatch):
    """Imports one of the scripts' modules by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def line(config, seed, accuracy):
    validations = [
        {'step': 5, 'processor_seconds': 900.0, 'accuracy/top1': accuracy / 2},
        {'step': 10, 'processor_seconds': 1800.0, 'accuracy/top1': accuracy},
    ]
    return dict(
        config=config,
        seed=seed,
        validations=validations,
        parameters=1_234_567,
        flops=30_866_688,
        machine='a machine',
        threads=1,
    )


@pytest.fixture
def results(tmp_path):
    path = tmp_path / 'results.jsonl'
    lines = [
        line('sec', 0, 50.0),
        line('window', 0, 49.0),
        line('sec', 1, 53.0),
        line('window', 2, 47.5),
        line('sec', 2, 51.5),
        line('kmeans', 1, 53.25),
    ]
    path.write_text('\n'.join(map(json.dumps, lines)) + '\n')
    return path


def cells(text):
    rows = [row for row in text.splitlines() if row.startswith('| `')]
    return [[cell.strip() for cell in row.strip('|').split('|')] for row in rows]


def test_the_table_has_means_spreads_and_differences_of_equal_seeds(load, results):
    tables = load('ablation_tables')
    text = tables.report(tables.read_runs(results), {})
    sec, window, kmeans = cells(text)
    size = ['1.235', '30.9']
    all_sec, all_window = np.array([50.0, 53.0, 51.5]), np.array([49.0, 47.5])
    deviations = [
        f'{np.sqrt(((x - x.mean()) ** 2).sum() / (len(x) - 1)):.2f}' for x in (all_sec, all_window)
    ]
    gaps = all_window - all_sec[[0, 2]]
    assert sec == ['`sec`', *size, '0, 1, 2', '51.50', deviations[0], '', '']
    assert window == [
        '`window`',
        *size,
        '0, 2',
        '48.25',
        deviations[1],
        f'{gaps.mean():+.2f}',
        f'0: {gaps[0]:+.2f}, 2: {gaps[1]:+.2f}',
    ]
    assert kmeans == ['`kmeans`', *size, '1', '53.25', '', '+0.25', '1: +0.25']
    assert '6 runs, 3.0 processor hours' in text
    assert '(a machine, threads: 1)' in text


def test_times_are_columns_of_the_table(load, results):
    tables = load('ablation_tables')
    measured = dict(sec=dict(train_ms=4.5, predict_ms=1.25))
    times = dict(machine='another', threads=2, ms_per_image=measured)
    text = tables.report(tables.read_runs(results), times)
    assert [row[-2:] for row in cells(text)] == [['4.50', '1.25'], ['', ''], ['', '']]
    assert 'Times: another, threads: 2' in text


def test_only_the_results_of_a_page_are_replaced(load, tmp_path):
    page = tmp_path / 'page.md'
    page.write_text('a\n<!-- x.jsonl -->\nold\n<!-- /x.jsonl -->\nb <!-- y.jsonl -->\n')
    load('ablation_tables').write_into(page, 'x.jsonl', r'new \1')
    assert page.read_text() == (
        'a\n<!-- x.jsonl -->\n\nnew \\1\n\n<!-- /x.jsonl -->\nb <!-- y.jsonl -->\n'
    )


def test_the_page_has_the_tables_of_the_committed_results(load):
    tables = load('ablation_tables')
    page = (ROOT / 'docs' / 'experiments.md').read_text()
    shown = re.findall(r'^<!-- (\S+\.jsonl) -->\n\n(.*?)\n\n<!-- /\1 -->$', page, re.M | re.S)
    folder = ROOT / 'docs' / 'experiments'
    assert sorted(name for name, _ in shown) == sorted(x.name for x in folder.glob('*.jsonl'))
    for name, text in shown:
        results = folder / name
        expected = tables.report(tables.read_runs(results), tables.read_times(results))
        assert text == expected, f'run benchmarks/ablate.py report {results} --page docs/...'


def test_finished_runs_are_not_run_again(load, results, tmp_path, monkeypatch, capsys):
    ablate = load('ablate')
    configs = [tmp_path / f'{name}.py' for name in ('sec', 'window')]
    for config in configs:
        config.write_text('default_scope = "none"')
    words = ['run', *map(str, configs), '--seeds', '0', '2', '--results', str(results)]
    monkeypatch.setattr('sys.argv', ['ablate.py', *words, '--work-dir', str(tmp_path / 'work')])
    before = results.read_text()
    ablate.run_all(ablate.parse_args())
    assert results.read_text() == before
    assert not capsys.readouterr().out and not (tmp_path / 'work').exists()


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_leaves_no_line(load, results, tmp_path, monkeypatch, capsys):
    ablate = load('ablate')
    (tmp_path / 'sec.py').write_text('default_scope = "none"')
    words = ['run', str(tmp_path / 'sec.py'), '--seeds', '2', '7', '--results', str(results)]
    monkeypatch.setattr('sys.argv', ['ablate.py', *words, '--work-dir', str(tmp_path / 'work')])
    before = results.read_text()
    with pytest.raises(SystemExit, match='sec_seed7/log.txt'):
        ablate.run_all(ablate.parse_args())
    assert results.read_text() == before
    assert 'done: 1 of 2  failed: 0  running: sec, seed 7' in capsys.readouterr().out
    assert 'Error' in (tmp_path / 'work' / 'sec_seed7' / 'log.txt').read_text()


def test_processor_time_goes_on_where_a_run_was_interrupted(load, tmp_path):
    hook = load('ablate').RecordHook
    first, second = (hook(str(tmp_path / 'validations.jsonl')) for _ in range(2))
    first.before_train(None)
    checkpoint = {}
    first.before_save_checkpoint(None, checkpoint)
    second.after_load_checkpoint(None, checkpoint)
    second.before_train(None)
    assert second.before == checkpoint['processor_seconds'] >= 0
    assert second.seconds() >= second.before
