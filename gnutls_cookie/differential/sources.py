"""Where the cases of a comparison come from: a list, a file, a seed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

from gnutls_cookie.errors import naming

from .cases import Case, case_of_json, cases, named

__all__ = ["Listed", "Recorded", "Seeded", "Source", "recorded_cases"]

_LINE_SIZE_MAX = 1 << 20  # bytes of a line in a file of cases


class Source(Protocol):
    """Cases in an order, that can be had again from any place on."""

    count: int

    @property
    def seed(self) -> int | None:
        """Of the cases; None: they are of a file."""

    def number(self, place: int) -> int:
        """The number by which the case at a place is named; -1: it has none."""

    def cases(self, start: int) -> Iterator[Case]:
        """Those from a place on."""


class Listed:
    """Cases of a corpus."""

    seed = None

    def __init__(self, found: list[Case]) -> None:
        self._found = found
        self.count = len(found)

    def number(self, place: int) -> int:
        return -1

    def cases(self, start: int) -> Iterator[Case]:
        return islice(self._found, start, None)


class Recorded:
    """Cases of a file, read again for each run.

    Raises:
        ValueError: a line is not a case; the text names file and line.
    """

    seed = None

    def __init__(self, path: Path, operations: tuple[str, ...]) -> None:
        self._path = path
        self._operations = operations
        self.count = sum(1 for _ in self.cases(0))

    def number(self, place: int) -> int:
        return -1

    def cases(self, start: int) -> Iterator[Case]:
        found = (one for one in recorded_cases(self._path) if one.operation in self._operations)
        return islice(found, start, None)


class Seeded:
    """Cases of a seed."""

    def __init__(self, seed: int, operations: tuple[str, ...], count: int) -> None:
        self.seed = seed
        self.count = count
        self._operations = operations

    def number(self, place: int) -> int:
        return named(self._operations, place)[1]

    def cases(self, start: int) -> Iterator[Case]:
        return cases(self.seed, self._operations, self.count - start, start)


def recorded_cases(path: Path) -> Iterator[Case]:
    """The cases of a file of JSON lines. A last line without its end may still be being written.

    Raises:
        ValueError: a line is not a case, or it is not a file; the text names file and line.
        OSError: the file cannot be read.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is not a regular file")
    with open(path, "rb") as file, naming(path):
        number = 0
        while line := file.readline(_LINE_SIZE_MAX + 1):
            number += 1
            if not line.strip():
                continue
            try:
                if len(line) > _LINE_SIZE_MAX:
                    raise ValueError(f"more than {_LINE_SIZE_MAX} bytes")
                case = case_of_json(line)
            except ValueError as error:
                if not line.endswith(b"\n") and len(line) <= _LINE_SIZE_MAX:
                    return
                raise ValueError(f"{path}, line {number}: {error}") from None
            yield case
