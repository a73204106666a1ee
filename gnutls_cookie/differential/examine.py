"""What shows a difference again: a case alone, or after others, and the smallest of them.

Each try is made with a fresh process of the target, so that what is reported is what a user sees
who runs it again. Where the target answers by chance, the finding is kept as it was seen, and that
is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol, runtime_checkable

from .cases import SCENE, Case
from .outcomes import Outcome, Target
from .shrink import shrunk

__all__ = ["Asker", "Examined", "History", "difference", "examined", "same", "shape"]

_TRIES = 3  # fresh processes that have to agree before a difference counts as steady
_SHRINK_SECONDS = 20.0  # for the smallest case
_SEQUENCE_SECONDS = 15.0  # for a sequence that shows it, and again for the shortest
_SEQUENCE_MAX = 1 << 17  # cases of a sequence that are held in memory
_ASKED_MAX = 20_000  # cases that are tried to make one smaller
_SHRINK_HANGS = 10  # smaller cases that hang as well
_HANG_SECONDS = 1.0  # for a smaller case of one that hung for longer
_SETTLE_SECONDS = 0.05  # for a second answer to one question to arrive
_SETTLED_MAX = 4 * SCENE  # cases of a sequence after which one is waited for
_CHUNK = 512


@runtime_checkable
class Asker(Protocol):
    """A target in a process of its own: see processes.Batched and targets.ExecTarget."""

    name: str
    operations: tuple[str, ...]
    one_key: bool
    timeout: float
    settle: float
    fresh: bool

    @property
    def running(self) -> bool:
        """Whether there is a process that remembers what it was asked."""

    @property
    def busy(self) -> bool:
        """Whether there are more answers to collect."""

    def renew(self) -> None:
        """Start it anew, unless it is fresh."""

    def post(self, batch: Sequence[Case]) -> None:
        """Ask for cases."""

    def collect(self, expected: Sequence[Outcome]) -> list[Outcome]:
        """The answers to the first of them, one at least; a deadly one is the last."""

    def finish(self) -> Outcome | None:
        """What is wrong after the last answer; None where nothing is."""

    def stop(self) -> None:
        """End the process."""

    def close(self) -> None:
        """Free everything."""


class History(Protocol):
    """What a process was asked before it differed, that case included."""

    size: int

    def last(self, count: int) -> list[Case]:
        """The last cases, as many, or as many as there are."""


@dataclass(frozen=True)
class Examined:
    """What became of a difference; the attributes are those of harness.Finding."""

    case: Case
    expected: Outcome
    answer: Outcome
    alone: bool
    before: tuple[Case, ...] = ()
    shown: tuple[int, int] = (0, 0)
    note: str = ""


def same(expected: Outcome, answer: Outcome) -> bool:
    """Whether an answer is the expected one. What a target does not tell (None) is no fault."""
    if expected == answer:
        return True
    return (
        len(expected) == len(answer)
        and answer[0] in ("challenge", "verified", "discarded", "failed")
        and all(b is None or a == b for a, b in zip(expected, answer, strict=True))
    )


def difference(case: Case, expected: Outcome, answer: Outcome) -> tuple[object, ...]:
    """In what way two answers differ: equal for two cases that differ for the same reason."""
    if expected[0] == answer[0] and len(expected) == len(answer):
        fields = [number for number, one in enumerate(answer) if one != expected[number]]
        codes = (expected[1], answer[1]) if expected[0] in ("error", "discarded") else ()
        return (case.operation, expected[0], *fields, *codes)
    return (case.operation, _kind(expected), _kind(answer))


def _kind(outcome: Outcome) -> object:
    if outcome[0] in ("error", "discarded"):
        return outcome[:2]
    if outcome[0] in ("raised", "wrong", "died"):
        # The text may hold values of the case: what stands before them tells kinds apart.
        return outcome[0], "".join(one for one in outcome[1][:40] if not one.isdigit())
    return outcome[0]


def _way(_case: Case, _expected: Outcome, answer: Outcome) -> object:
    """The same more roughly: a crash in the place of a wrong answer, say, would hide that one."""
    return answer[0] if answer[0] in ("died", "hangs", "raised", "wrong") else "answer"


# Offsets of the fields of a datagram with a ClientHello (RFC 6347 4.1, 4.2.2, 4.2.1).
_FIELDS = (0, 1, 3, 5, 11, 13, 14, 17, 19, 22, 25, 27, 59)


def shape(case: Case) -> tuple[object, ...]:
    """What a smallest case looks like: which of its parts there are, and are not zero."""
    message = case.message
    fields = [start for start, end in pairwise(_FIELDS) if any(message[start:end])]
    pushed = case.pushed
    return (
        not case.key,
        case.client_data is None,
        case.previous is None,
        None if pushed is None else (pushed < 0, abs(pushed) > 2**31),
        tuple(number > 0 for number in case.prestate),
        *fields,
        min(len(message), 60),
        message[59:60] > b"\0",
    )


# --- the examination ------------------------------------------------------------------------------


def examined(
    asker: Asker,
    oracle: Target,
    case: Case,
    expected: Outcome,
    answer: Outcome,
    history: History,
    *,
    strict: bool = False,
) -> list[Examined]:
    """Find out what shows a difference again.

    Args:
        asker: the target; it is started anew many times.
        oracle: what is right.
        case: the one that showed it.
        expected: what the oracle made of it.
        answer: what the target made of it.
        history: what the process was asked.
        strict: whether a smaller case has to differ in just the same way.

    Returns:
        What has become of it; and a case in which the target ended or hung meanwhile, if any.

    Raises:
        Unusable: the target cannot be started any more.
    """
    timeout, settle = asker.timeout, asker.settle
    asker.settle = _SETTLE_SECONDS
    way = difference if strict else _way
    examination = _Examination(asker, oracle, way, way(case, expected, answer))
    try:
        found = examination.of(case, expected, answer, history)
        return [found, *map(examination.again, examination.others)]
    finally:
        asker.timeout, asker.settle = timeout, settle


class _Examination:
    """Of one difference. Another way to differ does not count: it would hide the first one."""

    def __init__(
        self,
        asker: Asker,
        oracle: Target,
        way_of: Callable[[Case, Outcome, Outcome], object],
        way: object,
    ) -> None:
        self.others: list[Examined] = []
        self._asker = asker
        self._oracle = oracle
        self._way_of = way_of
        self._way = way
        self._hangs = False
        self._timeout = asker.timeout
        self._deadline = 0.0

    def of(self, case: Case, expected: Outcome, answer: Outcome, history: History) -> Examined:
        seen = Examined(case, expected, answer, alone=False)
        self._hangs = answer[0] == "hangs"
        tries = 1 if self._hangs else _TRIES
        self._hurry()
        shown = sum(self._first([case]) is not None for _ in range(tries))
        if shown == tries:
            return self._smallest(case, answer)
        if shown or history.size == 1:
            return _by_chance(seen, shown, tries)
        self._deadline = time.monotonic() + _SEQUENCE_SECONDS
        sequence = self._sequence(history)
        if sequence is None:
            return _by_chance(seen, 0, tries, whole=history.size <= _SEQUENCE_MAX)
        if len(sequence) == 1:
            return self._smallest(sequence[0], answer)
        if self._confirmed(sequence, 1) is None:
            return _by_chance(seen, 0, tries)
        self._deadline = time.monotonic() + _SEQUENCE_SECONDS
        shortest = self._shortest(sequence)
        for found in shortest, sequence:
            result = self._confirmed(found, tries)
            if result is not None:
                return result
        return _by_chance(seen, 0, tries)

    def again(self, other: Examined) -> Examined:
        """What to say of a case that was seen by the way."""
        self.others = []
        self._way_of, self._way = _way, other.answer[0]
        self._hurry()
        if self._first([other.case]) == 0:
            return replace(other, alone=True, before=())
        return replace(other, alone=False, note=f"{other.note}; alone it does not show it")

    # What a process makes of cases.

    def _hurry(self) -> None:
        """Wait less long for a process that hangs, until the result is confirmed."""
        if self._hangs or any(one.answer[0] == "hangs" for one in self.others):
            self._asker.timeout = min(self._timeout, _HANG_SECONDS)

    def _ask(self, sequence: Sequence[Case]) -> tuple[int, Outcome] | None:
        """Ask for cases; the number of the first one that differs, and the answer."""
        place = 0
        size = 1 if len(sequence) <= SCENE else _CHUNK
        while place < len(sequence):
            batch = sequence[place : place + size]
            self._asker.post(batch)
            expected = [self._oracle.answer(one) for one in batch]
            first = place
            while place == first or self._asker.busy:
                for answer in self._asker.collect(expected[place - first :]):
                    right = expected[place - first]
                    if not same(right, answer):
                        counts = self._counts(sequence, place, right, answer)
                        return (place, answer) if counts else None
                    place += 1
        return None

    def _counts(
        self, sequence: Sequence[Case], place: int, expected: Outcome, answer: Outcome
    ) -> bool:
        if self._way_of(sequence[place], expected, answer) == self._way:
            return True
        if answer[0] in ("died", "hangs") and not self.others:
            before = tuple(sequence[:place])
            note = "seen while another finding was made smaller"
            self.others.append(
                Examined(sequence[place], expected, answer, not before, before, (1, 1), note)
            )
            self._hurry()
        return False

    def _first(self, sequence: Sequence[Case]) -> int | None:
        """The number of the first case that differs in a fresh process; None where none does."""
        settle = self._asker.settle
        if len(sequence) > _SETTLED_MAX:
            self._asker.settle = 0
        try:
            self._asker.renew()
            found = self._ask(sequence)
        finally:
            self._asker.settle = settle
        return None if found is None else found[0]

    # A case alone.

    def _smallest(self, case: Case, answer: Outcome) -> Examined:
        if answer[0] != "wrong":
            self._asker.settle = 0  # what it waits for has not been seen
        limit = _SHRINK_SECONDS
        if self._hangs:
            limit = _SHRINK_HANGS * self._asker.timeout
        self._deadline = time.monotonic() + limit
        # In one process, which is quick. A target that remembers may show anything there, so the
        # result counts only if fresh processes show it as well.
        for differs in self._differs_now, self._differs_fresh:
            smaller = shrunk(case, differs, _ASKED_MAX)
            result = self._confirmed([smaller], 1)
            if result is not None:
                return result
        result = self._confirmed([case], 1)
        if result is not None:
            return result
        expected = self._oracle.answer(case)
        return _by_chance(Examined(case, expected, answer, alone=False), _TRIES, _TRIES + 1)

    def _differs_now(self, case: Case) -> bool:
        return time.monotonic() < self._deadline and self._ask([case]) is not None

    def _differs_fresh(self, case: Case) -> bool:
        return time.monotonic() < self._deadline and self._first([case]) is not None

    # A sequence.

    def _sequence(self, history: History) -> list[Case] | None:
        """The last cases that a process was asked, as many as it takes; the last one differs."""
        count = 2
        while True:
            sequence = history.last(count)
            found = self._first(sequence)
            if found is not None:
                return sequence[: found + 1]
            if count >= min(history.size, _SEQUENCE_MAX) or time.monotonic() > self._deadline:
                return None
            count *= 2

    def _shortest(self, sequence: list[Case]) -> list[Case]:
        """Simpler cases, fewer of them, and then the last one smaller."""
        sequence = self._fewer(self._simpler(sequence))
        *before, case = self._simpler(sequence)
        last = shrunk(case, lambda one: self._in_time([*before, one]) == len(before), _ASKED_MAX)
        return [*before, last]

    def _simpler(self, sequence: list[Case]) -> list[Case]:
        """The simplest cases in the place of those that need not be what they are."""
        size = len(sequence) - 1
        while size:
            start = 0
            while start < len(sequence) - 1:
                end = min(start + size, len(sequence) - 1)
                simple = [_SIMPLEST[one.operation] for one in sequence[start:end]]
                if simple != sequence[start:end]:
                    simpler = sequence[:start] + simple + sequence[end:]
                    found = self._in_time(simpler)
                    if found is not None:
                        sequence = simpler[: found + 1]
                start += size
            size //= 2
        return sequence

    def _fewer(self, sequence: list[Case]) -> list[Case]:
        """Leave out chunks, large ones first (ddmin). Many are the same where cases are."""
        tried: set[int] = set()
        size = len(sequence) // 2
        while size:
            start = 0
            while start < len(sequence) - 1:
                fewer = sequence[:start] + sequence[start + size :]
                name = hash(tuple(fewer))
                found = None if name in tried else self._in_time(fewer)
                tried.add(name)
                if found is None:
                    start += size
                else:
                    sequence = fewer[: found + 1]
            size //= 2
        return sequence

    def _in_time(self, sequence: list[Case]) -> int | None:
        if not sequence or time.monotonic() > self._deadline:
            return None
        return self._first(sequence)

    def _confirmed(self, sequence: list[Case], tries: int) -> Examined | None:
        """What is reported of a sequence that ends in a difference; None where it is not steady."""
        self._asker.timeout = self._timeout
        answer: Outcome = ()
        try:
            for _ in range(tries):
                self._asker.renew()
                found = self._ask(sequence)
                if found is None or found[0] != len(sequence) - 1:
                    return None
                answer = found[1]
        finally:
            self._hurry()
        *before, case = sequence
        return Examined(
            case,
            self._oracle.answer(case),
            answer,
            alone=not before,
            before=tuple(before),
            shown=(tries, tries),
        )


_SIMPLEST = {
    "verify": Case("verify", b"\0", b""),
    "send": Case("send", b"\0", b""),
    "receive": Case("receive", b"\0", b""),
    "client": Case("client", b"", None),
}


def _by_chance(seen: Examined, shown: int, tries: int, whole: bool = True) -> Examined:
    """A difference that was seen, and that the same cases do not show steadily."""
    if shown:
        note = f"a fresh target that gets this case alone showed it {shown} times of {tries}"
    else:
        note = f"a fresh target that gets this case alone did not show it in {tries} tries"
        if whole:
            note += ", nor after the cases before it"
    note += ": the target answers by chance, or by something besides its cases"
    if not whole:
        note += ", or remembers more of them than were tried again"
    return Examined(seen.case, seen.expected, seen.answer, False, (), (shown, tries), note)
