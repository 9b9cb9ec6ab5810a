import runpy
import sys
from pathlib import Path

import mmcv
import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'secvit_micro_cifar10.py'


class Opening:
    """Pickles as a call that makes a file."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, 'w')


COMMANDS = {
    'train --pretrained': 'train.py CONFIG --work-dir WORK --pretrained FILE --resume no.pth',
    'train --resume PATH': 'train.py CONFIG --work-dir WORK --resume FILE',
    'train --resume': 'train.py CONFIG --work-dir WORK --resume',
    'test': 'test.py CONFIG FILE --work-dir WORK',
    'demo': 'demo.py IMAGE CONFIG FILE --out-dir NEW',
    'visualize_clusters': 'analysis/visualize_clusters.py IMAGE CONFIG FILE --out NEW',
    'released_to_mmsecvit': 'model_converters/released_to_mmsecvit.py FILE NEW',
    'export': 'deployment/export.py CONFIG FILE --format torch_export --out PT2',
}


@pytest.mark.parametrize('command', COMMANDS)
def test_every_tool_runs_code_of_a_checkpoint_only_if_told_to(tmp_path, monkeypatch, command):
    if command in ('test', 'demo', 'export'):
        pytest.importorskip('mmpretrain')
    marker, evil = tmp_path / 'marker', tmp_path / 'work' / 'evil.pth'
    evil.parent.mkdir()
    torch.save({'state_dict': {}, 'x': Opening(marker)}, evil)
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(evil))
    mmcv.imwrite(np.zeros((64, 64, 3), np.uint8), str(tmp_path / 'image.png'))
    paths = dict(CONFIG=CONFIG, WORK=evil.parent, FILE=evil, NEW=tmp_path / 'new')
    paths |= dict(IMAGE=tmp_path / 'image.png', PT2=tmp_path / 'new.pt2')
    tool, *arguments = (str(paths.get(word, word)) for word in COMMANDS[command].split())

    def run(*options):
        monkeypatch.setattr(sys, 'argv', [tool, *arguments, *options])
        with pytest.raises((SystemExit, FileNotFoundError)) as ended:
            runpy.run_path(str(ROOT / 'tools' / tool), run_name='__main__')
        return str(ended.value)

    found = f'{open.__module__}.open'  # io.open in Python <= 3.11, _io.open in later ones
    assert run() == (
        f'checkpoint {evil} holds more than data ({found}) and was not read; if you trust where '
        'it comes from, add --trust-checkpoint (in Python: trust=True)'
    )
    assert not marker.exists()
    assert 'holds more than data' not in run('--trust-checkpoint')
    assert marker.exists()
