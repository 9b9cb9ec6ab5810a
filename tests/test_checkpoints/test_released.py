import pytest
import torch

from mmsecvit import SecViT, SecViTNeck
from mmsecvit.checkpoints import from_released, is_released, to_released


def test_all_released_keys_and_shapes_become_ours(golden):
    config = golden['config']
    arch = dict(
        embed_dims=config['embed_dims'],
        depths=config['depths'],
        num_heads=config['num_heads'],
        layer_scale=config['layerscales'],
    )
    backbone = SecViT(arch, variant='released')
    neck = SecViTNeck(config['embed_dims'][-1], config['projection'])
    expected = {f'backbone.{k}': v.shape for k, v in backbone.state_dict().items()}
    expected |= {f'neck.{k}': v.shape for k, v in neck.state_dict().items()}
    expected |= {
        'head.fc.weight': torch.Size([config['num_classes'], config['projection']]),
        'head.fc.bias': torch.Size([config['num_classes']]),
    }
    ours = from_released(golden['state_dict'])
    assert {k: v.shape for k, v in ours.items()} == expected
    assert is_released(golden['state_dict'])
    assert not is_released(ours)


def test_our_keys_to_released_ones_and_back_is_the_identity(golden):
    config = golden['config']
    head_dims = [
        c // heads for c, heads in zip(config['embed_dims'], config['num_heads'], strict=True)
    ]
    released = to_released(from_released(golden['state_dict']), head_dims)
    assert released.keys() == golden['state_dict'].keys()
    for key, value in golden['state_dict'].items():
        if 'RoPE' in key:
            torch.testing.assert_close(released[key], value, rtol=1e-6, atol=0)
        else:
            assert torch.equal(released[key], value), key


@pytest.mark.parametrize(('arch', 'head_dim'), [('tiny', 32), ('base', 32)])
def test_every_weight_of_ours_survives_the_way_there_and_back(arch, head_dim):
    model = torch.nn.ModuleDict(dict(backbone=SecViT(arch, 'released'), neck=SecViTNeck(512)))
    ours = model.state_dict()
    back = from_released(to_released(ours, [head_dim] * 4))
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], value) for key, value in ours.items())
