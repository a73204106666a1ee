"""For pytest: a fixture that holds a user's implementation against libgnutls in his own suite."""

from __future__ import annotations

import shlex
from collections.abc import Callable

import pytest

from .harness import Report, compare
from .report import text
from .targets import LIBGNUTLS, ExecTarget, Target, Unusable, load

__all__ = ["cookie_differential"]


@pytest.fixture
def cookie_differential() -> Callable[..., Report]:
    """Compare a target with libgnutls, and fail with the smallest case where they differ.

    Call it as cookie_differential(target, cases=10_000, seed=0, operations=None, timeout=10.0): the
    target is "module" or "module:object" as of `gnutls-cookie diff`, ["program", "argument"] for
    one that speaks JSON lines, or a Target. Gives the Report.

    Example:
        >>> def test_mine(cookie_differential):
        ...     cookie_differential("my_package.cookies", cases=50_000)
    """

    def run(
        target: str | list[str] | Target,
        *,
        cases: int = 10_000,
        seed: int = 0,
        operations: list[str] | None = None,
        timeout: float = 10.0,
    ) -> Report:
        __tracebackhide__ = True
        held: Target | None = None
        try:
            if isinstance(target, str):
                held = load(target, timeout)
            elif isinstance(target, list):
                held = ExecTarget(shlex.join(target), timeout)
            else:
                held = target
            report = compare(held, LIBGNUTLS, seed, cases, operations=operations, timeout=timeout)
        except Unusable as error:
            pytest.fail(str(error), pytrace=False)
        finally:
            if held is not None:
                held.close()
        if report.findings:
            pytest.fail(text(report.findings[0]), pytrace=False)
        if not report.compared:
            pytest.fail("nothing was compared", pytrace=False)
        return report

    return run
