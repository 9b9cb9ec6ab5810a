"""Limit the time of the parts of `gpu.py`, and write their reports, without heavy imports."""

import json
from pathlib import Path
from typing import Any

# Seconds for each part. Estimates need no GPU: they are made while the first two parts run.
PARTS = {'tests': 120, 'attention': 40, 'estimates': 160, 'backbones': 190, 'compiled': 130}


def limit(part: str, rehearse: bool) -> int:
    """Return the seconds that a part may take, ten times as many in a rehearsal."""
    return 10 * PARTS[part] if rehearse else PARTS[part]


class Report:
    """Write Markdown and JSON of one part, anew after each step."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.lines: list[str] = []
        self.data: dict[str, Any] = {}

    def write(self, *lines: str) -> None:
        self.lines += [*lines, '']
        print(*lines, '', sep='\n', flush=True)
        self.out.with_suffix('.md').write_text('\n'.join(self.lines))
        self.out.with_suffix('.json').write_text(json.dumps(self.data, indent=1))

    def fail(self, case: str, failures: dict[str, str]) -> None:
        if failures:
            self.write(*(f'- {case}, {name}: {why}' for name, why in failures.items()))
