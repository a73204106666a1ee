"""gnutls-cookie diff TARGET: an implementation beside the real one, from the command line."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gnutls_cookie.cookie import library_version

from . import report as reports
from .cases import OPERATIONS, Case, case_of_json
from .harness import Progress, compare
from .targets import LIBGNUTLS, REFERENCE, ExecTarget, Target, Unusable, load

__all__ = ["add_arguments", "read_cases", "run"]

FOUND_NOTHING, FOUND, UNUSABLE = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("target", metavar="TARGET", nargs="?", help="module or module:object")
    add("--exec", metavar="COMMAND", help="a program that answers lines of JSON, as the target")
    add("--cases", metavar="N", type=int, default=100_000, help="how many (100000)")
    add("--seed", metavar="S", type=int, help="of the cases; a random one is printed")
    add("--operation", choices=OPERATIONS, action="append", help="these alone; may be repeated")
    add("--corpus", metavar="DIR", type=Path, help="cases to begin with; findings are added")
    add("--replay", metavar="FILE", type=Path, help="what `run --record` wrote, alone")
    add("--case", metavar="JSON", help="this one case alone")
    add("--against", choices=["libgnutls", "reference"], default="libgnutls", help="(libgnutls)")
    add("--findings", metavar="N", type=int, default=1, help="end after so many (1)")
    add("--timeout", metavar="SECONDS", type=float, default=10.0, help="for one case (10)")
    add("--json", action="store_true", help="print the report as JSON")
    add("--junit", metavar="FILE", type=Path, help="write the report as XML too")


def run(options: argparse.Namespace) -> int:
    """Compare, and print what differs.

    Returns:
        0 where nothing differs, 1 where something does, 2 where the target is unusable.
    """
    try:
        target = _target(options)
    except Unusable as error:
        return _unusable(str(error))
    try:
        return _run(options, target)
    finally:
        target.close()


def _run(options: argparse.Namespace, target: Target) -> int:
    oracle = LIBGNUTLS if options.against == "libgnutls" else REFERENCE
    operations = tuple(options.operation or target.operations)
    if not set(operations) <= set(target.operations):
        return _unusable(f"{target.name!r} answers {', '.join(target.operations)} only")
    try:
        corpus = list(_corpus(options))
    except (OSError, ValueError) as error:
        return _unusable(str(error))
    if options.case is not None and corpus[0].operation not in target.operations:
        return _unusable(f"{target.name!r} does not answer {corpus[0].operation!r}")
    seed = random.SystemRandom().getrandbits(32) if options.seed is None else options.seed
    count = 0 if options.case or options.replay else max(0, options.cases)
    try:
        with _progress(count + len(corpus), options.json) as progress:
            report = compare(
                target,
                oracle,
                seed,
                count,
                operations=operations,
                corpus=corpus,
                replay=options.replay,
                most=max(1, options.findings),
                timeout=options.timeout,
                progress=progress,
            )
    except (Unusable, OSError, ValueError) as error:
        return _unusable(str(error))
    if options.corpus is not None:
        options.corpus.mkdir(parents=True, exist_ok=True)
        for finding in report.findings:
            _keep(options.corpus, finding.case)
    if options.junit is not None:
        options.junit.write_text(reports.junit(report), encoding="utf-8")
    if options.json:
        print(json.dumps(reports.as_dict(report) | {"libgnutls": library_version()}))
    else:
        for finding in report.findings:
            print(reports.text(finding), end="\n\n")
        rate = report.compared / report.seconds if report.seconds else 0
        found = len(report.findings)
        print(
            f"{target.name} against {oracle.name} (libgnutls {library_version()}): "
            f"{report.compared} cases of seed {seed} compared in {report.seconds:.1f} s "
            f"({rate:.0f} a second), {found or 'no'} disagreement{'s' if found > 1 else ''}"
        )
    return FOUND if report.findings else FOUND_NOTHING


def read_cases(path: Path) -> Iterator[Case]:
    """The cases of a file of JSON lines.

    Raises:
        ValueError: a line is no case; the text names file and line.
        OSError: the file cannot be read.
    """
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            try:
                yield case_of_json(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None


def _target(options: argparse.Namespace) -> Target:
    if (options.target is None) == (options.exec is None):
        raise Unusable("either TARGET or --exec is needed")
    if options.exec is not None:
        return ExecTarget(options.exec, options.timeout)
    # A module of the user's own stands where he does, as with `python -m`.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    return load(options.target)


def _corpus(options: argparse.Namespace) -> Iterator[Case]:
    if options.case is not None:
        yield case_of_json(options.case)
    if options.corpus is not None and options.corpus.is_dir():
        for path in sorted(options.corpus.glob("*.jsonl")):
            yield from read_cases(path)


def _keep(folder: Path, case: Case) -> None:
    import hashlib

    line = case.as_json() + "\n"
    name = hashlib.sha256(line.encode()).hexdigest()[:16]
    (folder / f"{case.operation}-{name}.jsonl").write_text(line, encoding="utf-8")


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[Progress | None]:
    """A bar where there is a terminal and tqdm; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    try:
        tqdm = importlib.import_module("tqdm")
    except ImportError:
        yield None
        return
    with tqdm.tqdm(total=total, unit=" cases", unit_scale=True, leave=False) as bar:
        yield lambda number: bar.update(number - bar.n) and None


def _unusable(why: str) -> int:
    print(f"gnutls-cookie diff: {why}", file=sys.stderr)
    return UNUSABLE
