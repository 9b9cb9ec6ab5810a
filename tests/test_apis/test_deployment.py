import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch._dynamo
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from mmsecvit import SecViT
from mmsecvit.apis import export
from mmsecvit.apis.exported_files import ExportedFile

ROOT = Path(__file__).parents[2]
MICRO = dict(embed_dims=(16, 16, 32, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 2, 4))
CONFIG = """
custom_imports = dict(imports=['mmsecvit'])
default_scope = '{scope}'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='SecViT',
        arch={arch},
        variant='released',
        norm_cfg=dict(type='SyncBN'),
        out_indices={stages},
        cluster_size={cluster_size},
        num_clusters={num_clusters},
    ),
    neck=dict(type='SecViTNeck', in_channels=32, out_channels=64),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=64),
)
"""


@pytest.fixture(autouse=True)
def without_fake_tensor_cache():
    """Trace without a cache that pays only where many blocks are equal: 80 s, not 126 s."""
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        yield


@pytest.fixture
def files(tmp_path):
    """Writes a config and weights. In mmdet's scope, only the backbone of the config counts."""

    def write(scope, stages, cluster_size=None, num_clusters=None):
        config = tmp_path / 'config.py'
        clusters = dict(cluster_size=cluster_size, num_clusters=num_clusters)
        config.write_text(CONFIG.format(arch=MICRO, scope=scope, stages=stages, **clusters))
        weights = SecViT(MICRO, 'released', out_indices=stages).state_dict()
        if scope == 'mmpretrain':
            import mmpretrain.models  # noqa: F401

            with DefaultScope.overwrite_default_scope('mmpretrain'):
                weights = MODELS.build(Config.fromfile(config).model).state_dict()
        torch.save(weights, tmp_path / 'weights.pth')
        return config, str(tmp_path / 'weights.pth')

    return write


def skip_without(format):
    if format == 'onnx':
        for name in ('onnx', 'onnxscript', 'onnxruntime'):
            pytest.importorskip(name)


def assert_agrees(run, shapes, num_maps=None):
    """Assert that a file returns the first maps of its network, for all shapes except one.

    In one, a token may be so near to a cluster's edge that the processor's rounding decides.
    """
    differences = {}
    for shape in shapes:
        x = torch.randn(shape)
        with torch.no_grad():
            pairs = [*zip(run(x), run.network(x), strict=True)][:num_maps]
        differences[shape] = max((got - expected).abs().max().item() for got, expected in pairs)
    assert sum(difference > 1e-4 for difference in differences.values()) <= 1, differences


@pytest.mark.slow
@pytest.mark.parametrize(('format', 'suffix'), [('onnx', '.onnx'), ('torch_export', '.pt2')])
def test_one_dynamic_file_agrees_with_pytorch_at_every_size(tmp_path, files, format, suffix):
    skip_without(format)
    # Stages of one cluster are traced fast.
    config, checkpoint = files('mmdet', (0, 3), num_clusters=(32, 1, 1, 1))
    run = export(config, checkpoint, tmp_path / f'x{suffix}', format, dynamic=True, part='backbone')
    assert_agrees(run, [(1, 3, 32, 32), (2, 3, 32, 64), (1, 3, 64, 32), (3, 3, 32, 96)])
    # Of many tokens, some are near to an edge in one of all stages.
    assert_agrees(run, [(1, 3, 224, 224), (1, 3, 256, 320), (1, 3, 480, 640)], num_maps=1)
    for shape in [(1, 3, 250, 330), (1, 3, 64, 0), (3, 64, 64), (1, 4, 64, 64)]:
        with pytest.raises(
            ValueError, match=r'\(B, 3, H, W\) with H and W that are multiples of 32'
        ):
            run(torch.rand(shape))


@pytest.mark.slow
@pytest.mark.parametrize(('format', 'suffix'), [('onnx', '.onnx'), ('torch_export', '.pt2')])
def test_one_dynamic_file_has_clusters_of_one_size(tmp_path, files, format, suffix):
    skip_without(format)
    config, checkpoint = files('mmdet', (0,), cluster_size=98)
    run = export(config, checkpoint, tmp_path / f'x{suffix}', format, dynamic=True, part='backbone')
    # One cluster in the last two, and several in the others.
    sizes = [(224, 224), (256, 320), (320, 192), (32, 96), (96, 32), (32, 64), (32, 32)]
    assert_agrees(run, [(3, 3, 64, 96), *((1, 3, *size) for size in sizes)])


def test_the_oracle_has_no_dynamic_file_with_clusters_of_one_size(tmp_path, files):
    config, checkpoint = files('mmdet', (0, 1), cluster_size=98)
    backend = "attention_backend='reference', out_indices"
    config.write_text(config.read_text().replace('out_indices', backend))
    message = 'dynamic with cluster_size needs the attention_backend auto or sdpa, got reference'
    with pytest.raises(ValueError, match=message):
        export(
            config, checkpoint, tmp_path / 'x.pt2', 'torch_export', dynamic=True, part='backbone'
        )


def test_clusters_of_two_sizes_are_refused_in_a_dynamic_file(tmp_path, files):
    config, checkpoint = files('mmdet', (0, 1), num_clusters=(32, 5, 2, 1))
    message = 'dynamic needs a num_clusters that divides the 16 tokens .* in stage 2, got 5'
    with pytest.raises(ValueError, match=message):
        export(
            config, checkpoint, tmp_path / 'x.pt2', 'torch_export', dynamic=True, part='backbone'
        )


@pytest.mark.parametrize(
    ('format', 'suffix'),
    [pytest.param('onnx', '.onnx', marks=pytest.mark.slow), ('torch_export', '.pt2')],
)
def test_the_tool_exports_a_classifier_whole(tmp_path, files, monkeypatch, capsys, format, suffix):
    skip_without(format)
    pytest.importorskip('mmpretrain')
    config, checkpoint = files('mmpretrain', (0, 1, 2, 3))
    out, tool = tmp_path / f'x{suffix}', ROOT / 'tools' / 'deployment' / 'export.py'
    arguments = [str(config), checkpoint, '--format', format, '--size', '64', '96', '--out']
    monkeypatch.setattr(sys, 'argv', [tool.name, *arguments, str(out)])
    runpy.run_path(str(tool), run_name='__main__')
    printed = capsys.readouterr().out
    assert f'{out}: {out.stat().st_size:,} bytes' in printed
    assert (
        float(re.search(r'64x96: differs by (\S+) at most, .*; takes \d+ ms', printed)[1]) <= 1e-4
    )
    with pytest.raises(ValueError, match=r'takes images of shape \(1, 3, 64, 96\), got \(1, 3, 32'):
        ExportedFile(out)(torch.rand(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r'takes image, got 2 inputs: .* export it again'):
        ExportedFile(out)(torch.rand(1, 3, 64, 96), torch.tensor([64, 96]))
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(tool), run_name='__main__')
    assert refused.value.code == f'out must be a new file, but {out} exists'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('x.onnx', 'tensorrt'), "format must be one of onnx, torch_export, got 'tensorrt'"),
        (('x.onnx', 'torch_export'), 'out must end with .pt2 for torch_export, got x.onnx'),
        ((f'{__file__}/x.onnx',), f'out must be in a folder .*, but {__file__} is none'),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        export('no.py', 'no.pth', *arguments)
