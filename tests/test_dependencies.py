import subprocess
import sys

import pytest

IMPORT = """
import sys
sys.modules.update({{{name!r}: {stand_in}}})
import mmsecvit
"""


def import_error(name: str, stand_in: str) -> str:
    code = IMPORT.format(name=name, stand_in=stand_in)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize('name', ['mmengine', 'mmcv'])
def test_a_missing_package_is_named_with_what_to_do(name):
    message = import_error(name, 'None')
    assert message.startswith(f'ImportError: mmsecvit needs {name}>=')
    assert '`make env` builds a complete environment' in message


def test_a_package_that_is_too_old_is_named_with_its_version():
    message = import_error('mmcv', "__import__('types').SimpleNamespace(__version__='1.7.2')")
    assert message.startswith('ImportError: mmsecvit needs mmcv>=2.0, found 1.7.2')
