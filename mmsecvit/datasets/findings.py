"""Describe faults of users' data, and report them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

from ..errors import InputError

MISSING = 'missing'  # the kind of a file or folder that does not exist
Level = Literal['error', 'warning', 'mended']


class DataError(InputError):
    """The data of a config does not fit it, or cannot be read."""


@dataclass(frozen=True)
class Finding:
    """One kind of fault in a file, a folder or a setting.

    Attributes:
        kind: Short name for a summary, such as ``cut off`` or ``area missing``.
        file: The file or folder that has the fault.
        message: One sentence that names the setting and the file, says what it has and what it
            takes, and names the first of the things that are concerned.
        level: ``error`` if it is certain to end in a wrong result or a lost run, ``mended`` if it
            has one right meaning, with which training goes on, and ``warning`` if it is only
            suspicious.
        count: How many things in the file have the fault.
        examples: Names or ids of the first of them.
    """

    kind: str
    file: str
    message: str
    level: Level = 'error'
    count: int = 1
    examples: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, things: Sequence[str], kind: str, file: str, message: str, level: Level = 'error'
    ) -> 'Finding':
        """Make a finding that counts the things that are concerned, and names the first."""
        return cls(kind, file, message, level, len(things), tuple(things[:5]))


def report(findings: Iterable[Finding]) -> list[str]:
    """Return the messages of what is suspicious or mended, and raise what is an error.

    Returns:
        The messages for the log, each once.

    Raises:
        FileNotFoundError: If the first error is that a file or folder does not exist.
        DataError: If there is another error. The message is the first one's; if there are more, it
            says how many.
    """
    each = {finding.message: finding for finding in findings}.values()
    errors = [finding for finding in each if finding.level == 'error']
    if errors and errors[0].kind == MISSING:
        raise FileNotFoundError(errors[0].message)
    if errors:
        more = f' ({len(errors) - 1} more: tools/analysis/verify_dataset.py lists them)'
        raise DataError(errors[0].message + (more if len(errors) > 1 else ''))
    return [finding.message for finding in each]


def must_exist(setting: str, path: str | Path) -> None:
    """Raise a FileNotFoundError unless a path of a setting exists."""
    if not Path(path).exists():
        raise FileNotFoundError(f'{setting} must exist, but {path} does not')


def must_be_path(setting: str, path: object) -> None:
    """Raise a DataError if the path of a setting is given, but is of another type."""
    if path and not isinstance(path, (str, PathLike)):
        raise DataError(f'{setting} must be the path of one file, got {path!r:.200}')


def list_some(names: list[str]) -> str:
    """List names for a message, five at most."""
    listed = ', '.join(map(repr, names[:5]))
    return listed if len(names) <= 5 else f'{listed} and {len(names) - 5} more'
