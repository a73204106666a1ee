"""Runs a target beside an oracle, and finds the cases in which they differ.

The target runs in a process of its own, the oracle in this one, both at the same time: the target
works on a batch of cases while the oracle answers the same, and the next are made. What a finding
is made of, and how it is made smaller, is examine.py.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from gnutls_cookie._check import check_callable, flag, integer, items, shown
from gnutls_cookie._files import StrPath, file_name

from .cases import OPERATIONS, VECTOR_OPERATIONS, Case, check_seed, operation_names
from .examine import Asker, Examined, difference, examined, same, shape
from .guided import ROUND, Guided
from .outcomes import Outcome, Target, TargetDied, TargetHangs, Unusable, described
from .processes import Batched, Forked, check_limits
from .sources import Listed, Recorded, Seeded, Source

__all__ = [
    "Comparison",
    "Finding",
    "Progress",
    "Report",
    "compare",
    "compare_cases",
    "same",
]

Progress = Callable[[int], None]

_BATCH_MAX = 512  # cases that are asked for in one go
_BATCH_SECONDS = 0.05  # that a batch should take: long enough for speed, short enough to be seen

# How many cases that differ in one way are examined, in the search for findings of another cause.
_EXAMINED_MAX = 8
_EXAMINED_DEADLY_MAX = 3
# A target that ends or hangs again and again costs time at each: the run ends after so many.
_DEATHS_MAX = 200
_HANGS_MAX = 5


@dataclass(frozen=True)
class Finding:
    """A case in which the target and the oracle differ.

    Attributes:
        case: the smallest one that was found.
        expected: what the oracle made of it.
        answer: what the target made of it; ("died", how) or ("hangs", how) too.
        original: the case in which it was seen first.
        number: that case's number among those of the seed and its operation; -1 for one of a file.
        alone: whether the case alone shows it. If not, it takes the cases of `before`, in the same
            process, or what is in `note`.
        before: what a fresh target has to be asked before the case.
        seed: of the cases; None for a case of a file.
        shown: how often the case, after those of `before`, showed it in fresh processes, of how
            many times that was tried.
        note: what else there is to say; "" where it is nothing.
    """

    case: Case
    expected: Outcome
    answer: Outcome
    original: Case
    number: int
    alone: bool = True
    before: tuple[Case, ...] = ()
    seed: int | None = None
    shown: tuple[int, int] = (0, 0)
    note: str = ""


@dataclass
class Report:
    """What a comparison found.

    Attributes:
        target: its name.
        oracle: its name.
        seed: of the cases.
        compared: how many cases were.
        findings: at most as many as were asked for, each of another kind.
        seconds: of time.
        repeated: how many more cases differed in the way of a finding.
        ended: why it ended before its time; "" where it did not.
    """

    target: str
    oracle: str
    seed: int
    compared: int = 0
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    repeated: int = 0
    ended: str = ""


def compare(
    target: Target,
    oracle: Target,
    seed: int,
    count: int,
    *,
    operations: Sequence[str] | None = None,
    corpus: Iterable[Case] = (),
    replay: StrPath | None = None,
    most: int = 1,
    timeout: float = 10.0,
    progress: Progress | None = None,
    guided: bool = False,
) -> Report:
    """Compare the cases of a corpus, and then `count` cases of a seed.

    The target runs in a child process: one of load() or an ExecTarget has its own, any other object
    is forked.

    Args:
        target: what is tested.
        oracle: what is right.
        seed: of the cases.
        count: how many.
        operations: of the cases; None: those that the target answers.
        corpus: cases that come first.
        replay: a file of cases, a line of JSON each, that come next; it may be larger than memory.
        most: ends after so many findings.
        timeout: seconds that the target has for one case, 0.001 to 86400; an ExecTarget brings its
            own.
        progress: is told now and then how many cases have been compared.
        guided: whether cases that reach new code of the target are changed, over and over, and
            make up three quarters of all; the target is in Python.

    Raises:
        Unusable: the target cannot be started, or not again.
        TypeError: an argument is of another type.
        ValueError: one is out of range, or a line of `replay` is not a case.
        OSError: `replay` cannot be read.
    """
    comparison = Comparison(
        target,
        oracle,
        seed,
        count,
        operations=operations,
        corpus=[list(items("corpus", corpus, Case))],
        replay=replay,
        most=most,
        timeout=timeout,
        progress=progress,
        guided=guided,
    )
    comparison.run()
    return comparison.report


def compare_cases(
    target: Target, oracle: Target, which: Iterable[Case]
) -> Iterator[tuple[Case, Outcome, Outcome]]:
    """The cases in which target and oracle differ, one after the other.

    A PythonTarget is called in this process.

    Raises:
        TypeError: an argument is of another type.
    """
    _check_target("target", target)
    _check_target("oracle", oracle)
    for case in items("which", which, Case):
        asked = _known(target, case)
        try:
            answer = target.answer(asked)
        except TargetDied as error:
            answer = ("died", str(error))
        except TargetHangs as error:
            answer = ("hangs", str(error))
        expected = oracle.answer(asked)
        if not same(expected, answer):
            yield asked, expected, answer


def _check_target(name: str, value: object) -> None:
    if not hasattr(value, "answer") or not hasattr(value, "operations"):
        made_by = "load(), ExecTarget or PythonTarget"
        raise TypeError(f"{name} must be a target, as of {made_by}, not {type(value).__name__}")


def _known(target: Target | Asker, case: Case) -> Case:
    return case._replace(previous=None) if target.one_key and case.previous else case


def _asked(target: Target, operations: Sequence[str]) -> tuple[str, ...]:
    """Those that are to be compared."""
    asked = operation_names(operations)
    for name in asked:
        if name not in target.operations or name not in VECTOR_OPERATIONS:
            had = ", ".join(map(str, target.operations))
            raise ValueError(
                f"operations must be of those of the target ({had}), not {shown(name)}"
            )
    if not asked:
        raise ValueError("operations must not be empty")
    return asked


# --- running --------------------------------------------------------------------------------------


class Comparison:
    """A comparison under way; its report is right at any time, an interrupt's too.

    Args:
        corpus: lists of cases; a fresh target is asked each of them.
        found: is told of each finding as it is seen first (False), and then (True) of what has
            become of it: a smaller one, or None where it is of a kind that there is already.
        The rest is that of compare().
    """

    def __init__(
        self,
        target: Target,
        oracle: Target,
        seed: int,
        count: int,
        *,
        operations: Sequence[str] | None = None,
        corpus: Iterable[list[Case]] = (),
        replay: StrPath | None = None,
        most: int = 1,
        timeout: float = 10.0,
        progress: Progress | None = None,
        found: Callable[[Finding | None, bool], None] | None = None,
        guided: bool = False,
    ) -> None:
        for name, one in (("target", target), ("oracle", oracle)):
            _check_target(name, one)
        check_seed(seed)
        integer("count", count, 0, sys.maxsize)
        integer("most", most, 1)
        flag("guided", guided)
        check_limits(timeout)
        if progress is not None:
            check_callable("progress", progress)
        asked = target.operations if operations is None else _asked(target, operations)
        self.report = Report(target.name, oracle.name, seed)
        self._target = target
        self._oracle = oracle
        self._most = most
        self._timeout = timeout
        self.progress = progress
        self._found = found
        self._sources: list[Source] = []
        self._guided: Guided | None = None
        for group in corpus:
            self._sources.append(Listed([one for one in group if one.operation in asked]))
        if replay is not None:
            self._sources.append(Recorded(Path(file_name("replay", replay)), asked))
        if count > 0:
            dealt = tuple(one for one in asked if one in OPERATIONS)
            if dealt:
                self._guided = Guided(seed, dealt, count) if guided else None
                self._sources.append(self._guided or Seeded(seed, dealt, count))
        self._kinds: set[tuple[object, ...]] = set()  # of the findings
        self._ways: set[tuple[object, ...]] = set()  # in which cases that were examined differ
        self._examined: Counter[tuple[object, ...]] = Counter()  # cases, by how they differ
        self._deaths = self._hangs = 0

    @property
    def count(self) -> int:
        """How many cases there are to compare."""
        return sum(one.count for one in self._sources)

    def run(self) -> None:
        """Compare until there are findings enough, or no more cases."""
        started = time.monotonic()
        asker: Asker
        if isinstance(self._target, Asker):
            asker, own = self._target, False
            if isinstance(asker, Batched):
                asker.timeout = self._timeout
        else:
            asker, own = Forked(self._target, self._timeout), True
        if self._guided is not None:
            if not isinstance(asker, Batched):
                raise Unusable(f"{asker.name!r} is not in Python: nobody can see what it reaches")
            asker.guide()
        before = 0
        try:
            for source in self._sources:
                if self._over():
                    break
                self._compare(asker, source, before)
                before += source.count
        finally:
            self.report.seconds = time.monotonic() - started
            if own:
                asker.close()

    def _over(self) -> bool:
        return len(self.report.findings) >= self._most or self.report.ended != ""

    def _compare(self, asker: Asker, source: Source, before: int) -> None:
        """Compare the cases of one source, which begins with a fresh target."""
        place = since = 0  # of the next case; of the first that the present process was asked
        guided = source is self._guided
        size = ROUND if guided else 16
        upcoming = source.cases(0)
        pending: list[Case] = []  # made already, to be asked next

        def make(count: int) -> None:
            found = islice(upcoming, max(0, count - len(pending)))
            pending.extend([_known(asker, case) for case in found] if asker.one_key else found)

        asker.renew()
        make(size)
        while pending:
            batch = pending[:size]
            del pending[:size]
            begun = time.monotonic()
            asker.post(batch)
            expected = [self._oracle.answer(case) for case in batch]
            if not guided:
                make(size)
            done = 0
            while True:
                answers = asker.collect(expected[done:])
                if not guided and answers == expected[done : done + len(answers)]:
                    done += len(answers)  # nearly always so
                    answers.clear()
                for answer in answers:
                    right, at = expected[done], place + done
                    if self._guided is not None:
                        self._learn(asker, done, at if guided else -1, batch[done])
                    done += 1
                    if right is answer or same(right, answer):
                        continue
                    self._tell(before + at + 1)
                    history = _History(asker, source, since, at)
                    if self._differs(asker, batch[done - 1], right, answer, history):
                        break  # other processes have been asked meanwhile: on with a fresh one
                self._tell(before + place + done)
                if not asker.busy or self._over():
                    break
            seconds = time.monotonic() - begun
            place += done
            if self._over():
                return
            pending[:0] = batch[done:]  # it came to its end, or ran out of room
            if pending and not asker.running:
                asker.renew()
                since = place
            if not pending and asker.running and (end := asker.finish()) is not None:
                history = _History(asker, source, since, place - 1)
                self._differs(asker, batch[-1], expected[-1], end, history)
            if guided:  # round by round: what is in the next depends on this one
                if not pending:
                    make(size)
            elif seconds < _BATCH_SECONDS:
                size = min(size * 2, _BATCH_MAX)
            elif seconds > 4 * _BATCH_SECONDS:
                size = max(size // 2, 1)

    def _learn(self, asker: Asker, number: int, place: int, case: Case) -> None:
        assert self._guided is not None
        assert isinstance(asker, Batched)
        news = asker.news.pop(number, None)
        if news is not None:
            self._guided.saw(place, case, news)

    def _tell(self, compared: int) -> None:
        self.report.compared = compared
        if self.progress is not None:
            self.progress(compared)

    def _differs(
        self, asker: Asker, case: Case, expected: Outcome, answer: Outcome, history: _History
    ) -> bool:
        """A case differs: make a finding of it, unless it is of a kind that there is already.

        Returns:
            Whether the process that was asked has been used otherwise, or ended.
        """
        kind = difference(case, expected, answer)
        deadly = answer[0] in ("died", "hangs")
        self._deaths += deadly
        self._hangs += answer[0] == "hangs"
        if self._examined[kind] >= (_EXAMINED_DEADLY_MAX if deadly else _EXAMINED_MAX):
            self.report.repeated += 1
            self._end_where_it_costs_too_much()
            return deadly
        self._examined[kind] += 1
        first = Finding(
            case, expected, answer, case, history.number, seed=history.seed, alone=False,
            note="it was not examined further",
        )  # fmt: skip
        findings = self.report.findings
        findings.append(first)  # whatever comes next, this is kept
        self._say(first, False)
        others: list[Finding] = []
        try:
            for strict in False, True:
                found = examined(
                    asker, self._oracle, case, expected, answer, history, strict=strict
                )
                better, *others = [_of(first, one) for one in found]
                # The smallest one may be of another cause, which is known already.
                if kind in self._ways or _kind(better) not in self._kinds:
                    break
        except Unusable as error:
            better = replace(first, note=f"the target could not be started again: {error}")
            self.report.ended = better.note
        except Exception as error:
            better = replace(first, note=f"it could not be made smaller: {described(error)}")
        self._ways |= {kind, difference(better.case, better.expected, better.answer)}
        if self._is_new(better):
            findings[-1] = better
            self._say(better, True)
        else:
            findings.pop()
            self.report.repeated += 1
            self._say(None, True)
        for other in filter(self._is_new, others):
            findings.append(other)
            self._say(other, False)
        self._end_where_it_costs_too_much()
        if not self._over():
            asker.stop()
        return True

    def _is_new(self, one: Finding) -> bool:
        """Whether it is of another kind than those that there are."""
        kind = _kind(one)
        new = kind not in self._kinds
        self._kinds.add(kind)
        return new

    def _say(self, finding: Finding | None, again: bool) -> None:
        if self._found is not None:
            self._found(finding, again)

    def _end_where_it_costs_too_much(self) -> None:
        if self._hangs >= _HANGS_MAX and not self.report.ended:
            self.report.ended = f"the target hung {self._hangs} times"
        if self._deaths >= _DEATHS_MAX and not self.report.ended:
            self.report.ended = f"the target's process ended {self._deaths} times"


def _kind(one: Finding) -> tuple[object, ...]:
    """Equal for two findings of one cause, as far as can be told."""
    return (
        *difference(one.case, one.expected, one.answer),
        *shape(one.case),
        one.alone,
        bool(one.before),
    )


def _of(first: Finding, found: Examined) -> Finding:
    return replace(
        first,
        case=found.case,
        expected=found.expected,
        answer=found.answer,
        alone=found.alone,
        before=found.before,
        shown=found.shown,
        note=found.note,
    )


class _History:
    """What a process was asked before the case at a place, that one included."""

    def __init__(self, asker: Asker, source: Source, since: int, place: int) -> None:
        self._asker = asker
        self._source = source
        self._place = place
        self.size = place - since + 1
        self.number = source.number(place)
        self.seed = source.seed

    def last(self, count: int) -> list[Case]:
        """The last cases, as many, or as many as there are."""
        count = min(count, self.size)
        found = islice(self._source.cases(self._place + 1 - count), count)
        return [_known(self._asker, case) for case in found]
