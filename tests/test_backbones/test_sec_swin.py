import logging

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmsecvit import SECSwin

FOUR_CLUSTERS = 'num_clusters must be four integers of at least 1, got '


def swin(arch):
    backbones = pytest.importorskip('mmpretrain.models.backbones')
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return backbones.SwinTransformer(arch)


# Swin has 28.29 and 49.61 million (with a classifier for 1,000 classes), which Table 8 and Swin's
# paper write as 29 and 50. SEC-Swin lacks the tables of relative position bias.
@pytest.mark.parametrize(
    ('arch', 'of_swin', 'written', 'depths'),
    [('tiny', 28.29, 29, (2, 2, 6, 2)), ('small', 49.61, 50, (2, 2, 18, 2))],
)
def test_parameters_are_swins_less_the_position_bias(arch, of_swin, written, depths):
    with torch.device('meta'):
        backbone = SECSwin(arch, out_indices=(3,))
    head = 768 * 1000 + 1000
    heads = sum(depth * h for depth, h in zip(depths, (3, 6, 12, 24), strict=True))
    total = sum(p.numel() for p in backbone.parameters()) + head
    assert (total + 13 * 13 * heads) / 1e6 == pytest.approx(of_swin, abs=0.006)
    assert written - 1 < total / 1e6 <= written


@pytest.mark.parametrize('arch', ['tiny', 'small'])
def test_weights_of_swin_load_except_the_position_bias(arch):
    weights = swin(arch).state_dict()
    missing, unused = SECSwin(arch, out_indices=(3,)).load_state_dict(weights, strict=False)
    assert missing == []
    assert unused == [key for key in weights if '.relative_position_' in key]


def test_a_checkpoint_of_swin_is_taken_and_the_difference_reported(tmp_path, caplog, monkeypatch):
    path = tmp_path / 'swin.pth'
    weights = swin('tiny').state_dict()
    torch.save({'state_dict': {f'backbone.{k}': v for k, v in weights.items()}}, path)
    backbone = SECSwin('tiny', init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    monkeypatch.setattr(MMLogger.get_current_instance(), 'handlers', [caplog.handler])
    with caplog.at_level(logging.INFO):
        backbone.init_weights()
    state = backbone.state_dict()
    assert all(torch.equal(state[k], v) for k, v in weights.items() if k in state)
    missing, unused = caplog.messages[-1].split('not in the file: ')[1].split('not used of it: ')
    assert all(f'norm{i}.weight' in missing for i in range(3))
    assert set(unused.split(', ')) == {k for k in weights if '.relative_position_' in k}


def test_a_checkpoint_of_the_other_size_is_refused(tmp_path):
    torch.save(swin('tiny').state_dict(), tmp_path / 'swin.pth')
    backbone = SECSwin(
        'small', init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'swin.pth'))
    )
    with pytest.raises(ValueError, match='is not of this SECSwin: 144 weights are missing'):
        backbone.init_weights()


def test_one_cluster_in_each_stage_is_swin_with_global_attention():
    backbones = pytest.importorskip('mmpretrain.models.backbones')
    # Each window is as large as the map of its stage, so no window is shifted.
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        reference = backbones.SwinTransformer(
            'tiny',
            out_indices=(0, 1, 2, 3),
            stage_cfgs=[dict(window_size=size) for size in (16, 8, 4, 2)],
        )
    for name, p in reference.named_parameters():
        if name.endswith('relative_position_bias_table'):
            nn.init.zeros_(p)
        elif p.dim() == 1:
            nn.init.normal_(p, mean=float('norm' in name and name.endswith('weight')), std=0.1)
    backbone = SECSwin('tiny', num_clusters=(1, 1, 1, 1)).double().eval()
    reference.double().eval()
    missing, _ = backbone.load_state_dict(reference.state_dict(), strict=False)
    assert missing == []
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        outs, expected = backbone(x), reference(x)
    assert len(outs) == len(expected) == 4
    torch.testing.assert_close(outs, expected)


class GlobalAttention(nn.Module):
    """torch's attention between all tokens, with the weights of SECA."""

    def __init__(self, seca, embed_dims):
        super().__init__()
        self.attn = nn.MultiheadAttention(
            embed_dims, seca.num_heads, batch_first=True, dtype=torch.float64
        )
        self.attn.load_state_dict(
            {
                'in_proj_weight': seca.qkv.weight,
                'in_proj_bias': seca.qkv.bias,
                'out_proj.weight': seca.proj.weight,
                'out_proj.bias': seca.proj.bias,
            }
        )

    def forward(self, x):
        tokens = x.flatten(1, 2)
        return self.attn(tokens, tokens, tokens, need_weights=False)[0].view_as(x)


def test_one_cluster_is_global_attention():
    backbone = SECSwin('tiny', num_clusters=(1, 1, 1, 1)).double().eval()
    x = torch.randn(1, 3, 64, 80, dtype=torch.float64)
    with torch.no_grad():
        outs = backbone(x)
        for i, dims in enumerate((96, 192, 384, 768)):
            for block in backbone.blocks(i):
                block.attn['w_msa'] = GlobalAttention(block.attn['w_msa'], dims)
        torch.testing.assert_close(outs, backbone(x))


def test_architecture_is_that_of_table_8():
    backbone = SECSwin('small')
    stages = [backbone.blocks(i) for i in range(4)]
    assert [len(blocks) for blocks in stages] == [2, 2, 18, 2]
    attentions = [blocks[0].attn['w_msa'] for blocks in stages]
    assert [attn.num_heads for attn in attentions] == [3, 6, 12, 24]
    assert [attn.num_clusters for attn in attentions] == [32, 8, 2, 1]
    assert all(attn.lce is None for attn in attentions)
    assert [blocks[0].ffn.feedforward_channels for blocks in stages] == [384, 768, 1536, 3072]
    rates = [b.ffn.dropout_layer.drop_prob for blocks in stages for b in blocks]
    assert rates == pytest.approx([0.3 * i / 23 for i in range(24)])


@pytest.mark.parametrize('size', [(32, 32), (47, 70)])
def test_pyramid_of_any_size(size):
    outs = SECSwin('tiny').eval()(torch.randn(1, 3, *size))
    for i, (out, channels) in enumerate(zip(outs, (96, 192, 384, 768), strict=True)):
        stride = 2 ** (i + 2)
        assert out.shape == (1, channels, -(-size[0] // stride), -(-size[1] // stride))


def test_frozen_stages_and_out_indices():
    backbone = SECSwin('tiny', out_indices=(1, 2), frozen_stages=2).train()
    assert len(backbone.stages) == 3
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    expected = ('stages.1.downsample.', 'stages.2.', 'norm2.')
    assert trained == {name for name in backbone.state_dict() if name.startswith(expected)}
    sum(out.mean() for out in backbone(torch.randn(1, 3, 32, 32))).backward()


@pytest.mark.parametrize('toolbox', ['mmdet', 'mmseg', 'mmpretrain'])
def test_every_toolbox_finds_the_backbone(toolbox):
    pytest.importorskip(toolbox)
    with DefaultScope.overwrite_default_scope(toolbox), torch.device('meta'):
        assert type(MODELS.build(dict(type='SECSwin'))) is SECSwin


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(arch='base'), "arch must be one of tiny, small, t, s, got 'base'"),
        (dict(arch=['tiny']), r"arch must be one of tiny, small, t, s, got \['tiny'\]"),
        (dict(arch=dict(depths=2)), "arch must be one of tiny, small, t, s, got {'depths': 2}"),
        (dict(arch=0), 'arch must be one of tiny, small, t, s, got 0'),
        (dict(num_clusters=(8, 2)), FOUR_CLUSTERS + r'\(8, 2\)'),
        (dict(num_clusters=(8, 2, 0, 1)), FOUR_CLUSTERS + r'\(8, 2, 0, 1\)'),
        (dict(num_clusters=2.5), FOUR_CLUSTERS + '2.5'),
        (dict(num_clusters='8'), FOUR_CLUSTERS + "'8'"),
        (dict(drop_path_rate=1.5), r'drop_path_rate must be in \[0, 1\), got 1.5'),
        (dict(out_indices=(4,)), 'out_indices must be rising stages among 0 to 3'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        SECSwin(**arguments)
