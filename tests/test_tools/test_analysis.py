import runpy
import sys
from importlib.util import find_spec

import pytest
from mmengine.config import Config
from PIL import Image

from .conftest import CONFIG

TOOLS = CONFIG.parents[1] / 'tools' / 'analysis'
CLASSIFIER = """
default_scope = 'mmpretrain'
custom_imports = dict(imports=['mmsecvit'])
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SecViT',
        arch=dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4)),
    ),
    neck=dict(type='SecViTNeck', in_channels=32, out_channels=64),
    head=dict(type='LinearClsHead', num_classes=10, in_channels=64),
)
"""


@pytest.fixture
def run(monkeypatch):
    """Run a tool in this process as the command line does."""

    def run(tool, *arguments):
        monkeypatch.setattr(sys, 'argv', [tool, *map(str, arguments)])
        runpy.run_path(str(TOOLS / tool), run_name='__main__')

    return run


def test_get_flops(tmp_path, run, capsys):
    config = tmp_path / 'config.py'
    config.write_text(CLASSIFIER)
    run('get_flops.py', config, '--shape', 64, 96, '--cfg-options', 'model.head.num_classes=20000')
    head, whole = capsys.readouterr().out.splitlines()[-2:]
    # 64 x 20000 weights and 20000 biases.
    assert head == '| head | 1.30 | 0.00 | 0.00 | 0.00 |'
    assert whole.startswith('| total | 1.3')
    with pytest.raises(SystemExit) as refused:
        run('get_flops.py', config, '--shape', 64, 16)
    assert refused.value.code == ('shape must be a height and a width of at least 32, got (64, 16)')


def test_count_traffic(tmp_path, run, capsys):
    config = tmp_path / 'config.py'
    config.write_text(CLASSIFIER)
    arguments = (config, '--shape', 2, 3, 64, 64, '--launch', 1000)
    run('count_traffic.py', *arguments, '--step', '--autocast')
    first, _, head, _, row, *tables, memory = capsys.readouterr().out.splitlines()
    assert first.startswith('forward and backward pass, 2x3x64x64, bfloat16 by autocast, counted')
    assert head.endswith('| estimate (ms) |')
    name, _, kernels, _, estimate = row.strip('| ').split(' | ')
    assert name == 'config'
    # A millisecond each, next to which nothing else counts here.
    assert float(estimate) == pytest.approx(int(kernels), abs=0.1)
    assert any(line.startswith('| element by element |') for line in tables)
    # Weights, images, activations and gradients, and all.
    name, *sizes, total = memory.strip('| ').split(' | ')
    assert name == 'config'
    assert float(total) == pytest.approx(sum(map(float, sizes)), abs=0.02)
    for shape in ((2, 3, 64, 0), (2, 4, 64, 64)):
        with pytest.raises(SystemExit, match='must be'):
            run('count_traffic.py', config, '--shape', *shape)
    config.write_text("default_scope = 'mmpretrain'")
    with pytest.raises(SystemExit, match='config must have a model with a backbone, but'):
        run('count_traffic.py', config)


@pytest.mark.skipif(find_spec('timm') is not None, reason='timm is installed')
def test_count_traffic_names_a_missing_package(tmp_path, run):
    config = tmp_path / 'config.py'
    backbone = "dict(type='TIMMBackbone', model_name='convnext_tiny')"
    config.write_text(
        f"default_scope = 'mmpretrain'\nmodel = dict(type='ImageClassifier', backbone={backbone})"
    )
    with pytest.raises(SystemExit, match=r'config.py needs a package .* timm'):
        run('count_traffic.py', config)


def test_compare_with_paper(tmp_path, run):
    (tmp_path / 'secvit_t_in1k.py').write_text(CLASSIFIER)
    out = tmp_path / 'docs' / 'tables.md'
    run('compare_with_paper.py', '--configs', tmp_path, '--out', out)
    lines = [line for line in out.read_text().splitlines() if '_secvit_' in line or '_in1k' in line]
    assert len(lines) == 8 + 4 + 8 + 7 + 4 + 3
    (ours,) = (line for line in lines if 'no config yet' not in line)
    assert ours.startswith('| secvit_t_in1k | 224x224 | 0.')
    assert ours.endswith('| not explained |')


def test_print_config(run, capsys):
    run('print_config.py', CONFIG, '--cfg-options', 'randomness.seed=7')
    expected = Config.fromfile(CONFIG)
    expected.merge_from_dict({'randomness.seed': 7})
    assert capsys.readouterr().out == f'Config:\n{expected.pretty_text}\n'


def test_browse_dataset(tmp_path, run, digits):
    run(
        'browse_dataset.py',
        CONFIG,
        '--not-show',
        '--output-dir',
        tmp_path,
        '--cfg-options',
        f'train_dataloader.dataset.data_root={digits}',
    )
    pictures = list(tmp_path.glob('*.png'))
    assert len(pictures) == 16
    with Image.open(pictures[0]) as picture:
        assert picture.size == (128, 128)


def test_browse_dataset_of_a_classifier(tmp_path, run):
    # mmpretrain's base config gives the visualizer a scope, which its own tool takes for a setting.
    for name in ('cat', 'dog'):
        (tmp_path / 'train' / name).mkdir(parents=True)
        Image.new('RGB', (300, 260)).save(tmp_path / 'train' / name / f'{name}.png')
    config = tmp_path / 'config.py'
    config.write_text(f"""
_base_ = '{CONFIG.with_name('secvit_t_in1k.py')}'
dataset = dict(
    _delete_=True,
    type='CustomDataset',
    data_root='{tmp_path}',
    data_prefix='train',
    pipeline=_base_.train_pipeline,
)
train_dataloader = dict(dataset=dataset)
""")
    run('browse_dataset.py', config, '--not-show', '--output-dir', tmp_path / 'drawn')
    assert sorted(path.stem for path in (tmp_path / 'drawn').iterdir()) == ['cat', 'dog']


def test_verify_dataset(tmp_path, run, capsys):
    folder = tmp_path / 'train' / 'cat'
    folder.mkdir(parents=True)
    Image.new('RGB', (30, 26)).save(folder / 'whole.png')
    (folder / 'broken.png').write_bytes(b'')
    config = tmp_path / 'config.py'
    dataset = f"dict(type='CustomDataset', data_root='{tmp_path}', data_prefix='train')"
    config.write_text(f"default_scope = 'mmpretrain'\ntrain_dataloader = dict(dataset={dataset})")
    with pytest.raises(SystemExit) as end:
        run('verify_dataset.py', config)
    assert end.value.code == 1
    *_, message, head, row, last = capsys.readouterr().out.splitlines()
    assert message.startswith('error: train_dataloader.dataset must have image files that can be')
    assert message.endswith(f'of 2 files 1 cannot: {folder / "broken.png"} is empty')
    assert head.split() == ['level', 'count', 'kind']
    assert row.split() == ['error', '1', 'empty,', str(folder / 'broken.png')]
    assert last == '1 errors, 0 warnings and mended faults'
    (folder / 'broken.png').unlink()
    out = tmp_path / 'findings.json'
    with pytest.raises(SystemExit) as end:
        run('verify_dataset.py', config, '--out', out)
    assert end.value.code == 0
    assert capsys.readouterr().out == 'no faults found\n'
    assert out.read_text() == '[]'
    with pytest.raises(SystemExit, match='out must be a new file'):
        run('verify_dataset.py', config, '--out', out)
