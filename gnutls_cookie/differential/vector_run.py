"""Runs a target on the vectors of a file, with a list of differences that are accepted."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gnutls_cookie._check import flag

from .cases import Case
from .harness import Finding, Report, compare_cases
from .outcomes import Outcome, Target, Unusable
from .vector_file import Test, text_of

__all__ = ["Known", "VectorReport", "empty_report", "run_vectors"]

_FILE_SIZE_MAX = 1 << 20  # bytes
_HANGS_MAX = 5


class Known:
    """Differences that are accepted: {"known": [{"name": ..., "reason": ...}]}.

    An entry names a vector by "tcId" or "name", or many by "flag", and has a "reason".

    Args:
        path: of the file; None for no differences.
        tests: the vectors that it may name.

    Raises:
        ValueError: the file is not one; the text names it.
        OSError: it cannot be read.
    """

    def __init__(self, path: Path | None, tests: Sequence[Test]) -> None:
        self._entries: list[tuple[dict[str, Any], set[int]]] = []
        self._used: set[int] = set()
        if path is None:
            return
        try:
            found = json.loads(text_of(path, _FILE_SIZE_MAX))
            if not isinstance(found, dict) or not isinstance(found.get("known"), list):
                raise ValueError('it has to be {"known": [...]}')
            for entry in found["known"]:
                self._entries.append((entry, self._named(entry, tests)))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"known differences: {path}: {error}") from None

    @staticmethod
    def _named(entry: dict[str, Any], tests: Sequence[Test]) -> set[int]:
        if not isinstance(entry.get("reason"), str) or not entry["reason"].strip():
            raise ValueError(f'{json.dumps(entry)} has no "reason"')
        keys = entry.keys() - {"reason"}
        if len(keys) != 1 or not keys <= {"tcId", "name", "flag"}:
            raise ValueError(f'{json.dumps(entry)} needs one of "tcId", "name" and "flag"')
        found = {
            one.number
            for one in tests
            if entry.get("tcId") == one.number
            or entry.get("name") == one.name
            or entry.get("flag") in one.flags
        }
        if not found:
            raise ValueError(f"{json.dumps(entry)} names no vector")
        return found

    def reason(self, one: Test) -> str:
        """Why a difference is accepted; "" where it is not."""
        for place, (entry, numbers) in enumerate(self._entries):
            if one.number in numbers:
                self._used.add(place)
                return str(entry["reason"])
        return ""

    def unused(self) -> list[dict[str, Any]]:
        """Entries whose difference was not seen."""
        return [entry for place, (entry, _) in enumerate(self._entries) if place not in self._used]


@dataclass
class VectorReport(Report):
    """What a run of vectors found.

    Attributes:
        compared: how many vectors were asked.
        not_asked: how many are of operations that the target does not have.
        known: those whose difference is accepted, with the reason.
        unused: entries of the list of known differences that were not seen.
    """

    not_asked: int = 0
    known: list[tuple[Test, str]] = field(default_factory=list)
    unused: list[dict[str, Any]] = field(default_factory=list)


class _Recorded:
    """The answers of the file, as an oracle."""

    name = "libgnutls' recorded answers"
    one_key = False
    operations: tuple[str, ...] = ()

    def __init__(self, one: Test) -> None:
        self._expected = one.expected

    def answer(self, case: Case) -> Outcome:
        """What the file says."""
        return self._expected

    def close(self) -> None:
        """Nothing is held."""


def run_vectors(
    target: Target,
    tests: Sequence[Test],
    known: Path | None = None,
    *,
    lenient: bool = False,
    report: VectorReport | None = None,
) -> VectorReport:
    """Ask a target for each vector of the operations that it has.

    It ends before its time, as `ended` says, where the target has hung five times, and where it
    cannot be started again after something was found.

    Args:
        target: what is tested.
        tests: of read().
        known: a file of accepted differences.
        lenient: whether either answer to an "acceptable" vector will do.
        report: is filled as answers come, for a caller that may be interrupted; None: a new one.

    Raises:
        Unusable: it has none of the operations, or cannot be started again.
        ValueError: `known` is not such a file.
        OSError: `known` cannot be read.
    """
    flag("lenient", lenient)
    accepted = Known(known, tests)
    asked = [one for one in tests if one.case.operation in target.operations]
    if target.one_key:  # it does not know of a previous key
        asked = [one for one in asked if one.case.previous is None]
    if not asked:
        raise Unusable(f"no vector is for {', '.join(target.operations)}")
    if report is None:
        report = empty_report(target.name)
    report.target = target.name
    report.not_asked = len(tests) - len(asked)
    hangs = 0
    for one in asked:
        try:
            found = [*compare_cases(target, _Recorded(one), [one.case])]
        except Unusable as error:
            if not report.findings:
                raise
            report.ended = str(error)
            return report
        report.compared += 1
        for case, expected, answer in found:
            hangs += answer[0] == "hangs"
            why = accepted.reason(one)
            sane = answer[0] not in ("raised", "wrong", "died", "hangs")
            if not why and lenient and sane and one.result == "acceptable":
                why = "acceptable"
            if why:
                report.known.append((one, why))
            else:
                note = f"vector {one.number}, {one.name} ({', '.join(one.flags)}): {one.why}"
                report.findings.append(Finding(case, expected, answer, case, -1, note=note))
        left = len(asked) - report.compared
        if hangs == _HANGS_MAX and left:
            report.ended = f"it has hung {hangs} times: {left} more vectors were not asked"
            return report
    report.unused = accepted.unused()
    return report


def empty_report(target: str) -> VectorReport:
    """A report of nothing yet, on a target of this name."""
    return VectorReport(target, _Recorded.name, 0)
