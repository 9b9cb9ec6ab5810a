"""`from mmsecvit import SecViT` imports little, and registers what configs name."""

import json
import subprocess
import sys

import pytest

import mmsecvit

# What a backbone imports in any case. `mmengine.model` imports torch's FSDP, and `mmcv.cnn` imports
# `mmengine.runner`, PIL and OpenCV: the first test asserts what this package adds to that.
BASE = 'import mmcv.cnn, mmengine.model, mmengine.registry'
HEAVY = ('matplotlib', 'PIL', 'torchvision', 'cv2', 'sklearn', 'mmdet', 'mmseg', 'mmpretrain')
HEAVY += ('mmengine._strategy', 'torch.distributed.fsdp')
MODULES = 'import json, sys; print(json.dumps(sorted(sys.modules)))'


def run(code: str) -> str:
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_backbone_adds_no_heavy_import():
    before, after = (
        set(json.loads(run(f'{code}; {MODULES}')))
        for code in (BASE, f'{BASE}; from mmsecvit import SecViT')
    )
    added = after - before
    assert 'mmsecvit.backbones.secvit' in added
    assert [m for m in added if m.startswith(tuple(f'{h}.' for h in HEAVY)) or m in HEAVY] == []
    assert [m for m in added if m.startswith('mmsecvit.apis')] == []


def test_the_backbone_needs_no_fsdp():
    """Build a backbone where mmengine's strategy for FSDP cannot be imported."""
    code = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name == 'mmengine._strategy.fsdp':
            raise ImportError(name)

sys.meta_path.insert(0, Block())
import torch
from mmengine.registry import HOOKS, LOOPS
from mmsecvit import SecViT
arch = dict(embed_dims=(8,) * 4, depths=(1,) * 4, num_heads=(1,) * 4)
shapes = [tuple(x.shape) for x in SecViT(arch)(torch.rand(1, 3, 64, 64))]
assert shapes == [(1, 8, 16, 16), (1, 8, 8, 8), (1, 8, 4, 4), (1, 8, 2, 2)], shapes
for name in ('AtomicCheckpointHook', 'InterruptionHook', 'StepSeedHook'):
    assert HOOKS.get(name).__module__.startswith('mmsecvit.engine.hooks.')
assert LOOPS.get('ResumableEpochLoop').__module__ == 'mmsecvit.engine.loops'
try:
    import mmsecvit.engine.strategies
except ImportError:
    print('blocked')
"""
    assert run(code) == 'blocked'


def test_functions_of_apis_are_imported_at_their_first_use():
    assert run("import mmsecvit; print('mmsecvit.apis' in __import__('sys').modules)") == 'False'
    from mmsecvit.apis import models

    assert mmsecvit.get_model is models.get_model
    assert mmsecvit.list_models is models.list_models
    assert {'SecViT', 'get_model', 'list_models'} <= set(dir(mmsecvit))
    with pytest.raises(AttributeError, match="module 'mmsecvit' has no attribute 'get_modell'"):
        mmsecvit.get_modell  # noqa: B018


@pytest.mark.parametrize('blocked', [(), ('matplotlib', 'torchvision')])
def test_list_models_adds_no_heavy_import(blocked):
    block = f'import sys; sys.modules |= dict.fromkeys({blocked!r})'
    added = set(json.loads(run(f'{block}; import mmsecvit; mmsecvit.list_models(); {MODULES}')))
    added -= {*json.loads(run(f'{block}; {BASE}; {MODULES}'))}
    assert 'mmsecvit.apis.models' in added
    assert [m for m in added if m.startswith(tuple(f'{h}.' for h in HEAVY)) or m in HEAVY] == []


def test_every_function_of_apis_is_found_by_its_name_alone():
    # Importing every module first: one with the name of a function would hide it.
    code = """
from pkgutil import iter_modules
from importlib import import_module
import mmsecvit.apis
for module in iter_modules(mmsecvit.apis.__path__):
    import_module(f'mmsecvit.apis.{module.name}')
names = [name for name in dir(mmsecvit.apis) if callable(getattr(mmsecvit.apis, name))]
assert names == sorted(mmsecvit.apis.__all__) == sorted(mmsecvit.apis._MODULES)
print('done')
"""
    assert run(code) == 'done'
    from mmsecvit import apis

    with pytest.raises(AttributeError, match="module 'mmsecvit.apis' has no attribute 'trian'"):
        apis.trian  # noqa: B018
