"""Memory of a training step, on fake tensors."""

import pytest
import torch
from torch import nn

from mmsecvit import SecViT
from mmsecvit.analysis import Memory, count_memory, memory_table

pytestmark = pytest.mark.skipif(
    torch.__version__ < (2, 7), reason='fake tensors need torch 2.7 or newer'
)
FP32 = 4


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(8, 16, bias=False)
        self.second = nn.Linear(16, 24, bias=False)

    def forward(self, x):
        # The permutation is a view.
        return self.second(self.first(x.permute(0, 2, 3, 1)).sin())


def test_small_network_by_hand():
    rows = 20 * 30
    weights, images, forward = count_memory(Small(), (1, 8, 20, 30), torch.float32, step=False)
    assert weights == (8 * 16 + 16 * 24) * FP32
    assert images == rows * 8 * FP32
    # The sine and the result: the hidden map has gone.
    assert forward == rows * (16 + 24) * FP32
    *others, step = count_memory(Small(), (1, 8, 20, 30), torch.float32)
    assert others == [weights, images]
    # What layers keep, the result, and at most four more like it: its square's gradient in steps.
    kept = rows * (16 + 16 + 24) * FP32
    assert kept + rows * 24 * FP32 <= step <= kept + 4 * rows * 24 * FP32 + 4 * FP32


def test_recomputed_blocks_need_less():
    arch = dict(embed_dims=(16, 16, 32, 32), depths=(2, 1, 2, 1), num_heads=(1, 2, 2, 4))
    kept, recomputed = (
        count_memory(SecViT(arch, attention_backend='sdpa', with_cp=with_cp), (2, 3, 64, 64))
        for with_cp in (False, True)
    )
    assert kept[:2] == recomputed[:2]
    assert recomputed.peak < kept.peak


def test_table():
    table = memory_table({'ours': Memory(2**30, 2**29, 2**31)})
    assert table.splitlines()[2] == '| ours | 1.00 | 0.50 | 2.00 | 3.50 |'
