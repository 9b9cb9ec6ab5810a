"""Draw the training data of a config, after its pipeline: browse_dataset.py of its toolbox."""

import argparse

from mmengine.config import Config

from mmsecvit.analysis import run_toolbox_tool

TOOLS = {
    'mmdet': 'analysis_tools/browse_dataset.py',
    'mmseg': 'analysis_tools/browse_dataset.py',
    'mmpretrain': 'visualization/browse_dataset.py',
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        usage='%(prog)s CONFIG [--output-dir DIR] [--not-show] [--cfg-options KEY=VALUE ...]',
        epilog="Further options are those of the toolbox's own tool.",
    )
    parser.add_argument('config', help='config file')
    args, others = parser.parse_known_args()
    toolbox = Config.fromfile(args.config).default_scope
    run_toolbox_tool(toolbox, TOOLS[toolbox], [args.config, *others])


if __name__ == '__main__':
    main()
