import importlib
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

for name in ('mmpretrain', 'onnx', 'onnxscript', 'onnxruntime'):
    pytest.importorskip(name)

BENCHMARKS = Path(__file__).parents[2] / 'benchmarks'
CONFIG = """
custom_imports = dict(imports=['mmsecvit'])
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    data_preprocessor=dict(mean=[120] * 3, std=[60] * 3, num_classes=5),
    backbone=dict(
        type='ResNet',
        depth=18,
        stem_channels=8,
        base_channels=8,
        num_stages=2,
        strides=(1, 2),
        dilations=(1, 1),
        out_indices=(1,),
    ),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=16),
)
"""


@pytest.mark.slow
def test_both_sides_compute_one_network_on_one_image(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    exported = importlib.import_module('exported')
    from mmsecvit.apis import export

    config, checkpoint = tmp_path / 'config.py', str(tmp_path / 'weights.pth')
    config.write_text(CONFIG)
    network = exported.random_network(Config.fromfile(config)).network
    torch.save(network.model.state_dict(), checkpoint)
    inputs = (exported.random_image((64, 96)),)
    file = export(config, checkpoint, tmp_path / 'x.onnx', size=(64, 96)).path
    (expected,) = exported.build_pytorch(config, checkpoint, inputs)()
    (scores,) = exported.build_onnxruntime(file, inputs)()
    assert expected.max() - expected.min() > 1e-3
    torch.testing.assert_close(torch.from_numpy(scores), expected, rtol=0, atol=1e-5)
