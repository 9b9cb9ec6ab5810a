"""Run the tools that the installed toolboxes bring."""

import runpy
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path


def run_toolbox_tool(toolbox: str, tool: str, arguments: list[str]) -> None:
    """Run a tool of an installed toolbox, as from the command line.

    Args:
        toolbox: ``mmdet``, ``mmseg`` or ``mmpretrain``.
        tool: Path of the tool in the toolbox's ``tools`` folder.
        arguments: Arguments of the tool on the command line.

    Raises:
        FileNotFoundError: If the toolbox is not installed, or has no such tool.
    """
    if find_spec(toolbox) is None:
        raise FileNotFoundError(f'{tool} is a tool of {toolbox}, which is not installed')
    path = Path(import_module(toolbox).__path__[0], '.mim', 'tools', tool)
    if not path.is_file():
        raise FileNotFoundError(f'the installed {toolbox} must bring {tool}, but {path} is absent')
    sys.argv = [str(path), *arguments]
    runpy.run_path(str(path), run_name='__main__')
