"""Draw the training data of a config, after its pipeline: browse_dataset.py of its toolbox."""

import argparse
import inspect
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from matplotlib import _tight_bbox
from mmengine.config import Config

from mmsecvit.analysis import run_toolbox_tool

TOOLS = {
    'mmdet': 'analysis_tools/browse_dataset.py',
    'mmseg': 'analysis_tools/browse_dataset.py',
    'mmpretrain': 'visualization/browse_dataset.py',
}


def give_matplotlib_its_renderer() -> None:
    """Let mmpretrain's tool trim its figures: newer matplotlib wants one more argument for it."""
    adjust_bbox = _tight_bbox.adjust_bbox
    renderer = inspect.signature(adjust_bbox).parameters.get('renderer')
    if renderer is not None and renderer.default is renderer.empty:
        _tight_bbox.adjust_bbox = lambda figure, box: adjust_bbox(
            figure, box, figure.canvas.get_renderer()
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage='%(prog)s CONFIG [--output-dir DIR] [--not-show] [--cfg-options KEY=VALUE ...]',
        epilog="Further options are those of the toolbox's own tool.",
    )
    parser.add_argument('config', help='config file')
    args, others = parser.parse_known_args()
    cfg = Config.fromfile(args.config)
    toolbox = cfg.get('default_scope')
    if toolbox not in TOOLS:
        sys.exit(f'config must have a default_scope of {", ".join(TOOLS)}, got {toolbox}')
    if cfg.get('visualizer'):
        # What inheriting across toolboxes leaves there, mmpretrain's tool takes for a setting.
        cfg.visualizer.pop('_scope_', None)
    give_matplotlib_its_renderer()
    with TemporaryDirectory() as folder:
        config = Path(folder, Path(args.config).name)
        cfg.dump(config)
        run_toolbox_tool(toolbox, TOOLS[toolbox], [str(config), *others])


if __name__ == '__main__':
    main()
