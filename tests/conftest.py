import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# The same examples in every run; `pytest --hypothesis-profile=thorough` draws many new ones.
settings.register_profile('fixed', derandomize=True, deadline=None, max_examples=25, database=None)
settings.register_profile('thorough', deadline=None, max_examples=1000, database=None)
settings.load_profile('fixed')

if not torch.cuda.is_available():
    # Without a GPU the kernels run in Triton's interpreter, which it decides when it is imported.
    os.environ['TRITON_INTERPRET'] = '1'

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / 'shared'


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope='session')
def golden() -> dict:
    """Tensors of a small instance of the authors' released network."""
    path = SHARED / 'golden' / 'released_secvit_micro.pt'
    if not path.is_file():
        pytest.skip(f'{path} is not here')
    return torch.load(path, weights_only=True)


@pytest.fixture(scope='session')
def coco128() -> Path:
    """A small excerpt of COCO 2017 in COCO's layout."""
    path = SHARED / 'data' / 'coco128'
    if not path.is_dir():
        pytest.skip(f'{path} is not here')
    return path
