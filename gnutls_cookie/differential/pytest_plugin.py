"""For pytest: fixtures that hold a user's implementation against libgnutls in his own suite.

In a conftest.py at any depth:

    from gnutls_cookie.differential.pytest_plugin import cookie_differential, cookie_vectors

or in the topmost one `pytest_plugins = ["gnutls_cookie.differential.pytest_plugin"]`, which pytest
allows there alone. There is no entry point: pytest would import this package, and libgnutls with
it, in every run of every project of the same environment.
"""

from __future__ import annotations

import os
import random
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .corpus import keep, kept
from .harness import Comparison, Report
from .report import text
from .targets import LIBGNUTLS, ExecTarget, Target, Unusable, load
from .vector_file import read
from .vector_run import VectorReport, run_vectors

__all__ = ["SEED_VARIABLE", "cookie_differential", "cookie_vectors", "fresh_seed"]

#: An environment variable: the seed of all comparisons that name none.
SEED_VARIABLE = "GNUTLS_COOKIE_SEED"

_TargetLike = str | list[str] | Target


@pytest.fixture
def cookie_differential(request: pytest.FixtureRequest) -> Callable[..., Report]:
    """Compare a target with libgnutls, and fail with the smallest case where they differ.

    Call it as cookie_differential(target, cases=10_000, seed=None, operations=None, corpus=None,
    timeout=10.0, guided=False): the target is "module" or "module:object", as of
    `gnutls-cookie diff`, whose --guided is `guided`; ["program", "argument"] for one that speaks
    JSON lines; or a Target. Without a seed each run has a fresh one, unless GNUTLS_COOKIE_SEED
    names it: it is printed, and a property of the test in pytest's --junitxml. `corpus` is a
    folder of cases that come first, to which findings are added.
    Gives the Report.

    Example:
        >>> def test_mine(cookie_differential):
        ...     cookie_differential("my_package.cookies", cases=50_000, corpus="tests/corpus")
    """

    def run(
        target: _TargetLike,
        *,
        cases: int = 10_000,
        seed: int | None = None,
        operations: list[str] | None = None,
        corpus: str | os.PathLike[str] | None = None,
        timeout: float = 10.0,
        guided: bool = False,
    ) -> Report:
        __tracebackhide__ = True
        if seed is None:
            seed = fresh_seed()
        print(f"cookie_differential: {SEED_VARIABLE}={seed} repeats these cases")
        request.node.user_properties.append(("cookie_differential_seed", seed))
        folder = None if corpus is None else Path(corpus)
        with _held(target, timeout) as held:
            comparison = Comparison(
                held,
                LIBGNUTLS,
                seed,
                cases,
                operations=operations,
                corpus=[] if folder is None else kept(folder),
                timeout=timeout,
                guided=guided,
            )
            comparison.run()
        report = comparison.report
        if report.findings:
            said = text(report.findings[0])
            if folder is not None:
                path, _ = keep(folder, report.findings[0])
                said += f"\nkept in {path}"
            pytest.fail(f"{said}\n{SEED_VARIABLE}={seed} repeats it", pytrace=False)
        if not report.compared:
            pytest.fail("nothing was compared", pytrace=False)
        return report

    return run


@pytest.fixture
def cookie_vectors() -> Callable[..., VectorReport]:
    """Run a target on the vectors, and fail with those that it answers otherwise.

    Call it as cookie_vectors(target, known=None, lenient=False, timeout=10.0): the target is that
    of cookie_differential, `known` a file of accepted differences, as of `gnutls-cookie vectors`.
    Gives the report.

    Example:
        >>> def test_mine(cookie_vectors):
        ...     cookie_vectors("my_package.cookies", known="tests/known.json")
    """

    def run(
        target: _TargetLike,
        *,
        known: str | os.PathLike[str] | None = None,
        lenient: bool = False,
        timeout: float = 10.0,
    ) -> VectorReport:
        __tracebackhide__ = True
        with _held(target, timeout) as held:
            accepted = None if known is None else Path(known)
            report = run_vectors(held, read(), accepted, lenient=lenient)
        if report.findings:
            listed = "\n".join(finding.note for finding in report.findings)
            pytest.fail(f"{text(report.findings[0])}\n\n{listed}", pytrace=False)
        if report.ended:
            pytest.fail(report.ended, pytrace=False)
        return report

    return run


def fresh_seed() -> int:
    """The seed of a comparison that names none: that of GNUTLS_COOKIE_SEED, or a fresh one."""
    named = os.environ.get(SEED_VARIABLE, "")
    if not named:
        return random.SystemRandom().getrandbits(32)
    try:
        return int(named)
    except ValueError:
        pytest.fail(f"{SEED_VARIABLE} is {named!r}, not a whole number", pytrace=False)


@contextmanager
def _held(target: _TargetLike, timeout: float) -> Iterator[Target]:
    """The target for the time of a block; one that cannot be used fails the test."""
    __tracebackhide__ = True
    held: Target | None = None
    try:
        if isinstance(target, str):
            held = load(target, timeout)
        elif isinstance(target, list):
            held = ExecTarget(shlex.join(target), timeout)
        else:
            held = target
        yield held
    except Unusable as error:
        pytest.fail(str(error), pytrace=False)
    finally:
        if held is not None:
            held.close()
