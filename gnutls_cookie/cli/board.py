"""Memory that worker processes write, and the process that watches them reads."""

from __future__ import annotations

import mmap
import time
from collections.abc import Sequence

__all__ = ["Board"]

_WORD_BYTES = 8
_BEAT, _HAS_READ, _NUMBERS = range(3)  # the words of a row
_MASK = (1 << 64) - 1


class Board:
    """A row for each worker: when it was last alive, what it has read, its numbers.

    It is shared by all processes that are forked later. Each number is a word of its own, so that
    a worker may die at any moment, and nobody waits for anybody.

    Args:
        rows: workers.
        width: numbers of each worker.
    """

    def __init__(self, rows: int, width: int = 0) -> None:
        self._width = width
        self._row_words = _NUMBERS + width
        self._memory = mmap.mmap(-1, (1 + rows * self._row_words) * _WORD_BYTES)
        self._words = memoryview(self._memory).cast("Q")

    @property
    def asked(self) -> int:
        """How often workers were asked to read their files again."""
        return self._words[0]

    def ask(self) -> None:
        """Ask once more."""
        self._words[0] += 1

    # --- of one worker ----------------------------------------------------------------------------

    def start(self, row: int) -> None:
        """A process begins; it has what is there to read."""
        self.beat(row)
        self.note_read(row, self.asked)

    def beat(self, row: int) -> None:
        """Its process is alive."""
        self._words[self._at(row) + _BEAT] = time.monotonic_ns()

    def silent_seconds(self, row: int) -> float:
        """Since its process was last known to be alive."""
        return (time.monotonic_ns() - self._words[self._at(row) + _BEAT]) / 1e9

    def note_read(self, row: int, asked: int) -> None:
        """It has read what it was asked to read then."""
        self._words[self._at(row) + _HAS_READ] = asked

    def has_read(self, row: int) -> bool:
        """Whether it has read its files as often as it was asked to."""
        return self._words[self._at(row) + _HAS_READ] == self.asked

    def write(self, row: int, numbers: Sequence[int]) -> None:
        """Write its numbers.

        Raises:
            ValueError: they are too many or too few.
        """
        begin = self._at(row) + _NUMBERS
        for word, number in zip(range(begin, begin + self._width), numbers, strict=True):
            self._words[word] = number & _MASK

    def read(self, row: int) -> list[int]:
        """Its numbers."""
        begin = self._at(row) + _NUMBERS
        return self._words[begin : begin + self._width].tolist()

    def _at(self, row: int) -> int:
        return 1 + row * self._row_words
