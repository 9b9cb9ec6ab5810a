"""Two processes have the gradients of one, whatever is frozen, dropped or omitted."""

import json
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from mmsecvit import SECFasterViT, SECSwin, SecViT
from mmsecvit.backbones import sec_fastervit, sec_swin

MICRO = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 2, 1), num_heads=(2, 2, 2, 4))
SCALED = dict(MICRO, layer_scale=(False, False, True, True))
MANY = dict(frozen_stages=1, drop_path_rate=0.5, out_indices=(1, 2), with_cp=True)
CASES = {
    'paper': (SecViT, dict(arch=MICRO)),
    'released': (SecViT, dict(arch=SCALED, variant='released')),
    'recomputing': (SecViT, dict(arch=SCALED, variant='released', with_cp=True)),
    'windows': (SecViT, dict(arch=MICRO, attention='window', stem='patch')),
    'stripes': (SecViT, dict(arch=MICRO, attention='cswin', lce=False)),
    'kmeans': (SecViT, dict(arch=MICRO, attention='kmeans', cpe=False)),
    **{f'frozen {i}': (SecViT, dict(arch=MICRO, frozen_stages=i, out_norm=True)) for i in range(4)},
    **{
        f'out {stages}': (SecViT, dict(arch=MICRO, out_indices=stages, out_norm=True))
        for stages in ((0,), (3,), (0, 2), (1, 3))
    },
    'drop path': (SecViT, dict(arch=SCALED, variant='released', drop_path_rate=0.5)),
    'many': (SecViT, dict(arch=SCALED, variant='released', out_norm=True, **MANY)),
    'SECSwin': (SECSwin, dict(arch='micro')),
    'SECSwin many': (SECSwin, dict(arch='micro', **MANY)),
    'SECFasterViT': (SECFasterViT, dict(arch='micro')),
    'SECFasterViT many': (SECFasterViT, dict(arch='micro', **MANY)),
}


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """Return the results of each of two processes in each case."""
    folder = tmp_path_factory.mktemp('distributed')
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for worker in workers:
            printed, _ = worker.communicate()
            assert worker.returncode == 0, printed
    finally:
        for worker in workers:
            worker.kill()  # a worker without the other one waits for minutes
    return [json.loads((folder / f'{rank}.json').read_text()) for rank in range(2)]


@pytest.mark.parametrize('case', CASES)
def test_gradients_of_two_processes_are_those_of_one_on_the_joined_batch(outcomes, case):
    for outcome in outcomes:
        assert outcome[case]['without_gradient'] == []
        assert outcome[case]['difference'] <= 1e-5


def work(rank: int, folder: Path) -> None:
    """Compare the gradients of process ``rank`` of two with those of one process."""
    distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder / "store"}',
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=5),
    )
    micro = dict(MICRO, drop_path_rate=0.0)
    sec_swin.ARCHITECTURES['micro'] = micro
    sec_fastervit.ARCHITECTURES['micro'] = dict(micro, stem_dims=8)
    torch.manual_seed(0)
    halves = torch.randn(2, 2, 3, 50, 70, dtype=torch.float64)
    outcomes = {}
    for name, (cls, options) in CASES.items():
        torch.manual_seed(0)
        backbone = cls(**{'drop_path_rate': 0.0, 'norm_eval': True, **options}).double().train()
        # Stochastic depth is drawn for each half, so one process takes one half after the other.
        batches = halves if options.get('drop_path_rate') else [halves.flatten(0, 1)]
        for seed, batch in enumerate(batches):
            (loss(backbone, batch, seed) / len(batches)).backward()
        of_one = {n: p.grad for n, p in backbone.named_parameters() if p.requires_grad}
        backbone.zero_grad()

        distributed_backbone = DistributedDataParallel(backbone, find_unused_parameters=False)
        # torch reports a parameter without a gradient when the next step begins.
        for _ in range(2):
            distributed_backbone.zero_grad()
            loss(distributed_backbone, halves[rank], rank).backward()
        of_two = {n: p.grad for n, p in backbone.named_parameters() if p.requires_grad}
        outcomes[name] = dict(
            without_gradient=[n for n, grad in of_two.items() if grad is None],
            difference=torch.stack(
                [
                    (of_two[n] - grad).abs().max() / grad.abs().max().clamp_min(1e-12)
                    for n, grad in of_one.items()
                ]
            )
            .max()
            .item(),
        )
    (folder / f'{rank}.json').write_text(json.dumps(outcomes))
    distributed.destroy_process_group()


def loss(network, images, seed):
    torch.manual_seed(seed)
    outs = network(images)
    # Each position has its own weight: the mean square of a normalized map would have no gradient.
    weights = [torch.linspace(-1, 1, out[0].numel()).view_as(out[0]) for out in outs]
    return sum((out * w).mean() for out, w in zip(outs, weights, strict=True))


if __name__ == '__main__':
    work(int(sys.argv[1]), Path(sys.argv[2]))
