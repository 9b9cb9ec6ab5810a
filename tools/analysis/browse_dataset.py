"""Draw the training data of a config, after its pipeline, by the tool of its toolbox."""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from mmengine.config import Config

from mmsecvit.analysis import run_toolbox_tool
from mmsecvit.apis import command
from mmsecvit.compat import drop_scope_of_visualizer, give_renderer_to_adjust_bbox

TOOLS = {
    'mmdet': 'analysis_tools/browse_dataset.py',
    'mmseg': 'analysis_tools/browse_dataset.py',
    'mmpretrain': 'visualization/browse_dataset.py',
}


@command
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage='%(prog)s CONFIG [--output-dir DIR] [--not-show] [--cfg-options KEY=VALUE ...]',
        epilog="Further options are those of the toolbox's tool.",
    )
    parser.add_argument('config', help='config file')
    args, others = parser.parse_known_args()
    cfg = Config.fromfile(args.config)
    toolbox = cfg.get('default_scope')
    if toolbox not in TOOLS:
        sys.exit(f'config must have a default_scope of {", ".join(TOOLS)}, got {toolbox}')
    drop_scope_of_visualizer(cfg)
    give_renderer_to_adjust_bbox()
    with TemporaryDirectory() as folder:
        config = Path(folder, Path(args.config).name)
        cfg.dump(config)
        run_toolbox_tool(toolbox, TOOLS[toolbox], [str(config), *others])


if __name__ == '__main__':
    main()
