"""gnutls-cookie vectors: chosen cases with libgnutls' answers; held against a target, or printed.

With a target: exit code 0 where it answers each as libgnutls does, or the difference is known; 1
where not; 2 where nothing could be asked.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gnutls_cookie.differential import (
    LIBGNUTLS,
    ExecTarget,
    Target,
    Unusable,
    case_of_json,
    load,
    text,
)
from gnutls_cookie.differential import report as reports
from gnutls_cookie.differential.c_table import c_table
from gnutls_cookie.differential.notes import page
from gnutls_cookie.differential.vector_file import FILE, answer, document, read, text_of
from gnutls_cookie.differential.vector_run import VectorReport, empty_report, run_vectors
from gnutls_cookie.errors import naming

from .console import complain, is_stream, print_out, reason
from .options import file_path, real

__all__ = ["add_arguments", "run"]

_PROGRAM = "gnutls-cookie vectors"
_FILE_SIZE_MAX = 64 << 20  # bytes
_TIMEOUT_SECONDS = 10.0  # for one case
_SHOWN_MAX = 10  # differences in full; of the rest a line each


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("target", metavar="TARGET", nargs="?", help="module or module:object, to run them on")
    add("--exec", metavar="COMMAND", help="a program that answers lines of JSON, as the target")
    add(
        "--file", metavar="FILE", type=file_path, help="vectors of this file (those of the package)"
    )
    add(
        "--known",
        metavar="FILE",
        type=file_path,
        help="differences that are accepted, with reasons",
    )
    add("--lenient", action="store_true", help='either answer to an "acceptable" vector will do')
    add("--timeout", metavar="SECONDS", type=real, help="for one case (10)")
    add("--json", action="store_true", help="print the report as JSON")
    add("--junit", metavar="FILE", type=file_path, help="write the report as XML too")
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
        type=file_path,
        help="write it there; a file of the same answers keeps the versions that it names",
    )
    add("--case", metavar="JSON", help="libgnutls' answer to this case alone")


def run(options: argparse.Namespace) -> int:
    """Print the file, write it, answer one case, or run a target on all.

    Returns:
        0; 1 where the target differs; 2 where what was given is not a case, or the file cannot be
        read or written, or the target not be asked.

    Raises:
        OSError: it cannot be printed.
    """
    code = 0
    try:
        _refuse_what_nothing_uses(options)
        if options.target is not None or options.exec is not None:
            code, made = _held_against(options)
        elif options.case is not None:
            made = json.dumps(answer(LIBGNUTLS, case_of_json(options.case))) + "\n"
        elif options.format == "c":
            found = _read(options.file or FILE)
            made = c_table(read(found), json.loads(found)["libgnutls"])
        elif options.format == "markdown":
            made = page(lambda case: answer(LIBGNUTLS, case))
        else:
            output: Path | None = options.output
            former = output if output is not None and output.is_file() else FILE
            made = document(_read(former))
        printed = (options.case, options.target, options.exec) != (None, None, None)
        if options.output is not None and not printed:
            with naming(options.output):
                options.output.write_text(made, encoding="utf-8")
            return 0
    except (OSError, ValueError, KeyError, TypeError, Unusable) as error:
        complain(_PROGRAM, reason(error))
        return 2
    print_out(made.removesuffix("\n"))
    return code


def _refuse_what_nothing_uses(options: argparse.Namespace) -> None:
    """Options that go with a target, and those that go without one."""
    has_target = options.target is not None or options.exec is not None
    for name in ("known", "lenient", "timeout", "json", "junit"):
        if not has_target and getattr(options, name) not in (None, False):
            raise Unusable(f"--{name} needs TARGET or --exec")
    if not has_target and options.file is not None and options.format != "c":
        raise Unusable("--file needs TARGET, --exec or --format c")
    for name in ("case", "output"):
        if has_target and getattr(options, name) is not None:
            raise Unusable(f"--{name} goes without TARGET and --exec")


def _read(path: Path) -> str:
    return text_of(path, _FILE_SIZE_MAX)


# --- a target -------------------------------------------------------------------------------------


def _held_against(options: argparse.Namespace) -> tuple[int, str]:
    """The exit code, and what is to be printed. The file of --junit is never an old one."""
    if options.target is not None and options.exec is not None:
        raise Unusable("either TARGET or --exec is needed, and not both")
    report = empty_report(options.exec or options.target)
    _write_junit(options, report, "the run did not come to its end", begin=True)
    try:
        _ask(options, report)
    except KeyboardInterrupt:
        _write_junit(options, report, "interrupted")
        if report.compared:
            print_out(_told(options, report)[1])
        raise
    except (OSError, ValueError, KeyError, TypeError, Unusable) as error:
        _write_junit(options, report, reason(error))
        raise
    code, made = _told(options, report)
    try:
        _write_junit(options, report, report.ended)
    except OSError as error:  # what was found is printed
        complain(_PROGRAM, f"--junit: {reason(error)}")
        code = code or 2
    if report.ended:
        complain(_PROGRAM, report.ended)
        code = code or 2
    return code, made


def _write_junit(
    options: argparse.Namespace, report: VectorReport, error: str, begin: bool = False
) -> None:
    path: Path | None = options.junit
    if path is None or (begin and is_stream(path)):  # which is written once
        return
    with naming(path):
        path.write_text(reports.junit(report, error, command="vectors"), encoding="utf-8")


def _ask(options: argparse.Namespace, report: VectorReport) -> None:
    tests = read(_read(options.file or FILE))
    target: Target
    timeout = _TIMEOUT_SECONDS if options.timeout is None else options.timeout
    if options.exec is not None:
        target = ExecTarget(options.exec, timeout)
    else:
        target = load(options.target, timeout)
    try:
        run_vectors(target, tests, options.known, lenient=options.lenient, report=report)
    finally:
        target.close()


def _told(options: argparse.Namespace, report: VectorReport) -> tuple[int, str]:
    """The exit code, and what is to be printed."""
    if options.json:
        known = [{"tcId": one.number, "name": one.name, "reason": why} for one, why in report.known]
        found = reports.as_dict(report) | {
            "known": known,
            "unused": report.unused,
            "not_asked": report.not_asked,
        }
        made = json.dumps(found)
    else:
        made = _text(report)
    for entry in report.unused:
        complain(_PROGRAM, f"--known: not seen: {json.dumps(entry)}")
    return (1 if report.findings else 0), made


def _text(report: VectorReport) -> str:
    lines = [text(finding) + "\n" for finding in report.findings[:_SHOWN_MAX]]
    lines += [finding.note for finding in report.findings[_SHOWN_MAX:]]
    if len(report.findings) > _SHOWN_MAX:
        lines.append(f"the first {_SHOWN_MAX} are shown in full; --json has all of them")
    lines += [f"known: vector {one.number}, {one.name}: {why}" for one, why in report.known]
    left = report.not_asked
    more = f"; {left} not asked, of what it does not do" if left else ""
    lines.append(
        f"{report.target}: {report.compared} vectors asked, {len(report.findings)} answered "
        f"otherwise, {len(report.known)} known differences{more}"
    )
    return "\n".join(lines)
