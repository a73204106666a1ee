"""Fixtures for every test: what they all must leave behind, and what they run against."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import gnutls_cookie
from gnutls_cookie.handles import TABLE


def pytest_report_header() -> str:
    """Say which libgnutls the tests judge."""
    return f"libgnutls {gnutls_cookie.library_version()}"


@pytest.fixture(autouse=True)
def _nothing_left_lent() -> Iterator[None]:
    """No test leaves an object lent to C."""
    yield
    assert len(TABLE) == 0
