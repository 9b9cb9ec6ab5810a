"""Each test fails once the workaround that it names is no longer needed."""

import inspect
from pathlib import Path

import pytest
import torch

from mmsecvit import compat


def test_mmengine_still_loads_fsdp_optimizers_in_the_order_of_torch_2_0():
    from mmengine._strategy import FSDPStrategy

    source = inspect.getsource(FSDPStrategy.load_optim_state_dict)
    assert 'optim_state_dict_to_load(\n            state_dict, self.model' in source, (
        compat.load_fsdp_optimizer_state.__doc__
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason='is about machines without a GPU')
def test_mmengine_still_needs_cuda_for_gloo(monkeypatch):
    from mmengine.dist import init_dist

    for name, value in dict(
        RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT='0'
    ).items():
        monkeypatch.setenv(name, value)
    with pytest.raises((AssertionError, RuntimeError), match='CUDA|NVIDIA'):
        init_dist('pytorch', backend='gloo')


def test_the_browser_of_mmpretrain_still_needs_help():
    mmpretrain = pytest.importorskip('mmpretrain')
    tool = Path(mmpretrain.__path__[0], '.mim/tools/visualization/browse_dataset.py').read_text()
    assert '**cfg.visualizer' in tool, compat.drop_scope_of_visualizer.__doc__
    assert 'adjust_bbox(figure, ' in tool, compat.give_renderer_to_adjust_bbox.__doc__
