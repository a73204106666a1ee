"""Tells an implementation of the cookie functions apart from libgnutls, by the smallest case.

Read cases.py (what is asked), sources.py (where cases come from), targets.py and python_target.py
(who answers), harness.py (the comparison), examine.py and shrink.py (what shows a difference
again), report.py (what is printed). A target runs in a process of its own: processes.py is the
bench's side of it, warden.py watches over it, runner.py runs in it. strategies.py has the cases for
hypothesis, pytest_plugin.py a fixture. The command `gnutls-cookie diff` is cli/diff.py.
"""

from __future__ import annotations

from .cases import OPERATIONS, Case, case_of_json, case_of_seed, cases
from .harness import Finding, Report, compare, compare_cases
from .report import text
from .shrink import shrunk
from .targets import (
    LIBGNUTLS,
    REFERENCE,
    ExecTarget,
    ModuleTarget,
    Outcome,
    PythonTarget,
    Target,
    Unusable,
    load,
)

__all__ = [
    "LIBGNUTLS",
    "OPERATIONS",
    "REFERENCE",
    "Case",
    "ExecTarget",
    "Finding",
    "ModuleTarget",
    "Outcome",
    "PythonTarget",
    "Report",
    "Target",
    "Unusable",
    "case_of_json",
    "case_of_seed",
    "cases",
    "compare",
    "compare_cases",
    "load",
    "shrunk",
    "text",
]
