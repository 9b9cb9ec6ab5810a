"""Write the paper's numbers (mmsecvit/analysis/paper.yml) into everything that shows them.

These are the metafiles in configs/, and in README.md and docs/ each table between the comments
`<!-- paper results -->` (or `<!-- paper results: TABLES -->`) and `<!-- /paper results -->`.
"""

import argparse
from pathlib import Path

from mmsecvit.analysis.results import write_results

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    for path, text in write_results(ROOT).items():
        if not path.is_file() or path.read_text(encoding='utf-8') != text:
            path.write_text(text, encoding='utf-8')
            print(path.relative_to(ROOT))


if __name__ == '__main__':
    main()
