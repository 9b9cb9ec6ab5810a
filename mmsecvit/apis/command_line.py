"""Run command-line tools: find modules, and end with one sentence."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NoReturn

from ..errors import InputError

# The repository, or the folder of installed packages, which is on Python's path already.
ROOT = Path(__file__).resolve().parents[2]

# Number of a process on its machine, as torchrun, slurm and Open MPI name it.
LOCAL_RANKS = ('LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
ERROR_FILE = 'TORCHELASTIC_ERROR_FILE'  # torchrun reports what its processes write into it
SECONDS_FOR_FIRST = 10


def command(main: Callable[[], Any]) -> Callable[[], Any]:
    """Let the ``main`` of a tool end with one sentence where it refuses its input.

    The sentence is the message of an :class:`mmsecvit.errors.InputError`, or of a
    ``FileNotFoundError`` or ``FileExistsError`` of this package. Other errors, also those that the
    operating system raises, keep their traceback. Of several processes on a machine, the first says
    it, and torchrun repeats it in its report.

    Modules that a config imports are also found in the current directory, as with ``python -m``,
    and in the repository.
    """

    @wraps(main)
    def run() -> Any:
        sys.path += [path for path in (os.getcwd(), str(ROOT)) if path not in sys.path]
        try:
            return main()
        except (FileNotFoundError, FileExistsError) as error:
            if error.errno is not None:
                raise
            _refuse(str(error))
        except InputError as error:
            _refuse(str(error))

    if ERROR_FILE not in os.environ:
        return run
    from torch.distributed.elastic.multiprocessing.errors import record

    return record(run)


def _refuse(sentence: str) -> NoReturn:
    """End the process with a sentence."""
    if any(os.environ.get(name, '0') != '0' for name in LOCAL_RANKS):
        _wait_for_first()
    if ERROR_FILE in os.environ:
        # As torch's `record` writes it, with the sentence instead of the traceback.
        details = dict(py_callstack=sentence, timestamp=str(int(time.time())))
        said = dict(message=dict(message=sentence, extraInfo=details))
        Path(os.environ[ERROR_FILE]).write_text(json.dumps(said), encoding='utf-8')
    sys.exit(sentence)


def _wait_for_first() -> None:
    """Let the first process of a machine say the same: its launcher then ends this one.

    If the first process goes on, this one speaks after a while. Ended by the launcher, it is no
    failure that torchrun's report would list.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    time.sleep(SECONDS_FOR_FIRST)
