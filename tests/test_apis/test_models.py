import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from torch.testing import assert_close

import mmsecvit
from mmsecvit import get_model, list_models
from mmsecvit.checkpoints import CheckpointError

pytest.importorskip('mmpretrain')


def test_all_networks_of_table_8_are_listed():
    assert list_models('secvit_*') == ['secvit_b', 'secvit_l', 'secvit_s', 'secvit_t']
    assert list_models('*swin*') == ['sec_swin_s', 'sec_swin_t']
    assert list_models('*fastervit*') == ['sec_fastervit_0', 'sec_fastervit_1']
    assert list_models('sec_swin') == ['sec_swin_s', 'sec_swin_t']
    assert len(list_models()) == 8


def test_patterns_exclude_as_in_mmpretrain():
    assert list_models('sec_', exclude_patterns=['*fastervit', 'sec_swin_s']) == ['sec_swin_t']
    assert list_models(exclude_patterns=['sec_*', '*_l']) == ['secvit_b', 'secvit_s', 'secvit_t']
    with pytest.raises(ValueError, match="exclude_patterns must be a list .*, got 'sec_'"):
        list_models(exclude_patterns='sec_')


def test_a_source_tree_that_was_not_installed_has_them_too(tmp_path):
    root = Path(mmsecvit.__file__).parents[1]
    (tmp_path / 'mmsecvit').mkdir()
    for part in [*(root / 'mmsecvit').iterdir(), root / 'configs']:
        if part.name != '.mim':
            (tmp_path / part.relative_to(root)).symlink_to(part)
    code = 'import mmsecvit; print(mmsecvit.__file__, *mmsecvit.list_models())'

    def run():
        environment = os.environ | {'PYTHONPATH': str(tmp_path)}
        command = [sys.executable, '-c', code]
        return subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    listed = [str(tmp_path / 'mmsecvit' / '__init__.py'), *list_models()]
    assert run().stdout.split() == listed
    (tmp_path / 'configs').unlink()
    assert run().stderr.splitlines()[-1] == (
        'FileNotFoundError: mmsecvit must be installed to find its configs (pip install -e .), but '
        f'{tmp_path}/mmsecvit/.mim/configs is absent'
    )


# Table 8. tests/test_configs has the parameters of the others.
@pytest.mark.parametrize(('name', 'params'), [('secvit_t', 15), ('sec_fastervit_0', 25)])
def test_parameters_of_table_8(name, params):
    model = get_model(name)
    assert not model.training
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == params


def test_a_checkpoint_gives_the_same_classifier(tmp_path):
    model = get_model('secvit_t')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'secvit_t.pth')
    again = get_model('secvit_t', pretrained=tmp_path / 'secvit_t.pth')
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    with pytest.raises(ValueError, match='is not of secvit_s: .* weights are missing in the file'):
        get_model('secvit_s', pretrained=tmp_path / 'secvit_t.pth')


def test_overrides_merge_into_the_config():
    model = get_model(
        'sec_swin_t',
        device='meta',
        backbone=dict(out_indices=(1, 3), num_clusters=(1, 1, 1, 1)),
        head=dict(num_classes=10),
    )
    attentions = [stage['blocks'][0].attn['w_msa'] for stage in model.backbone.stages]
    assert [attn.num_clusters for attn in attentions] == [1, 1, 1, 1]
    assert [attn.num_heads for attn in attentions] == [3, 6, 12, 24]
    assert model.head.fc.weight.shape == (10, 768)
    assert {p.device.type for p in model.parameters()} == {'meta'}
    outs = model.extract_feat(torch.zeros(1, 3, 64, 64, device='meta'), stage='backbone')
    assert [out.shape for out in outs] == [(1, 192, 8, 8), (1, 768, 2, 2)]


def test_a_pyramid_and_a_new_head_from_a_classifiers_checkpoint(tmp_path, caplog, monkeypatch):
    source = get_model('sec_swin_t')
    meta = dict(dataset_meta=dict(classes=['cat', 'dog']))
    torch.save({'state_dict': source.state_dict(), 'meta': meta}, tmp_path / 'sec_swin_t.pth')
    monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [caplog.handler])
    with caplog.at_level(logging.INFO):
        model = get_model(
            'sec_swin_t',
            pretrained=tmp_path / 'sec_swin_t.pth',
            backbone=dict(out_indices=(0, 3)),
            head=dict(num_classes=2),
        )
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.backbone(x)[-1], source.backbone(x)[-1])
    assert model.head.fc.weight.shape == (2, 768)
    assert model._dataset_meta == meta['dataset_meta']
    missing = 'backbone.norm0.weight, backbone.norm0.bias, head.fc.weight, head.fc.bias'
    assert f'not in the file: {missing}; not used of it: nothing' in caplog.messages[-1]
    # All weights of the parts that the caller did not change must fit.
    with pytest.raises(ValueError, match='of sec_swin_s: 144 weights are missing in the file'):
        get_model('sec_swin_s', pretrained=tmp_path / 'sec_swin_t.pth', head=dict(num_classes=2))


def test_mmpretrains_inferencer_takes_the_model():
    from mmpretrain import ImageClassificationInferencer

    model = get_model('sec_fastervit_0')
    image = np.random.default_rng(0).integers(256, size=(256, 256, 3), dtype=np.uint8)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        (result,) = ImageClassificationInferencer(model)(image)
    # The central 224x224 pixels, RGB, normalized.
    rgb = torch.from_numpy(image[16:240, 16:240, ::-1].copy()).permute(2, 0, 1)[None].float()
    mean, std = ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    x = (rgb - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        scores = model(x).softmax(1)[0]
    assert_close(torch.from_numpy(result['pred_scores']), scores)
    label = int(scores.argmax())
    assert result['pred_label'] == label
    assert result['pred_class'] == model._dataset_meta['classes'][label]
    assert len(model._dataset_meta['classes']) == 1000


@pytest.mark.parametrize('name', ['secvit_t', 'sec_swin_t', 'sec_fastervit_0'])
def test_models_are_those_of_the_configs(name):
    path = Path(__file__).parents[2] / 'configs' / f'{name}_in1k.py'
    cfg = Config.fromfile(path)
    model = get_model(name, device='meta')
    assert model._config.model.backbone == cfg.model.backbone
    assert model._config.test_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline


def test_weights_are_random_without_a_log_line_for_each(caplog, monkeypatch):
    logger = MMLogger.get_current_instance()
    monkeypatch.setattr(logger, 'handlers', [caplog.handler])
    with caplog.at_level(logging.INFO):
        level = logger.level
        model = get_model('sec_swin_t')
    assert caplog.messages == []
    assert logger.level == level
    # mmpretrain's classifiers would start from torch's defaults, whose biases are not 0.
    assert not model.backbone.stages[0]['blocks'][0].attn['w_msa'].qkv.bias.any()


def test_a_checkpoint_is_read_once_and_trusted_only_on_request(tmp_path, monkeypatch):
    path = tmp_path / 'secvit_t.pth'
    model = get_model('secvit_t')
    torch.save({'state_dict': model.state_dict(), 'meta': dict(path=tmp_path)}, path)
    reads = []
    load = torch.load
    monkeypatch.setattr(torch, 'load', lambda *a, **kw: reads.append(a) or load(*a, **kw))
    with pytest.raises(CheckpointError, match='holds more than data .* add --trust-checkpoint'):
        get_model('secvit_t', pretrained=path)
    again = get_model('secvit_t', pretrained=path, trust=True)
    assert len(reads) == 2
    assert torch.equal(again.head.fc.weight, model.head.fc.weight)


def test_a_checkpoint_of_the_backbone_is_trusted_only_on_request(tmp_path):
    path = tmp_path / 'backbone.pth'
    weights = get_model('secvit_t').backbone.state_dict()
    torch.save({'state_dict': weights, 'meta': dict(path=tmp_path)}, path)
    backbone = dict(init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(CheckpointError, match='holds more than data .* add --trust-checkpoint'):
        get_model('secvit_t', backbone=backbone)
    loaded = get_model('secvit_t', backbone=backbone, trust=True).backbone.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in weights.items())


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(ValueError, match="name must be one of sec_fastervit_0.*, got 'resnet'"):
        get_model('resnet')
    with pytest.raises(ValueError, match='pretrained must be a checkpoint or False, got True'):
        get_model('secvit_t', pretrained=True)
    with pytest.raises(FileNotFoundError, match='none.pth does not exist'):
        mmsecvit.get_model('secvit_t', pretrained=tmp_path / 'none.pth')
