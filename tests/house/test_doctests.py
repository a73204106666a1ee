"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest

from tests.support.common import ROOT

PACKAGE = ROOT / "gnutls_cookie"

# Reference and binding, gate and sessions: whatever shows an example with a prompt.
MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_there_are_examples() -> None:
    """Else the test below would say nothing."""
    assert {"gnutls_cookie.cookie", "gnutls_cookie.session"} <= set(MODULES)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """Each in a namespace of its own: that of its module."""
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    assert tried > 0
