import argparse
import hashlib
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope
from torch import nn

from mmsecvit import SecViT, SecViTNeck, __version__
from mmsecvit.apis import convert_released
from mmsecvit.checkpoints import read_checkpoint, to_released

ROOT = Path(__file__).parents[2]


def released_weights(arch, classifier=True):
    """State dict of the released network, each tensor a single number in memory."""
    backbone = SecViT(arch, 'released')
    model = nn.ModuleDict(dict(backbone=backbone))
    if classifier:
        model['neck'] = SecViTNeck(backbone.downsamples[2].conv.out_channels)
        model['head'] = nn.ModuleDict(dict(fc=nn.Linear(1024, 1000)))
    weights = to_released(model.state_dict(), backbone.rotary_dims)
    return {key: torch.zeros(()).expand(value.shape) for key, value in weights.items()}


@pytest.fixture(scope='module')
def tiny():
    return released_weights('tiny')


@pytest.mark.parametrize('arch', ['tiny', 'small', 'base', 'large'])
def test_the_size_is_recognized(tmp_path, arch):
    torch.save({'model': released_weights(arch)}, tmp_path / 'src.pth')
    meta = convert_released(tmp_path / 'src.pth', tmp_path / 'dst.pth')
    assert (meta['arch'], meta['variant']) == (arch, 'released')


@pytest.mark.parametrize(
    'wrap',
    [
        lambda w: w,
        lambda w: {'state_dict': w},
        lambda w: {'model': {'module.' + k: v for k, v in w.items()}, 'epoch': 300},
    ],
    ids=['plain', 'state_dict', 'module'],
)
def test_the_released_network_converts_end_to_end(tmp_path, golden, wrap):
    src, dst = tmp_path / 'released.pth', tmp_path / 'new' / 'converted.pth'
    torch.save(wrap(golden['state_dict']), src)
    assert convert_released(src, dst) == (meta := read_checkpoint(dst)['meta'])
    assert meta['source_sha256'] == hashlib.sha256(src.read_bytes()).hexdigest()
    assert (meta['source'], meta['mmsecvit_version']) == ('released.pth', __version__)
    config = golden['config']
    assert {key: list(value) for key, value in meta['arch'].items() if key != 'ffn_ratio'} == {
        'embed_dims': config['embed_dims'],
        'depths': config['depths'],
        'num_heads': config['num_heads'],
        'layer_scale': config['layerscales'],
    }
    assert meta['arch']['ffn_ratio'] == 3

    models = pytest.importorskip('mmpretrain.models')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        classifier = models.ImageClassifier(
            backbone=dict(
                type='SecViT',
                arch=meta['arch'],
                variant=meta['variant'],
                init_cfg=dict(type='Pretrained', checkpoint=str(dst)),
            ),
            neck=dict(type='SecViTNeck', in_channels=64, out_channels=96),
            head=dict(type='LinearClsHead', num_classes=10, in_channels=96),
        )
    classifier.load_state_dict(read_checkpoint(dst)['state_dict'])
    classifier.eval()
    for case in golden['cases']:
        logits = classifier.head(classifier.extract_feat(case['input']))
        assert (logits - case['logits']).abs().max() <= 1e-4 * case['logits'].abs().max()


def test_a_backbone_alone_converts_and_loads(tmp_path):
    torch.save(released_weights('tiny', classifier=False), tmp_path / 'src.pth')
    convert_released(tmp_path / 'src.pth', tmp_path / 'dst.pth')
    init_cfg = dict(type='Pretrained', checkpoint=str(tmp_path / 'dst.pth'))
    backbone = SecViT('tiny', 'released', init_cfg=init_cfg)
    backbone.init_weights()
    assert not any(value.any() for value in backbone.state_dict().values())


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda w: w.pop('layers.2.blocks.3.pos.bias'),
            r"is not of the authors' SecViT: 1 weights are missing in the file "
            r'\(first: layers.2.blocks.3.pos.bias\)$',
        ),
        (
            lambda w: w.update({'layers.0.Decay.decay': torch.zeros(2)}),
            r'1 weights of the file have no place here \(first: layers.0.Decay.decay\)$',
        ),
        (
            lambda w: w.update({'layers.1.blocks.0.attn.lepe.weight': torch.zeros(128, 1, 3, 3)}),
            r'1 weights have another shape \(first: layers.1.blocks.0.attn.lepe.weight is '
            r'\(128, 1, 3, 3\) in the file and \(128, 1, 5, 5\) here\)$',
        ),
        (lambda w: w.pop('layers.0.RoPE.angle'), r'missing in the file \(first: layers.0.RoPE'),
    ],
    ids=['missing', 'unknown', 'reshaped', 'no rotary embedding'],
)
def test_what_differs_is_named(tmp_path, tiny, change, message):
    weights = dict(tiny)
    change(weights)
    torch.save(weights, tmp_path / 'src.pth')
    with pytest.raises(ValueError, match=message):
        convert_released(tmp_path / 'src.pth', tmp_path / 'dst.pth')
    assert not (tmp_path / 'dst.pth').exists()


def test_another_network_is_refused_by_its_first_weights(tmp_path):
    weights = {'conv1.weight': torch.zeros(64, 3, 7, 7), 'bn1.weight': torch.zeros(64)}
    torch.save(weights, tmp_path / 'resnet.pth')
    with pytest.raises(
        ValueError,
        match=r"resnet.pth is not of the authors' SecViT: its weights begin with "
        r'conv1.weight \(64, 3, 7, 7\), bn1.weight \(64,\)',
    ):
        convert_released(tmp_path / 'resnet.pth', tmp_path / 'dst.pth')


def test_a_file_with_more_than_tensors_says_how_to_proceed(tmp_path, tiny):
    torch.save({'model': tiny, 'args': argparse.Namespace(lr=1e-3)}, tmp_path / 'src.pth')
    with pytest.raises(ValueError, match=r'\(argparse.Namespace\) .* if you trust .* --trust'):
        convert_released(tmp_path / 'src.pth', tmp_path / 'dst.pth')
    meta = convert_released(tmp_path / 'src.pth', tmp_path / 'dst.pth', trust=True)
    assert meta['arch'] == 'tiny'


def test_the_tool(tmp_path, monkeypatch, capsys, tiny):
    torch.save(tiny, tmp_path / 'src.pth')
    tool = ROOT / 'tools' / 'model_converters' / 'released_to_mmsecvit.py'
    arguments = [str(tmp_path / 'src.pth'), str(tmp_path / 'dst.pth')]
    monkeypatch.setattr(sys, 'argv', [tool.name, *arguments])
    runpy.run_path(str(tool), run_name='__main__')
    expected = f"{arguments[1]}: SecViT(arch='tiny', variant='released')\n"
    assert capsys.readouterr().out == expected
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(tool), run_name='__main__')
    assert refused.value.code == f'dst must be a new file, but {arguments[1]} exists'
