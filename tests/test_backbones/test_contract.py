"""What toolboxes expect of a backbone: channels in and out, layer depths, meta tensors."""

import pytest
import torch
from mmengine.model import PretrainedInit

from mmsecvit import SECFasterViT, SECSwin, SecViT
from mmsecvit.checkpoints import CheckpointError

BACKBONES = [SecViT, SECSwin, SECFasterViT]
CHANNELS = {
    SecViT: [64, 128, 256, 512],
    SECSwin: [96, 192, 384, 768],
    SECFasterViT: [64, 128, 256, 512],
}
DEPTHS = {SecViT: [2, 2, 9, 2], SECSwin: [2, 2, 6, 2], SECFasterViT: [2, 3, 6, 5]}


def shapes(outs):
    return [tuple(out.shape) for out in outs]


@pytest.mark.parametrize('kind', BACKBONES)
def test_num_features_are_the_channels_of_the_stages(kind):
    with torch.device('meta'):
        assert kind().num_features == CHANNELS[kind]
        assert kind(out_indices=(0, 2)).num_features == CHANNELS[kind][:3]


@pytest.mark.parametrize('options', [dict(), dict(attention='kmeans'), dict(variant='released')])
def test_secvit_runs_on_meta_tensors(options):
    with torch.device('meta'):
        backbone = SecViT(**options)
        outs = backbone(torch.zeros(2, 3, 100, 70))
    assert {out.device.type for out in outs} == {'meta'}
    assert shapes(outs) == [(2, 64, 25, 18), (2, 128, 13, 9), (2, 256, 7, 5), (2, 512, 4, 3)]


@pytest.mark.parametrize('kind', [SECSwin, SECFasterViT])
def test_relatives_run_on_meta_tensors(kind):
    with torch.device('meta'):
        outs = kind()(torch.zeros(2, 3, 100, 70))
    sizes = [(25, 18), (13, 9), (7, 5), (4, 3)]
    expected = [(2, c, *size) for c, size in zip(CHANNELS[kind], sizes, strict=True)]
    assert shapes(outs) == expected


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('options', [dict(), dict(stem='patch')])
def test_the_first_convolution_takes_in_channels(channels, options):
    backbone = SecViT(in_channels=channels, out_indices=(0,), **options)
    assert next(backbone.stem.parameters()).shape[1] == channels
    assert shapes(backbone(torch.randn(1, channels, 32, 48))) == [(1, 64, 8, 12)]


@pytest.mark.parametrize('kind', BACKBONES)
def test_other_numbers_of_channels(kind):
    backbone = kind(in_channels=2, out_indices=(0,)).eval()
    x = torch.randn(1, 2, 32, 48)
    with torch.no_grad():
        (out,) = backbone(x)
        (other,) = backbone(torch.stack([x[:, 0], x[:, 1] + 1], dim=1))
    assert out.shape == (1, CHANNELS[kind][0], 8, 12)
    assert not torch.equal(out, other)
    with pytest.raises(ValueError, match=r'of the shape \(B, 2, H, W\) .* got .* \(1, 3, 32, 48\)'):
        backbone(torch.randn(1, 3, 32, 48))


@pytest.mark.parametrize('channels', [0, -3, 3.0, '3', True])
@pytest.mark.parametrize('kind', BACKBONES)
def test_bad_in_channels_are_named(kind, channels):
    message = f'in_channels must be an integer of at least 1, got {channels!r}'
    with pytest.raises(ValueError, match=message):
        kind(in_channels=channels)


@pytest.mark.parametrize('kind', BACKBONES)
def test_weights_for_other_channels_are_refused(kind, tmp_path):
    path = tmp_path / 'rgb.pth'
    torch.save(kind(out_indices=(0,)).state_dict(), path)
    init_cfg = dict(type='Pretrained', checkpoint=str(path))
    backbone = kind(out_indices=(0,), in_channels=4, init_cfg=init_cfg)
    shape = r'is \(\d+, 3, \d, \d\) in the file and \(\d+, 4, \d, \d\) here'
    with pytest.raises(CheckpointError, match=f'not of this {kind.__name__}: .* {shape}') as error:
        backbone.init_weights()
    if kind is SecViT:
        assert "set the backbone's in_channels to 3 (it is 4)" in str(error.value)


def test_weights_are_checked_where_a_config_names_the_class(tmp_path):
    torch.save(SecViT(out_indices=(0,)).state_dict(), tmp_path / 'rgb.pth')
    init_cfg = dict(type=PretrainedInit, checkpoint=str(tmp_path / 'rgb.pth'))
    backbone = SecViT(out_indices=(0,), in_channels=4, init_cfg=init_cfg)
    with pytest.raises(CheckpointError, match='not of this SecViT'):
        backbone.init_weights()


@pytest.mark.parametrize('kind', BACKBONES)
def test_layer_depths_rise_from_the_stem_to_the_heads(kind):
    with torch.device('meta'):
        backbone = kind()
    last = sum(DEPTHS[kind]) + 1
    found = []
    for i, depth in enumerate(DEPTHS[kind]):
        layers = [backbone.downsample(i), *backbone.blocks(i)]
        names = {id(p): name for name, p in backbone.named_parameters()}
        for layer in layers:
            depths = {
                backbone.get_layer_depth(f'backbone.{names[id(p)]}', 'backbone.')
                for p in layer.parameters()
            }
            ((layer_depth, num_layers),) = depths
            assert num_layers == last + 1
            found.append(layer_depth)
        assert len(found) == sum(DEPTHS[kind][: i + 1]) + i + 1, depth
    # The stem is layer 0; a down-sampling is in the layer of the block before it.
    assert found[0] == 0
    assert found == sorted(found)
    assert sorted(set(found)) == list(range(last))
    # Output norms are in the last layer, and so are other parts of the model.
    for name in ('out_norms.0.weight', 'norm0.weight'):
        assert backbone.get_layer_depth(name) == (last, last + 1)
    first = next(name for name, _ in backbone.named_parameters())
    assert backbone.get_layer_depth(first) == (0, last + 1)
    assert backbone.get_layer_depth(f'neck.{first}', 'backbone.') == (last, last + 1)


def test_layer_depths_of_sec_swin_are_those_of_swin():
    backbones = pytest.importorskip('mmpretrain.models.backbones')
    swin = backbones.SwinTransformer('tiny')
    with torch.device('meta'):
        ours = SECSwin('tiny', out_indices=(3,))
    names = [name for name, _ in ours.named_parameters()]
    assert len(names) > 100
    for name in names:
        expected = swin.get_layer_depth(f'backbone.{name}', 'backbone.')
        assert ours.get_layer_depth(f'backbone.{name}', 'backbone.') == expected, name
