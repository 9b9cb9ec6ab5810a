"""Collect what is found in an annotation file in COCO's format."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..findings import Finding, Level
from .masks import to_number

LEFT_OUT = 'mmdet leaves them out'  # what becomes of some annotations


class CocoNotes:
    """Collect the findings of one file.

    Args:
        setting: Name of the setting for the messages, such as ``val_evaluator.ann_file``.
        file: Name of the file.
    """

    def __init__(self, setting: str, file: str) -> None:
        self.setting, self.file = setting, file
        self.findings: list[Finding] = []

    @property
    def refused(self) -> bool:
        """Whether there is an error among the findings."""
        return any(finding.level == 'error' for finding in self.findings)

    def look_at(self, things: str, items: list[dict], label: str = 'id') -> None:
        """Say which list the next findings are about, and which key names its items."""
        self.things, self.items, self.label = things, items, label

    def say(
        self, level: Level, kind: str, which: Sequence[int] | np.ndarray, has: str, rule: str
    ) -> bool:
        """Note that some items have a fault, and return whether there are any.

        Args:
            level: Level of the finding.
            kind: Short name for a summary.
            which: List of the places of these items, or array with a bool for each item.
            has: What these items have.
            rule: What they should have, or what becomes of them.
        """
        places = np.flatnonzero(which) if isinstance(which, np.ndarray) else which
        if not len(places):
            return False
        names = [self._name(place) for place in places[:5]]
        listed = ', '.join(names) + (', ...' if len(places) > len(names) else '')
        self.note(
            level,
            kind,
            f'has {len(places)} of {len(self.items)} {self.things} {has} ({listed}): {rule}',
            len(places),
            names,
        )
        return True

    def note(
        self, level: Level, kind: str, has: str, count: int = 1, names: Sequence[str] = ()
    ) -> None:
        """Note what the file has."""
        message = f'{self.setting} {self.file} {has}'
        self.findings.append(Finding(kind, self.file, message, level, count, tuple(names)))

    def reasons_to_leave_out(self) -> list[str]:
        """Return what the annotations have that mmdet leaves out."""
        start = f'{self.setting} {self.file} '
        return [f.message.removeprefix(start) for f in self.findings if LEFT_OUT in f.message]

    def _name(self, place: int) -> str:
        item = self.items[place]
        return f'{self.label} {item[self.label]}' if self.label in item else f'number {place + 1}'


def numbers_of(items: list[dict], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of items, NaN where there is none, and which are written otherwise."""
    values = [item.get(key) for item in items]
    odd: np.ndarray = np.full(len(values), False)
    if not set(map(type, values)) <= {int, float}:
        odd = np.fromiter((type(value) not in (int, float) for value in values), bool)
    elif values:
        try:
            return np.array(values, float), odd
        except OverflowError:
            pass
    return np.array([to_number(value) for value in values], float), odd


def set_numbers(items: list[dict], key: str, numbers: np.ndarray, which: np.ndarray) -> None:
    """Write numbers into some items."""
    for place in np.flatnonzero(which):
        number = float(numbers[place])
        items[place][key] = int(number) if number.is_integer() else number


def is_id(value: Any) -> bool:
    """Return whether a value can be an id."""
    return type(value) in (int, str, float) and value == value
