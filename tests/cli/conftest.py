"""What the tests of `run` need of the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

import gnutls_cookie

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """LD_PRELOAD separates by these characters: `run` refuses such a path, in one line."""
    package = str(Path(gnutls_cookie.__file__).parent)
    if any(character in package for character in " :$"):
        skip = pytest.mark.skip(reason=f"LD_PRELOAD cannot name {package}")
        for item in items:
            if item.path.parent == HERE and item.path.name.startswith("test_run"):
                item.add_marker(skip)
