import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import mmengine
import pytest
import torch
from hypothesis import settings

# The same examples in every run; `pytest --hypothesis-profile=thorough` draws many new ones.
settings.register_profile('fixed', derandomize=True, deadline=None, max_examples=25, database=None)
settings.register_profile('thorough', deadline=None, max_examples=1000, database=None)
settings.load_profile('fixed')

if 'PYTEST_XDIST_WORKER' in os.environ:
    # One thread a worker, here and in the processes that tests start.
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)

if not torch.cuda.is_available():
    # Without a GPU the kernels run in Triton's interpreter. Triton reads this when it is imported.
    os.environ['TRITON_INTERPRET'] = '1'

DATA = Path(__file__).parent / 'data'


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope='session', autouse=True)
def metafiles_read_once() -> Iterator[None]:
    """Read each metafile of a toolbox once: mmengine reads all of them for each `mmdet::` base."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmengine.config.utils.load', cache(mmengine.load))
        yield


@pytest.fixture
def on_the_gpu() -> Iterator[None]:
    """Create tensors on the GPU where there is one."""
    torch.set_default_device('cuda' if torch.cuda.is_available() else 'cpu')
    yield
    torch.set_default_device(None)


@pytest.fixture(scope='session')
def golden() -> dict:
    """Tensors of a small instance of the authors' released network.

    ``rounding`` bounds the error of its maps in float32, relative to their largest value.
    """
    golden = torch.load(DATA / 'golden' / 'released_secvit_micro.pt', weights_only=True)
    config = golden['config']
    # The longest sum of a block has as many terms as the feed-forward network has hidden channels.
    terms = config['mlp_ratios'][-1] * config['embed_dims'][-1]
    rounding = sum(config['depths']) * terms * torch.finfo(torch.float32).eps
    return golden | dict(rounding=rounding)


@pytest.fixture(scope='session')
def coco_excerpt() -> Path:
    """Eight training and five validation images of COCO 2017 in COCO's layout."""
    return DATA / 'coco'


@pytest.fixture(scope='session')
def ade20k_excerpt() -> Path:
    """The images of `coco_excerpt` with dense labels in ADE20K's layout."""
    return DATA / 'coco_as_ade20k'
