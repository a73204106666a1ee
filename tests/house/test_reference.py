"""The reference pages: every public name has its place, whatever Sphinx will make of it."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.common import ROOT

DOCS = ROOT / "docs"

# What users import from. `learn` needs aalpy, `strategies` hypothesis.
MODULES = (
    "gnutls_cookie",
    "gnutls_cookie.aio",
    "gnutls_cookie.blocking",
    "gnutls_cookie.errors",
    "gnutls_cookie.metrics",
    "gnutls_cookie.server",
    "gnutls_cookie.xdp",
    "gnutls_cookie.reference.wire",
    "gnutls_cookie.reference.cookie",
    "gnutls_cookie.reference.gate",
    "gnutls_cookie.reference.client",
    "gnutls_cookie.differential",
    "gnutls_cookie.differential.learn",
    "gnutls_cookie.differential.pytest_plugin",
    "gnutls_cookie.differential.strategies",
)


def public(module: ModuleType) -> set[str]:
    """The names that a module offers."""
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }


def documented() -> dict[str, set[str]]:
    """What the directives of the pages ask autodoc for: module, names."""
    found: dict[str, set[str]] = {}
    for page in sorted((DOCS / "api").glob("*.md")):
        module = ""
        text = page.read_text(encoding="utf-8")
        for directive, name in re.findall(r"^\.\. (\w+):: (\S+)", text, re.MULTILINE):
            if directive in ("module", "currentmodule"):
                module = name
            elif directive == "automodule":
                found.setdefault(name, set()).update(public(importlib.import_module(name)))
            else:
                path, _, last = name.rpartition(".")
                found.setdefault(path or module, set()).add(last)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_public_name_is_on_a_page(name: str) -> None:
    """Under the module that users import it from; an error class is where they catch it."""
    if name.endswith(("learn", "strategies")):
        pytest.importorskip("aalpy" if name.endswith("learn") else "hypothesis")
    module = importlib.import_module(name)
    pages = documented()
    there = pages.get(name, set())
    if name in ("gnutls_cookie.errors", "gnutls_cookie.server"):  # most is at the top as well
        there = there | pages["gnutls_cookie"]
    assert public(module) - there == set()


@pytest.mark.parametrize("name", sorted(set(documented()) - {*MODULES[-3:]}))
def test_every_name_of_the_pages_exists_and_says_what_it_is(name: str) -> None:
    """A directive for what is gone would be an error of `./dev docs` only."""
    module = importlib.import_module(name)
    for one in documented()[name]:
        value = getattr(module, one)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), f"{name}.{one} has no docstring"


def test_every_page_is_in_the_contents() -> None:
    """docs/conf.py lists the pages; one that it forgets would be found by nobody."""
    tree = ast.parse((DOCS / "conf.py").read_text(encoding="utf-8"))
    (listed,) = (
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CONTENTS"
    )
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")}
    assert set(" ".join(listed.values()).split()) == pages


def test_pictures_are_those_that_their_text_gives(tmp_path: Path) -> None:
    """Whoever changes docs/pictures.py draws them again."""
    (tmp_path / "pictures.py").write_text((DOCS / "pictures.py").read_text(encoding="utf-8"))
    subprocess.run([sys.executable, tmp_path / "pictures.py"], check=True, timeout=60)
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 2
    for picture in drawn:
        assert (DOCS / picture.name).read_text(encoding="utf-8") == picture.read_text("utf-8")
