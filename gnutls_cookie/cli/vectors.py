"""gnutls-cookie vectors: chosen cases with libgnutls' answers; held against a target, or printed.

With a target: exit code 0 where it answers each as libgnutls does, or the difference is known; 1
where not; 2 where nothing could be asked.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gnutls_cookie.differential import (
    LIBGNUTLS,
    ExecTarget,
    Finding,
    Report,
    Target,
    Unusable,
    case_of_json,
    load,
    text,
)
from gnutls_cookie.differential import report as reports
from gnutls_cookie.differential.c_table import c_table
from gnutls_cookie.differential.harness import compare_cases
from gnutls_cookie.differential.notes import page
from gnutls_cookie.differential.vector_file import FILE, Test, answer, document, read

from .console import complain, reason

__all__ = ["add_arguments", "run"]

_PROGRAM = "gnutls-cookie vectors"
_FILE_SIZE_MAX = 64 << 20  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("target", metavar="TARGET", nargs="?", help="module or module:object, to run them on")
    add("--exec", metavar="COMMAND", help="a program that answers lines of JSON, as the target")
    add("--file", metavar="FILE", type=Path, help="vectors of this file (those of the package)")
    add("--known", metavar="FILE", type=Path, help="differences that are accepted, with reasons")
    add("--lenient", action="store_true", help='either answer to an "acceptable" vector will do')
    add("--timeout", metavar="SECONDS", type=float, default=10.0, help="for one case (10)")
    add("--json", action="store_true", help="print the report as JSON")
    add("--junit", metavar="FILE", type=Path, help="write the report as XML too")
    add(
        "--format",
        choices=["json", "c", "markdown"],
        default="json",
        help="what to print without a target: the file, a table in C, or docs/quirks.md (json)",
    )
    add(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write it there; a file of the same answers keeps the versions that it names",
    )
    add("--case", metavar="JSON", help="libgnutls' answer to this case alone")


def run(options: argparse.Namespace) -> int:
    """Print the file, write it, answer one case, or run a target on all.

    Returns:
        0; 1 where the target differs; 2 where what was given is not a case, or the file cannot be
        read or written, or the target not be asked.
    """
    try:
        if options.target is not None or options.exec is not None:
            return _held_against(options)
        if options.case is not None:
            print(json.dumps(answer(LIBGNUTLS, case_of_json(options.case))))
            return 0
        path: Path | None = options.output
        if options.format == "c":
            found = _read(options.file or FILE)
            made = c_table(read(found), json.loads(found)["libgnutls"])
        elif options.format == "markdown":
            made = page(lambda case: answer(LIBGNUTLS, case))
        else:
            former = path if path is not None and path.exists() else FILE
            made = document(_read(former))
        if path is None:
            print(made, end="")
        else:
            path.write_text(made, encoding="utf-8")
    except BrokenPipeError:
        raise
    except (OSError, ValueError, KeyError, TypeError, Unusable) as error:
        complain(_PROGRAM, reason(error))
        return 2
    return 0


def _read(path: Path) -> str:
    if path.stat().st_size > _FILE_SIZE_MAX:
        raise ValueError(f"{path} has more than {_FILE_SIZE_MAX} bytes")
    return path.read_text(encoding="utf-8")


# --- a target -------------------------------------------------------------------------------------


class _Known:
    """Differences that are accepted: {"known": [{"name": ..., "reason": ...}]}.

    An entry names a vector by "tcId" or "name", or many by "flag", and has a "reason".

    Raises:
        ValueError: the file is not one.
    """

    def __init__(self, path: Path | None, tests: list[Test]) -> None:
        self._entries: list[tuple[dict[str, Any], set[int]]] = []
        self._used: set[int] = set()
        if path is None:
            return
        try:
            listed = json.loads(_read(path))["known"]
            for entry in listed:
                self._entries.append((entry, self._named(entry, tests)))
        except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
            raise ValueError(f"--known: {path}: {error}") from None

    @staticmethod
    def _named(entry: dict[str, Any], tests: list[Test]) -> set[int]:
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

    def unused(self) -> Iterator[dict[str, Any]]:
        """Entries whose difference was not seen."""
        for place, (entry, _) in enumerate(self._entries):
            if place not in self._used:
                yield entry


def _held_against(options: argparse.Namespace) -> int:
    if options.target is not None and options.exec is not None:
        raise Unusable("either TARGET or --exec is needed, and not both")
    tests = read(_read(options.file or FILE))
    known = _Known(options.known, tests)
    target: Target
    if options.exec is not None:
        target = ExecTarget(options.exec, options.timeout)
    else:
        target = load(options.target, options.timeout)
    try:
        return _report(options, target, tests, known)
    finally:
        target.close()


class _Recorded:
    """The answers of the file, as the oracle."""

    name = "libgnutls' recorded answers"
    one_key = False

    def __init__(self, tests: list[Test]) -> None:
        self.operations = tuple({one.case.operation for one in tests})
        self._answers = {one.case: one.expected for one in tests}

    def answer(self, case: Any) -> Any:
        """What the file says."""
        return self._answers[case]

    def close(self) -> None:
        """Nothing is held."""


def _report(options: argparse.Namespace, target: Target, tests: list[Test], known: _Known) -> int:
    asked = [one for one in tests if one.case.operation in target.operations]
    if target.one_key:  # it does not know of a previous key
        asked = [one for one in asked if one.case.previous is None]
    if not asked:
        raise Unusable(f"no vector is for {', '.join(target.operations)}")
    report = Report(target.name, _Recorded.name, 0)
    report.compared = len(asked)
    recorded = _Recorded(tests)
    accepted: list[dict[str, Any]] = []
    for one in asked:
        for case, expected, got in compare_cases(target, recorded, [one.case]):
            why = known.reason(one)
            lenient = options.lenient and one.result == "acceptable"
            if not why and lenient and got[0] not in ("raised", "wrong", "died", "hangs"):
                why = "acceptable"
            if why:
                accepted.append({"tcId": one.number, "name": one.name, "reason": why})
                continue
            note = f"vector {one.number}, {one.name} ({', '.join(one.flags)}): {one.why}"
            report.findings.append(Finding(case, expected, got, case, -1, note=note))
    left = len(tests) - len(asked)
    unused = list(known.unused())
    if options.junit is not None:
        options.junit.write_text(reports.junit(report), encoding="utf-8")
    if options.json:
        found = reports.as_dict(report)
        found |= {"known": accepted, "unused": unused, "not_asked": left}
        print(json.dumps(found))
    else:
        for finding in report.findings:
            print(text(finding) + "\n")
        for entry in accepted:
            print(f"known: vector {entry['tcId']}, {entry['name']}: {entry['reason']}")
        more = f"; {left} not asked, of what it does not do" if left else ""
        print(
            f"{target.name}: {len(asked)} vectors asked, {len(report.findings)} answered "
            f"otherwise, {len(accepted)} known differences{more}"
        )
    for entry in unused:
        complain(_PROGRAM, f"--known: not seen: {json.dumps(entry)}")
    return 1 if report.findings else 0
