import pytest
import torch
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmsecvit import SECFasterViT
from mmsecvit.backbones.sec_fastervit import WindowBlock
from mmsecvit.backbones.secvit import SecViTBlock

INTEGER = 'num_clusters must be an integer of at least 1, got '


# Table 8 has 25 and 41. The digits after the point show that stage 3 has neither local context nor
# positional networks, and that stage 4 has positional networks.
@pytest.mark.parametrize(('arch', 'millions'), [('0', 25.00), ('1', 40.76)])
def test_parameters(arch, millions):
    with torch.device('meta'):
        backbone = SECFasterViT(arch, out_indices=(3,))
        width = backbone.downsamples[-1][1].out_channels
        model = nn.ModuleList([backbone, nn.Linear(width, 1000)])
    total = sum(p.numel() for p in model.parameters())
    assert total / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(
    ('arch', 'depths', 'channels'),
    [('0', [2, 3, 6, 5], [64, 128, 256, 512]), ('1', [1, 3, 8, 5], [80, 160, 320, 640])],
)
def test_architecture_is_that_of_table_8(arch, depths, channels):
    with torch.device('meta'):
        backbone = SECFasterViT(arch, drop_path_rate=0.0)
    assert [len(blocks) for blocks in backbone.stages] == depths
    convs = [backbone.stages[i][0].conv1.out_channels for i in range(2)]
    norms = [backbone.stages[i][0].norm1.normalized_shape[0] for i in (2, 3)]
    assert convs + norms == channels
    third, fourth = backbone.stages[2][0], backbone.stages[3][0]
    assert type(third) is SecViTBlock
    assert (third.attn.num_heads, third.attn.num_clusters) == (8, 2)
    assert (third.cpe, third.attn.lce) == (None, None)
    assert type(fourth) is WindowBlock
    assert (fourth.attn.num_heads, fourth.attn.window) == (16, 7)
    assert fourth.attn.position_bias is not None


def test_last_stage_attends_to_the_whole_map_at_224():
    block = WindowBlock(16, num_heads=2, feedforward_channels=64, drop_path_rate=0.0)
    block = block.double().eval()
    x = torch.randn(1, 7, 7, 16, dtype=torch.float64)
    y = block.norm1(x + block.position.mlp(block.position.places))
    q, k, v = block.attn.qkv(y).flatten(1, 2).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    products = q @ k.mT * 8**-0.5 + block.attn.position_bias().flatten(3).flatten(1, 2)
    out = (torch.softmax(products, -1) @ v).transpose(1, 2).reshape(1, 7, 7, 16)
    y = x + block.position(7, 7) + block.attn.proj(out)
    torch.testing.assert_close(block(x), y + block.ffn(block.norm2(y)))


def test_a_number_names_an_architecture_too():
    # `--cfg-options model.backbone.arch=1` gives a number.
    with torch.device('meta'):
        assert [len(blocks) for blocks in SECFasterViT(1).stages] == [1, 3, 8, 5]


@pytest.mark.parametrize('size', [(32, 32), (47, 300)])
def test_pyramid_of_any_size(size):
    outs = SECFasterViT('0').eval()(torch.randn(1, 3, *size))
    for i, (out, channels) in enumerate(zip(outs, (64, 128, 256, 512), strict=True)):
        stride = 2 ** (i + 2)
        assert out.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))


def test_out_norms_are_batch_norms_of_the_returned_maps():
    backbone = SECFasterViT('0', out_indices=(1,)).train()
    (out,) = backbone(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(128), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var((0, 2, 3), correction=0), torch.ones(128), atol=1e-2, rtol=0)


def test_every_parameter_learns():
    backbone = SECFasterViT('0', drop_path_rate=0.0).train()
    sum(out.square().mean() for out in backbone(torch.randn(2, 3, 64, 64))).backward()
    assert [n for n, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('toolbox', ['mmdet', 'mmseg', 'mmpretrain'])
def test_every_toolbox_finds_the_backbone(toolbox):
    pytest.importorskip(toolbox)
    with DefaultScope.overwrite_default_scope(toolbox), torch.device('meta'):
        assert type(MODELS.build(dict(type='SECFasterViT'))) is SECFasterViT


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='2'), "arch must be one of 0, 1, got '2'"),
        (dict(arch=2), 'arch must be one of 0, 1, got 2'),
        (dict(arch=['0']), r"arch must be one of 0, 1, got \['0'\]"),
        (dict(num_clusters=0), INTEGER + '0'),
        (dict(num_clusters=2.0), INTEGER + '2.0'),
        (dict(num_clusters='2'), INTEGER + "'2'"),
        (dict(num_clusters=(32, 8, 2, 1)), INTEGER + r'\(32, 8, 2, 1\)'),
        (dict(frozen_stages=7), 'frozen_stages must be from -1 to 4, got 7'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SECFasterViT(**arguments)
