"""Compare sec_attention with torch's attention on tensors that are already grouped, the floor."""

import argparse
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from measuring import add_arguments, check_out, draw_bars, measure, setting, table
from torch import Tensor

from mmsecvit.ops import sec_attention
from mmsecvit.ops.backends.triton import unsupported_reason

DIMS = 32
# Batch, heads, rows, columns and clusters of the first three stages of SecViT-S.
SHAPES = [
    (8, 2, 56, 56, 32),
    (8, 4, 28, 28, 8),
    (8, 8, 14, 14, 2),
    (1, 2, 200, 336, 32),
    (1, 4, 100, 168, 8),
    (1, 8, 50, 84, 2),
]


def build(
    side: str,
    shape: tuple[int, int, int, int, int],
    backward: bool,
    device: torch.device,
    dtype: torch.dtype,
    compiled: bool,
) -> Callable[[], object]:
    batch, heads, height, width, num_clusters = shape
    tokens = height * width
    size = (batch, heads, tokens, DIMS)
    attend = partial(sec_attention, num_clusters=num_clusters, backend=side)
    if side == 'grouped':
        size = (batch * heads, num_clusters, tokens // num_clusters, DIMS)
        attend = F.scaled_dot_product_attention
    elif side == 'varlen':
        size = (batch * heads * tokens, 1, DIMS)
        attend = attend_in_sequences(batch * heads * num_clusters, tokens // num_clusters, device)
    if compiled:
        attend = torch.compile(attend, fullgraph=True)
    torch.manual_seed(0)
    qkv = [torch.randn(size, device=device, dtype=dtype).requires_grad_(backward) for _ in range(3)]
    return partial(step if backward else forward, attend, qkv)


def attend_in_sequences(number: int, length: int, device: torch.device) -> Callable[..., Tensor]:
    """Return attention inside sequences that follow each other (torch 2.10 and newer)."""
    from torch.nn.attention.varlen import varlen_attn

    starts = torch.arange(0, (number + 1) * length, length, dtype=torch.int32, device=device)
    return partial(varlen_attn, cu_seq_q=starts, cu_seq_k=starts, max_q=length, max_k=length)


@torch.no_grad()
def forward(attend: Callable[..., Tensor], qkv: list[Tensor]) -> Tensor:
    return attend(*qkv)


def step(attend: Callable[..., Tensor], qkv: list[Tensor]) -> tuple[Tensor, ...]:
    out = attend(*qkv)
    return torch.autograd.grad(out, qkv, torch.ones_like(out))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser, 'work_dirs/attention.png')
    args = parser.parse_args()
    check_out(args.out)
    dtype = getattr(torch, args.dtype)
    sides = ['grouped', 'sdpa', 'triton', 'reference']
    if args.device.type != 'cuda' or unsupported_reason(torch.empty(1, device=args.device)):
        sides.remove('triton')
    costs = {}
    for shape in SHAPES:
        for backward in (False, True):
            case = 'x'.join(map(str, shape)) + (' step' if backward else '')
            builds = {
                side: partial(build, side, shape, backward, args.device, dtype, args.compile)
                for side in sides
            }
            costs[case] = measure(builds, args.device, args.rounds)
    print(setting(args), table(costs), sep='\n\n')
    draw_bars(costs, setting(args), args.out)
    print(f'\n{args.out}')


if __name__ == '__main__':
    main()
