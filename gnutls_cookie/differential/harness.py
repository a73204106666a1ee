"""Runs a target beside an oracle, and finds the cases in which they differ.

An object in Python is run in a process of its own, which shares a counter with this one: so one
that hangs or dies in the middle of a case is found out, and the case is known.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from .cases import BLOCK, Case, case_of_json, cases
from .shrink import shrunk
from .targets import (
    ExecTarget,
    Outcome,
    Target,
    TargetDied,
    TargetHangs,
)

__all__ = ["Finding", "Report", "compare", "compare_cases", "same"]

Progress = Callable[[int], None]

_LOOK = 0.05  # seconds between two looks at the counter
_CHUNK = 4096  # cases of a corpus in one go
_COUNTER = struct.Struct("=q")  # which case a child is at


@dataclass(frozen=True)
class Finding:
    """A case in which the target and the oracle differ.

    Attributes:
        case: the smallest one that was found.
        expected: what the oracle made of it.
        answer: what the target made of it; ("died", how) or ("hangs", how) too.
        original: the case in which it was seen first.
        number: that case's number among those of the seed; -1 for one of a corpus.
        alone: whether the case alone shows it. If not, it depends on the cases before it.
    """

    case: Case
    expected: Outcome
    answer: Outcome
    original: Case
    number: int
    alone: bool = True


@dataclass
class Report:
    """What a comparison found.

    Attributes:
        target, oracle: their names.
        seed: of the cases.
        compared: how many cases were.
        findings: at most as many as were asked for.
        seconds: of time.
    """

    target: str
    oracle: str
    seed: int
    compared: int = 0
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0


def same(expected: Outcome, answer: Outcome) -> bool:
    """Whether an answer is the expected one. What a target does not tell (None) is no fault."""
    if expected == answer:
        return True
    return (
        len(expected) == len(answer)
        and answer[0] in ("challenge", "verified", "discarded")
        and all(b is None or a == b for a, b in zip(expected, answer, strict=True))
    )


def compare(
    target: Target,
    oracle: Target,
    seed: int,
    count: int,
    *,
    operations: Sequence[str] | None = None,
    corpus: Iterable[Case] = (),
    replay: Path | None = None,
    most: int = 1,
    timeout: float = 10.0,
    progress: Progress | None = None,
) -> Report:
    """Compare the cases of a corpus, and then `count` cases of a seed.

    Args:
        target: what is tested.
        oracle: what is right.
        seed: of the cases.
        count: how many.
        operations: of the cases; None: those that the target answers.
        corpus: cases that come first.
        replay: a file of cases, a line of JSON each, that come next; it may be larger than memory.
        most: ends after so many findings.
        timeout: seconds that the target has for one case; an ExecTarget brings its own.
        progress: is told now and then how many cases have been compared.
    """
    report = Report(target.name, oracle.name, seed)
    asked = tuple(operations or target.operations)
    before = 0
    started = time.monotonic()

    def told(number: int) -> None:
        report.compared = before + number
        if progress is not None:
            progress(report.compared)

    known = [case for case in corpus if case.operation in asked]
    runner = _in_this_process if isinstance(target, ExecTarget) else _in_a_child
    sources: list[_Made] = [_Listed(known), _Seeded(seed, asked, count)]
    if replay is not None:
        sources.insert(1, _Recorded(replay, asked))
    for made in sources:
        start = 0
        while start < made.count and len(report.findings) < most:
            number, answer = runner(target, oracle, made, start, timeout, told)
            if number < 0:
                break
            start = number + 1
            told(start)
            report.findings.append(_finding(target, oracle, made, number, answer, timeout))
        if len(report.findings) < most:
            before += made.count
            report.compared = before
    report.seconds = time.monotonic() - started
    return report


def compare_cases(
    target: Target, oracle: Target, which: Iterable[Case]
) -> Iterator[tuple[Case, Outcome, Outcome]]:
    """The cases in which target and oracle differ, one after the other, in this process."""
    for case in which:
        asked = _known(target, case)
        expected, answer = oracle.answer(asked), target.answer(asked)
        if not same(expected, answer):
            yield asked, expected, answer


# --- where the cases come from --------------------------------------------------------------------


@dataclass(frozen=True)
class _Listed:
    """Cases of a corpus."""

    found: list[Case]

    @property
    def count(self) -> int:
        return len(self.found)

    def named(self, number: int) -> int:
        return -1

    def runs(self, start: int) -> Iterator[tuple[int, list[Case]]]:
        for first in range(start, len(self.found), _CHUNK):
            yield first, self.found[first : first + _CHUNK]


class _Recorded:
    """Cases of a file, read again for each run. A last line without an end is still being written.

    Raises:
        ValueError: a line is no case; the text names file and line.
    """

    def __init__(self, path: Path, operations: tuple[str, ...]) -> None:
        self._path = path
        self._operations = operations
        self.count = sum(1 for _ in self._cases())

    def named(self, number: int) -> int:
        return -1

    def runs(self, start: int) -> Iterator[tuple[int, list[Case]]]:
        found = islice(self._cases(), start, None)
        while chunk := list(islice(found, BLOCK)):
            yield start, chunk
            start += len(chunk)

    def _cases(self) -> Iterator[Case]:
        with open(self._path, "rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") or not line.strip():
                    continue
                try:
                    case = case_of_json(line)
                except ValueError as error:
                    raise ValueError(f"{self._path}, line {number}: {error}") from None
                if case.operation in self._operations:
                    yield case


@dataclass(frozen=True)
class _Seeded:
    """Cases of a seed."""

    seed: int
    operations: tuple[str, ...]
    count: int

    def named(self, number: int) -> int:
        return number

    def runs(self, start: int) -> Iterator[tuple[int, list[Case]]]:
        made = cases(self.seed, self.operations, self.count - start, start)
        while found := list(islice(made, BLOCK - start % BLOCK)):
            yield start, found
            start += len(found)


_Made = _Listed | _Recorded | _Seeded


def _case(made: _Made, number: int) -> Case:
    return next(made.runs(number))[1][0]


# --- running --------------------------------------------------------------------------------------


def _in_this_process(
    target: Target, oracle: Target, made: _Made, start: int, timeout: float, told: Progress
) -> tuple[int, Outcome]:
    """The number of the first case that differs, and the answer; -1 where none does."""
    for first, found in made.runs(start):
        for number, case in enumerate(found, first):
            answer = _asked(target, case)
            if not same(oracle.answer(_known(target, case)), answer):
                return number, answer
        told(first + len(found))
    return -1, ()


def _asked(target: Target, case: Case) -> Outcome:
    try:
        return target.answer(_known(target, case))
    except TargetDied as error:
        return ("died", str(error))
    except TargetHangs as error:
        return ("hangs", str(error))


def _known(target: Target, case: Case) -> Case:
    return case._replace(previous=None) if target.one_key else case


def _in_a_child(
    target: Target, oracle: Target, made: _Made, start: int, timeout: float, told: Progress
) -> tuple[int, Outcome]:
    """The same in a child. It writes down which case it is at before it asks the target."""
    with mmap.mmap(-1, mmap.PAGESIZE) as shared:
        _COUNTER.pack_into(shared, 0, start)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            _be_the_child(target, oracle, made, start, shared, writing)
        os.close(writing)
        try:
            found = _watch(pid, shared, reading, timeout, told)
        finally:
            os.close(reading)
            _end(pid)
    return found


def _be_the_child(
    target: Target, oracle: Target, made: _Made, start: int, shared: mmap.mmap, writing: int
) -> None:
    code = 70
    try:
        at = -1

        def counted() -> Iterator[Case]:
            nonlocal at
            for first, found in made.runs(start):
                for at, case in enumerate(found, first):
                    _COUNTER.pack_into(shared, 0, at)
                    yield case

        difference = next(compare_cases(target, oracle, counted()), None)
        result = (-1, ()) if difference is None else (at, difference[2])
        with os.fdopen(writing, "wb") as out:
            out.write(pickle.dumps(result))
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def _watch(
    pid: int, shared: mmap.mmap, reading: int, timeout: float, told: Progress
) -> tuple[int, Outcome]:
    """Wait for the child; a counter that stands still, or an end without a result, is a finding."""
    begun = time.monotonic()
    last, since = -1, begun
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        (number,) = _COUNTER.unpack_from(shared, 0)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            if code == 0:
                with os.fdopen(os.dup(reading), "rb") as result:
                    found: tuple[int, Outcome] = pickle.loads(result.read())  # of our own child
                return found
            if code in (130, -signal.SIGINT):
                raise KeyboardInterrupt
            how = f"exit code {code}" if code > 0 else f"signal {signal.Signals(-code).name}"
            return number, ("died", how)
        now = time.monotonic()
        if number != last:
            last, since = number, now
            told(number)
        elif now - since >= timeout:
            return number, ("hangs", f"no answer in {timeout:g} s")
        time.sleep(min(_LOOK, 0.001 + (now - begun) / 10))  # one case alone takes no time


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass  # it has ended, and was waited for


# --- the smallest case ----------------------------------------------------------------------------


def _finding(
    target: Target, oracle: Target, made: _Made, number: int, answer: Outcome, timeout: float
) -> Finding:
    case = _known(target, _case(made, number))
    deadly = answer[0] in ("died", "hangs")

    def alone(one: Case) -> Outcome | None:
        """The answer to a case alone, where it differs."""
        if deadly and not isinstance(target, ExecTarget):
            first, found = _in_a_child(
                target, oracle, _Listed([one]), 0, min(timeout, 2.0), lambda _: None
            )
            return None if first < 0 else found
        found = _asked(target, one)
        return None if same(oracle.answer(one), found) else found

    again = alone(case)
    if again is None:
        return Finding(case, oracle.answer(case), answer, case, made.named(number), alone=False)
    budget = 25 if again[0] == "hangs" else 2_000 if again[0] == "died" else 20_000
    smallest = shrunk(case, lambda one: alone(one) is not None, budget)
    final = alone(smallest)
    assert final is not None
    return Finding(smallest, oracle.answer(smallest), final, case, made.named(number))
