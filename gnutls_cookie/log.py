"""The package's log, and the bound on what strangers can cause in it."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from ._connection import RefusalReason
from .address import SocketAddress

__all__ = ["LOG", "BoundedLog", "RefusalLog"]

LOG = logging.getLogger("gnutls_cookie")

_LOG_LINES, _LOG_SECONDS = 5, 1.0  # so many lines within so many seconds, then one that counts
_REFUSALS_SECONDS = 60.0  # between two lines about clients that were turned away


class BoundedLog:
    """Lines of the log that strangers can cause: 5 a second at most of each level, then one that
    counts the others. What nobody sees is worth little, and so is a disk that is full of it.

    Attributes:
        due: the time at which handle_timeout() has something to do; infinity: it has not.
    """

    def __init__(self) -> None:
        self.due = math.inf
        self._budgets: dict[int, _Budget] = {}

    def write(
        self,
        now: float,
        level: int,
        address: SocketAddress | None,
        what: str,
        error: BaseException | None = None,
    ) -> None:
        """Log that something happened at a peer's address (None: it is not known), with the
        traceback of an error."""
        self.handle_timeout(now)
        budget = self._budgets.setdefault(level, _Budget(now))
        budget.lines += 1
        self.due = min(self.due, budget.since + _LOG_SECONDS)
        if budget.lines <= _LOG_LINES:
            where = "" if address is None else f"{address[0]} port {address[1]}: "
            LOG.log(level, "%s%s", where, what, exc_info=error)

    def timeout(self, now: float) -> float | None:
        """Seconds until handle_timeout() has something to say; None where it has not."""
        due = [one.since + _LOG_SECONDS for one in self._budgets.values() if one.left_out]
        return max(0.0, min(due) - now) if due else None

    def handle_timeout(self, now: float) -> None:
        """Log how many lines were left out, where their time is over."""
        for level, budget in list(self._budgets.items()):
            if now >= budget.since + _LOG_SECONDS:
                del self._budgets[level]
                if budget.left_out:
                    LOG.log(level, "%d more like the last one, not logged", budget.left_out)
        self.due = min(
            (one.since + _LOG_SECONDS for one in self._budgets.values()), default=math.inf
        )


class RefusalLog:
    """Verified clients that a server turns away, by reason: a line a minute at most.

    Attributes:
        told: how many the lines so far have told of.
    """

    def __init__(self) -> None:
        self.told = 0
        self._told: dict[RefusalReason, int] = {}
        self._next = -math.inf

    def write(self, now: float, refused: Mapping[RefusalReason, int]) -> None:
        """Log what was refused since the last line, where its time has come."""
        if now < self._next:
            return
        parts = [
            f"{number - self._told.get(reason, 0)} since {reason.value}"
            for reason, number in refused.items()
            if number > self._told.get(reason, 0)
        ]
        if parts:
            LOG.warning("verified clients turned away: %s", ", ".join(parts))
            self._told = dict(refused)
            self.told = sum(refused.values())
            self._next = now + _REFUSALS_SECONDS


@dataclass(slots=True)
class _Budget:
    """The lines of one level since a time."""

    since: float
    lines: int = 0

    @property
    def left_out(self) -> int:
        return max(0, self.lines - _LOG_LINES)
