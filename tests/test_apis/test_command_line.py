import json
import sys

import pytest

from mmsecvit.apis import command, command_line
from mmsecvit.checkpoints import read_checkpoint
from mmsecvit.errors import InputError


def raising(error):
    @command
    def main():
        raise error

    return main


@pytest.fixture(autouse=True)
def one_process(monkeypatch):
    for name in (*command_line.LOCAL_RANKS, command_line.ERROR_FILE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, 'path', [*sys.path])


def test_refusals_become_one_sentence():
    for error in (InputError('x must be 1'), FileNotFoundError('x is absent')):
        with pytest.raises(SystemExit) as end:
            raising(error)()
        assert end.value.code == str(error)

    @command
    def main():
        read_checkpoint('absent.pth')

    with pytest.raises(SystemExit, match='^checkpoint absent.pth does not exist$'):
        main()


def test_bugs_keep_their_traceback(tmp_path):
    for error in (ValueError('x'), KeyError('x'), OSError('x')):
        with pytest.raises(type(error)):
            raising(error)()

    @command
    def main():
        (tmp_path / 'absent').read_text()

    with pytest.raises(FileNotFoundError, match='Errno 2'):
        main()


def test_modules_in_the_current_directory_are_found(tmp_path, monkeypatch):
    (tmp_path / 'module_of_my_own.py').write_text('ANSWER = 42\n')
    (tmp_path / 'json.py').write_text('')
    monkeypatch.chdir(tmp_path)

    @command
    def main():
        import module_of_my_own

        return module_of_my_own.ANSWER

    with pytest.raises(ImportError):
        import module_of_my_own  # noqa: F401
    assert main() == 42
    assert sys.path.index(str(tmp_path)) > 0  # installed packages come first


@pytest.mark.parametrize('rank', ['LOCAL_RANK', 'SLURM_LOCALID'])
def test_of_several_processes_the_first_one_speaks(tmp_path, monkeypatch, rank):
    waited = []
    monkeypatch.setattr(command_line, '_wait_for_first', lambda: waited.append(1))
    for number in ('0', '1'):
        monkeypatch.setenv(rank, number)
        with pytest.raises(SystemExit, match='x must be 1'):
            raising(InputError('x must be 1'))()
        assert len(waited) == int(number)


def test_torchrun_learns_the_sentence_of_a_refusal_and_the_traceback_of_a_bug(
    tmp_path, monkeypatch
):
    report = tmp_path / 'error.json'
    monkeypatch.setenv(command_line.ERROR_FILE, str(report))
    with pytest.raises(SystemExit):
        raising(InputError('x must be 1'))()
    told = json.loads(report.read_text())['message']
    assert told['message'] == told['extraInfo']['py_callstack'] == 'x must be 1'
    with pytest.raises(KeyError):
        raising(KeyError('x'))()
    assert 'Traceback' in json.loads(report.read_text())['message']['extraInfo']['py_callstack']
