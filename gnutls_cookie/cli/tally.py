"""What all workers have counted together, those that have ended included."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from gnutls_cookie.endpoint import Counters
from gnutls_cookie.gate import GateCounters
from gnutls_cookie.listener import ListenerCounters
from gnutls_cookie.metrics import Family, exposition, families
from gnutls_cookie.server import ServerCounters

from .board import Board
from .workers import Companion, Worker

__all__ = ["Tally"]

_NONE = Counters(
    GateCounters(0, 0, 0, 0, {}), ListenerCounters(0, 0, 0, 0, 0, 0), ServerCounters(), 0
)


class Tally(Companion):
    """Sums the counters that workers write to a board.

    A worker that is killed takes along what it has counted since it wrote last.

    Args:
        workers: how many there are.
        expiries: gives the time at which the certificate of each file ceases to be valid, in
            seconds since the epoch.

    Attributes:
        board: where each of them has a row.
    """

    def __init__(self, workers: int, expiries: Callable[[], Mapping[str, int]]) -> None:
        self._shape = families(_NONE, build_info=False)
        self._is_gauge = [one.kind == "gauge" for one in self._shape for _ in one.samples]
        self._of_ended = [0] * len(self._is_gauge)
        self._workers: dict[int, Worker] = {}
        self._rows = workers
        self._expiries = expiries
        self.board = Board(workers, len(self._is_gauge))

    def write(self, row: int, counters: Counters) -> None:
        """In a worker: write what it has counted."""
        self.board.write(row, _numbers(families(counters, build_info=False)))

    def on_start(self, worker: Worker) -> None:
        """A worker begins."""
        self._workers[worker.number] = worker

    def on_end(self, worker: Worker) -> None:
        """A worker has ended: keep what it has counted. Its sessions are gone."""
        numbers = self.board.read(worker.number)
        self.board.write(worker.number, [0] * len(numbers))
        for at, number in enumerate(numbers):
            if not self._is_gauge[at]:
                self._of_ended[at] += number

    def page(self, openmetrics: bool) -> str:
        """The sums as Prometheus reads them."""
        return exposition(self.families(), openmetrics=openmetrics)

    def families(self) -> list[Family]:
        """The sums, and how the workers are."""
        rows = [self._of_ended, *(self.board.read(row) for row in range(self._rows))]
        sums = iter([sum(column) for column in zip(*rows, strict=True)])
        found = [
            dataclasses.replace(
                one, samples=tuple((labels, next(sums)) for labels, _ in one.samples)
            )
            for one in self._shape
        ]
        serving = sum(worker.serves for worker in self._workers.values())
        restarts = sum(worker.restarts for worker in self._workers.values())
        text = "Worker processes that serve now."
        found.append(Family("gnutls_cookie_workers", "gauge", text, (({}, serving),)))
        text = "Worker processes that were started in the place of one that had ended."
        found.append(Family("gnutls_cookie_worker_restarts", "counter", text, (({}, restarts),)))
        expiries = self._expiries()
        if expiries:
            text = "When a certificate ceases to be valid, in seconds since the epoch."
            samples = tuple(({"file": file}, when) for file, when in expiries.items())
            name = "gnutls_cookie_certificate_expiry_timestamp_seconds"
            found.append(Family(name, "gauge", text, samples))
        return found + families()


def _numbers(found: list[Family]) -> list[int]:
    return [number for one in found for _, number in one.samples]
