"""Tells an implementation of the cookie functions apart from libgnutls, by the smallest case.

Read cases.py (what is asked), targets.py (who answers), harness.py (the comparison), shrink.py and
report.py (what you are told). `gnutls-cookie diff` is command.py; strategies.py has the cases for
hypothesis, pytest_plugin.py a fixture.
"""

from __future__ import annotations

from .cases import OPERATIONS, Case, case_of_json, cases
from .harness import Finding, Report, compare, compare_cases
from .report import text
from .shrink import shrunk
from .targets import (
    LIBGNUTLS,
    REFERENCE,
    ExecTarget,
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
    "Outcome",
    "PythonTarget",
    "Report",
    "Target",
    "Unusable",
    "case_of_json",
    "cases",
    "compare",
    "compare_cases",
    "load",
    "shrunk",
    "text",
]
