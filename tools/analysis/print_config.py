"""Print a config with all that it inherits, by mmdet's tool, which works for every toolbox.

mmseg's tool leaves files behind, and mmpretrain's breaks lines at the width of the terminal.
"""

import sys

from mmsecvit.analysis import run_toolbox_tool
from mmsecvit.apis import command


@command
def main() -> None:
    run_toolbox_tool('mmdet', 'misc/print_config.py', sys.argv[1:])


if __name__ == '__main__':
    main()
