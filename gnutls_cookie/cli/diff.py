"""gnutls-cookie diff TARGET: an implementation beside the real one, from the command line.

Exit codes: 0 where at least one case was compared and none differs, 1 where one does, 2 where
nothing could be compared (one line says why), 130 after Ctrl-C. What has been found is printed,
whatever else fails.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from gnutls_cookie.cookie import library_version
from gnutls_cookie.differential import report as reports
from gnutls_cookie.differential.cases import OPERATIONS, Case, case_of_json
from gnutls_cookie.differential.corpus import keep, kept
from gnutls_cookie.differential.harness import Comparison, Finding, Progress, Report
from gnutls_cookie.differential.outcomes import described
from gnutls_cookie.differential.sources import recorded_cases
from gnutls_cookie.differential.targets import (
    LIBGNUTLS,
    REFERENCE,
    ExecTarget,
    Target,
    Unusable,
    load,
)
from gnutls_cookie.errors import naming

from .console import complain, is_stream, open_standard_files, reason
from .options import file_path, real, whole

__all__ = ["add_arguments", "read_cases", "run"]

FOUND_NOTHING, FOUND, UNUSABLE, INTERRUPTED = 0, 1, 2, 130

_TIMEOUT_MAX = 86400  # seconds
_MEMORY_MAX = 1 << 20  # MiB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    count, least = _number(whole, 0), _number(whole, 1)
    add("target", metavar="TARGET", nargs="?", help="module or module:object")
    add("--exec", metavar="COMMAND", help="a program that answers lines of JSON, as the target")
    add("--cases", metavar="N", type=count, default=100_000, help="how many (100000)")
    add("--seed", metavar="S", type=whole, help="of the cases; a random one is printed")
    add("--operation", choices=OPERATIONS, action="append", help="these alone; may be repeated")
    add("--guided", action="store_true",
        help="follow a module's code: change the cases that reach new parts of it")  # fmt: skip
    add("--corpus", metavar="DIR", type=file_path, help="cases to begin with; findings are added")
    add("--replay", metavar="FILE", type=file_path, help="the cases of a file of JSON lines, alone")
    add("--case", metavar="JSON", help="this one case alone")
    add("--against", choices=["libgnutls", "reference"], default="libgnutls", help="(libgnutls)")
    add("--findings", metavar="N", type=least, default=1, help="end after so many kinds (1)")
    timeout = _number(real, 0.001, _TIMEOUT_MAX)
    add("--timeout", metavar="SECONDS", type=timeout, default=10.0,
        help="for one case, and for the target's start (10)")  # fmt: skip
    memory = _number(whole, 0, _MEMORY_MAX)
    add("--memory", metavar="MIB", type=memory, default=0, help="the target's address space")
    add("--verbose", action="store_true", help="print the traceback of a failed import")
    add("--json", action="store_true", help="print the report as JSON")
    add("--junit", metavar="FILE", type=file_path, help="write the report as XML too")


def _number(
    kind: Callable[[str], float], least: float, most: float = math.inf
) -> Callable[[str], float]:
    """The type of an option: a number within bounds."""

    def parse(text: str) -> float:
        number = kind(text)
        if not least <= number <= most:
            bounds = f"at least {least}" if most == math.inf else f"in {least}..{most}"
            raise argparse.ArgumentTypeError(f"it must be {bounds}, not {text[:40]}")
        return number

    return parse


def run(options: argparse.Namespace) -> int:
    """Compare, and print what differs.

    Returns:
        0 where nothing differs, 1 where something does, 2 where nothing could be compared, 130
        where it was interrupted.
    """
    open_standard_files()
    run = _Run(options)
    try:
        return run.run()
    except (Unusable, OSError, ValueError) as error:
        return run.ended_by(reason(error))
    except KeyboardInterrupt:
        return run.interrupted()
    finally:
        run.close()


def read_cases(path: Path) -> Iterator[Case]:
    """The cases of a file of JSON lines.

    Raises:
        ValueError: a line is not a case; the text names file and line.
        OSError: the file cannot be read.
    """
    yield from recorded_cases(path)


class _Run:
    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._target: Target | None = None
        self._comparison: Comparison | None = None
        self._first: Path | None = None  # the file of a finding that may be made smaller yet
        self._printed = 0  # findings that have been
        self._failed: list[str] = []  # what could not be written

    def run(self) -> int:
        options = self._options
        if (options.target is None) == (options.exec is None):
            raise Unusable("either TARGET or --exec is needed, and not both")
        if options.junit is not None:
            # Whatever happens from here on, no file of another day is read for this run's.
            self._write_junit("the run did not come to its end", begin=True)
        if options.corpus is not None:
            _make_folder(options.corpus)
        groups = _corpus(options)
        target = self._target = _target(options)
        operations = tuple(options.operation or target.operations)
        if not set(operations) <= set(target.operations):
            raise Unusable(f"{target.name!r} answers {', '.join(target.operations)} only")
        if options.case is not None and groups[0][0].operation not in operations:
            raise Unusable(f"{target.name!r} does not answer {groups[0][0].operation!r}")
        seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
        comparison = self._comparison = Comparison(
            target,
            LIBGNUTLS if options.against == "libgnutls" else REFERENCE,
            seed,
            0 if options.case is not None or options.replay is not None else options.cases,
            operations=operations,
            corpus=groups,
            replay=options.replay,
            most=options.findings,
            timeout=options.timeout,
            found=self._found,
            guided=options.guided,
        )
        if comparison.count == 0:
            raise Unusable(f"nothing to compare: {_why_nothing(options, operations)}")
        with _progress(comparison.count, options.json) as progress:
            comparison.progress = progress
            comparison.run()
        report = comparison.report
        if not report.compared:
            raise Unusable(report.ended or "nothing was compared")
        return self._end(FOUND if report.findings else FOUND_NOTHING, "")

    def close(self) -> None:
        if self._target is not None:
            with contextlib.suppress(KeyboardInterrupt):  # its end is under way in any case
                self._target.close()

    def ended_by(self, why: str) -> int:
        """The end of a run that cannot go on."""
        report = self._report
        if report.findings:
            return self._end(FOUND, why)
        if report.compared:
            why += (
                f" (after {report.compared} cases of seed {report.seed}, in which nothing differs)"
            )
        return self._end(UNUSABLE, why, summary=False)

    def interrupted(self) -> int:
        """The end of a run by Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt):
            self._end(INTERRUPTED, "interrupted")
        return INTERRUPTED

    @property
    def _report(self) -> Report:
        if self._comparison is not None:
            return self._comparison.report
        options = self._options
        return Report(
            options.target or options.exec or "no target", options.against, options.seed or 0
        )

    def _found(self, finding: Finding | None, again: bool) -> None:
        """Keep a finding in the corpus as soon as it is seen, and again when it is smaller."""
        if again:
            self._print_findings()
        folder = self._options.corpus
        if folder is None:
            return
        try:
            path, new = (None, False) if finding is None else keep(folder, finding)
            if again and self._first is not None and self._first != path:
                self._first.unlink(missing_ok=True)
            self._first = path if new and not again else None
        except OSError as error:
            self._failed.append(f"the finding is not in the corpus: {reason(error)}")

    def _end(self, code: int, why: str, summary: bool = True) -> int:
        """Print the report, write the file, and say what went wrong."""
        options, report = self._options, self._report
        if options.junit is not None:
            self._write_junit(why)
        if options.json and summary:
            found = reports.as_dict(report) | {
                "libgnutls": library_version(),
                "error": why,
            }
            self._print(json.dumps(found))
        elif summary:
            self._print_findings()
            self._print(_summary(self._options, report))
        # Where the target is unusable that is the reason; where something was found it is told too.
        for line in dict.fromkeys([why, *self._failed, report.ended]):
            if line:
                _say(line)
        if self._failed and code == FOUND_NOTHING:
            return UNUSABLE
        return code

    def _print_findings(self) -> None:
        """Print those that have not been, unless all comes at the end as JSON."""
        if not self._options.json:
            for finding in self._report.findings[self._printed :]:
                self._printed += 1
                self._print(_text(finding) + "\n")

    def _write_junit(self, error: str, begin: bool = False) -> None:
        path: Path = self._options.junit
        try:
            if begin and is_stream(path):
                return  # written once
            with naming(path):
                path.write_text(reports.junit(self._report, error), encoding="utf-8")
        except OSError as problem:
            failed = f"--junit: {reason(problem)}"
            if begin:
                raise Unusable(failed) from None
            self._failed.append(failed)

    def _print(self, text: str) -> None:
        """Print to stdout; where that fails, to stderr."""
        try:
            if sys.stdout is None:
                raise OSError("stdout is closed")
            encoding = sys.stdout.encoding or "utf-8"
            print(text.encode(encoding, "backslashreplace").decode(encoding), flush=True)
        except BrokenPipeError:
            _silence()
        except OSError as error:
            _silence()
            self._failed.append(f"stdout: {reason(error)}")
            with contextlib.suppress(OSError):
                print(text, file=sys.stderr, flush=True)


def _text(finding: Finding) -> str:
    try:
        return reports.text(finding)
    except Exception as error:  # a finding is not lost for its looks
        return (
            f"{finding.case.operation}: expected {finding.expected!r}, "
            f"the target: {finding.answer!r} (shown as it is: {described(error)})\n"
            f"{finding.case.as_json()}"
        )


def _summary(options: argparse.Namespace, report: Report) -> str:
    rate = report.compared / report.seconds if report.seconds else 0
    found = len(report.findings)
    more = f", and {report.repeated} more cases of these kinds" if report.repeated else ""
    return (
        f"{report.target} against {report.oracle} (libgnutls {library_version()}): "
        f"{report.compared} case{'s' if report.compared != 1 else ''} of seed {report.seed} "
        f"compared in {report.seconds:.1f} s "
        f"({rate:.0f} a second), {found or 'no'} disagreement{'s' if found > 1 else ''}{more}"
    )


def _why_nothing(options: argparse.Namespace, operations: tuple[str, ...]) -> str:
    """Why there is not one case."""
    for_what = f" for {', '.join(operations)}"
    if not set(operations) & set(OPERATIONS):
        return f"there are vectors{for_what}, and no cases"
    if options.replay is not None:
        return f"{options.replay} has no case{for_what}"
    why = "--cases is 0"
    if options.corpus is not None:
        why += f", and the corpus {options.corpus} has no case{for_what}"
    return why


def _target(options: argparse.Namespace) -> Target:
    if options.exec is not None:
        return ExecTarget(options.exec, options.timeout, options.memory)
    return load(options.target, options.timeout, memory=options.memory, verbose=options.verbose)


def _make_folder(path: Path) -> None:
    """Make the folder that findings go into: after hours of cases it would be too late to fail."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise Unusable(f"--corpus: {path} is not a folder") from None
    except OSError as error:
        raise Unusable(f"--corpus: {reason(error)}") from None


def _corpus(options: argparse.Namespace) -> list[list[Case]]:
    """The cases to begin with, in lists each of which is for a fresh target.

    A file of one case goes together with the others; one of several may need them in their order.
    """
    if options.case is not None:
        return [[case_of_json(options.case)]]
    if options.corpus is None:
        return []
    return kept(options.corpus)


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Progress | None]:
    """A bar where there is a terminal and tqdm; nothing elsewhere."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    try:
        tqdm = importlib.import_module("tqdm")
    except ImportError:
        yield None
        return
    with tqdm.tqdm(total=total, unit=" cases", unit_scale=True, leave=False) as bar:
        yield lambda number: bar.update(number - bar.n) and None


def _say(why: str) -> None:
    complain("gnutls-cookie diff", why)


def _silence() -> None:
    """Let nothing be printed any more, at the interpreter's end neither."""
    with contextlib.suppress(OSError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.close(nothing)
