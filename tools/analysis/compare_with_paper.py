"""Count each network of the paper's tables, and write a page that compares both."""

import argparse
from pathlib import Path

from mmengine.utils import track_iter_progress

from mmsecvit.analysis import ROWS, compare, report
from mmsecvit.apis import command


@command
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--configs',
        type=Path,
        default=Path(__file__).parents[2] / 'configs',
        help='folder of the configs (default: those next to this tool)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default='docs/paper_tables.md',
        help='Markdown file to write (default: docs/paper_tables.md)',
    )
    args = parser.parse_args()
    comparisons = [compare(row, args.configs) for row in track_iter_progress(list(ROWS))]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report(comparisons), encoding='utf-8')
    print(f'\n{args.out}')


if __name__ == '__main__':
    main()
