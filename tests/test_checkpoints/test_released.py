import torch

from mmsecvit import SecViT, SecViTNeck
from mmsecvit.checkpoints import from_released, is_released


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
