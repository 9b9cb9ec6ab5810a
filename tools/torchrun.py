"""Start processes as torchrun does, with its options, and end with the report of what failed.

torchrun adds its own traceback, and the processes that it ended because another one had failed.
"""

import signal
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

if __name__ == '__main__':
    try:
        run(parse_args(None))
    except ChildFailedError as error:
        causes = {n: f for n, f in error.failures.items() if f.exitcode != -signal.SIGTERM}
        sys.exit(str(ChildFailedError(error.name, causes or error.failures)))
