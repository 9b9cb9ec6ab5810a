import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmsecvit import SECFasterViT, SecViT
from mmsecvit.apis import visualize_clusters
from mmsecvit.ops import kmeans_order, semantic_order
from mmsecvit.visualization import (
    cluster_maps,
    draw_clusters,
    image_normalization,
    paint_clusters,
    record_ranks,
)
from mmsecvit.visualization.clusters import GAP, TokenRanks

ROOT = Path(__file__).parents[2]
MICRO = dict(embed_dims=(16, 16, 32, 32), depths=(2, 1, 1, 1), num_heads=(1, 2, 2, 4))
# First and last color of matplotlib's viridis.
DARK, BRIGHT = (68, 1, 84), (253, 231, 36)


def test_the_ranks_are_those_of_the_keys_that_attend(monkeypatch):
    attended = []

    def attention(q, k, v, num_clusters, **kwargs):
        attended.append(k)
        return v

    backbone = SecViT(MICRO, 'released').eval()
    monkeypatch.setattr('mmsecvit.layers.attention.sec_attention', attention)
    with torch.no_grad(), record_ranks(backbone, (1, 2), block=0) as recorded:
        backbone(torch.rand(2, 3, 40, 64))
    assert list(recorded) == [1, 2]
    for stage, keys, grid, clusters in (
        (1, attended[0], (10, 16), 32),
        (2, attended[2], (5, 8), 8),
    ):
        assert recorded[stage].num_clusters == clusters
        ranks = recorded[stage].ranks
        assert ranks.shape == (*keys.shape[:2], *grid)
        assert torch.equal(ranks.flatten(2).argsort(-1), semantic_order(keys))


def test_clusters_of_one_size_are_drawn_by_their_number_at_this_size():
    backbone = SecViT(MICRO, 'released', cluster_size=20).eval()
    with torch.no_grad(), record_ranks(backbone) as recorded:
        backbone(torch.rand(1, 3, 40, 64))
    # 160, 40, 12 and 4 tokens.
    assert [ranks.num_clusters for ranks in recorded.values()] == [8, 2, 1, 1]
    (clusters,) = cluster_maps(recorded[1])
    assert clusters.flatten().bincount().tolist() == [20] * 8


def test_recording_changes_nothing_and_leaves_nothing_behind():
    backbone = SecViT(MICRO, drop_path_rate=0.0)
    x = torch.rand(1, 3, 64, 64)
    plain = backbone(x)
    with record_ranks(backbone, (1, 4)) as recorded:
        watched = backbone(x)
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))
    before = recorded[1]
    backbone(x)
    assert recorded[1] is before
    assert not any(module._forward_hooks for module in backbone.modules())


def test_clusters_are_equal_to_a_token_and_follow_the_ranks():
    ranks = torch.stack([torch.randperm(35), torch.randperm(35)]).view(1, 2, 5, 7)
    every = cluster_maps(TokenRanks(ranks, 8), 'all')
    mean = cluster_maps(TokenRanks(ranks, 8), 'mean')
    for clusters in (*every, *mean):
        assert sorted({*clusters.flatten().bincount(minlength=8).tolist()}) == [4, 5]
    # Clusters of 10 tokens cut by hand: of 3, 3 and 4.
    ten = torch.tensor([[[[9, 0, 3, 2, 8], [7, 6, 5, 4, 1]]]])
    expected = [[2, 0, 1, 0, 2], [2, 2, 1, 1, 0]]
    assert cluster_maps(TokenRanks(ten, 3), 0).tolist() == [expected]
    # The mean rank of opposite heads is the same everywhere: raster order decides.
    opposite = torch.cat([ten, 9 - ten], dim=1)
    expected = [[[0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]]
    assert cluster_maps(TokenRanks(opposite, 2)).tolist() == expected
    with pytest.raises(ValueError, match="heads must be 'all', 'mean' or from 0 to 1, got 2"):
        cluster_maps(TokenRanks(opposite, 2), 2)


def test_a_token_is_painted_over_its_pixels():
    picture = paint_clusters(torch.tensor([[0, 1, 1], [1, 0, 1]]), 2, size=(6, 9))
    assert (picture.shape, picture.dtype) == ((6, 9, 3), np.uint8)
    expected = np.array([[0, 1, 1], [1, 0, 1]]).repeat(4, 0).repeat(4, 1)[:6, :9]
    assert (picture == np.array([DARK, BRIGHT])[expected]).all()


def test_the_picture_has_the_image_a_panel_for_each_stage_and_the_colors(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), dtype=np.uint8)
    ranks = torch.arange(16 * 24).view(1, 1, 16, 24)
    recorded = {1: TokenRanks(ranks, 32), 3: TokenRanks(ranks[..., :4, :6].argsort(-1), 2)}
    picture = draw_clusters(image, recorded)
    assert picture.shape[1] == 3 * 96 + 2 * GAP
    assert (picture[:64, :96] == image).all()
    panel = picture[:64, 96 + GAP : 192 + GAP]
    assert len(np.unique(panel.reshape(-1, 3), axis=0)) == 32
    assert (tuple(panel[0, 0]), tuple(panel[-1, -1])) == (DARK, BRIGHT)
    bar = picture[-1, 96 + GAP : 192 + GAP]
    assert (bar[::3] == bar[2::3]).all() and len(np.unique(bar, axis=0)) == 32
    assert (tuple(bar[0]), tuple(bar[-1])) == (DARK, BRIGHT)
    heads = {2: TokenRanks(ranks.expand(1, 3, -1, -1), 8)}
    columns = draw_clusters(image, heads, 'all')
    assert columns.shape[:2] == (3 * picture.shape[0] + 2 * GAP, 2 * 96 + GAP)


@pytest.mark.parametrize('name', ['000000000030', '000000000370', '000000000491'])
def test_the_tool_on_an_image_of_coco(tmp_path, monkeypatch, capsys, coco_excerpt, name):
    path = coco_excerpt / 'train2017' / f'{name}.jpg'
    tool = ROOT / 'tools' / 'analysis' / 'visualize_clusters.py'
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [tool.name, str(path), '--stages', '2', '3', '--heads', '1'])
    runpy.run_path(str(tool), run_name='__main__')
    assert 'clusters of random weights' in capsys.readouterr().err
    with Image.open(path) as image, Image.open(f'{name}_clusters.png') as picture:
        width, height = image.size
        assert picture.width == 3 * width + 2 * GAP
        pixels = np.asarray(picture)[:height, -width:]
    # A token of stage 3 stands for 16x16 pixels, and half of all tokens are in each cluster.
    tokens = pixels[::16, ::16].reshape(-1, 3)
    dark, bright = ((tokens == color).all(1).sum() for color in (DARK, BRIGHT))
    assert dark + bright == len(tokens)
    assert bright - dark in (0, 1)
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(tool), run_name='__main__')
    assert refused.value.code == f'out must be a new file, but {name}_clusters.png exists'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(stages=[5]), 'stages must be from 1 to 4, got 5'),
        (dict(block=2), 'block must be below 2 in stage 1, got 2'),
        (dict(heads=4), "heads must be 'all', 'mean' or from 0 to 1, got 4"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path, arguments, message):
    Image.new('RGB', (32, 32)).save(tmp_path / 'image.png')
    with pytest.raises(ValueError, match=message):
        visualize_clusters(tmp_path / 'image.png', tmp_path / 'out.png', **arguments)
    assert not (tmp_path / 'out.png').exists()


def test_stages_without_clusters_are_refused():
    message = 'stages must be stages with clusters, got 1, which has none'
    with pytest.raises(ValueError, match=message), record_ranks(SECFasterViT('0')):
        pass


def test_clusters_of_k_means_are_those_of_k_means():
    torch.manual_seed(0)
    backbone = SecViT('tiny', attention='kmeans').eval()
    attn = backbone.stages[0][-1].attn
    seen = []
    attn.qkv.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    with torch.no_grad(), record_ranks(backbone, stages=[1]) as recorded:
        backbone(torch.randn(1, 3, 64, 96))
    k = seen[0].view(1, 16 * 24, 3, 2, 32)[:, :, 1].transpose(1, 2)
    order = recorded[1].ranks.flatten(2).argsort(-1)
    assert torch.equal(order, kmeans_order(k, 32))


def test_the_image_is_checked_first(tmp_path):
    with pytest.raises(FileNotFoundError, match='image .*no.png does not exist'):
        visualize_clusters(tmp_path / 'no.png', tmp_path / 'out.png')
    (tmp_path / 'text.png').write_text('no image')
    with pytest.raises(ValueError, match='image .*text.png must be readable, but is not: no image'):
        visualize_clusters(tmp_path / 'text.png', tmp_path / 'out.png')


@pytest.mark.parametrize('outer', [dict, lambda x: dict(type='MultiBranch', data_preprocessor=x)])
def test_the_normalization_of_a_detector_inside_another_is_found(outer):
    inner = dict(type='DetDataPreprocessor', mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=True)
    cfg = Config(dict(model=dict(data_preprocessor=outer(inner))))
    assert image_normalization(cfg) == dict(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)
