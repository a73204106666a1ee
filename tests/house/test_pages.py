"""What the pages name is there: files, links, and the answers of "Where is it?"."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.common import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FOLDERS = (
    "gnutls_cookie",
    "gnutls_cookie/native",
    "docs",
    "tests/house",
    "tests/binding",
    "tests/cli",
)
BASES = [ROOT, *(ROOT / folder for folder in FOLDERS)]


def files_named(text: str) -> set[str]:
    """Paths of the project in back quotes: what ends as a source file or a folder does."""
    quoted = re.findall(r"`([\w./-]+)`", text)
    return {name for name in quoted if re.search(r"\w/$|^[\w./-]+\.(py|c|h|md|cdef)$", name)}


def exists(name: str) -> bool:
    return any((base / name).exists() for base in BASES)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", "docs/design.md"])
def test_every_file_that_a_page_names_exists(name: str) -> None:
    """From the root, or from the package, its native/, docs/ or the tests."""
    named = files_named((ROOT / name).read_text(encoding="utf-8"))
    assert named
    assert {file for file in named if not exists(file)} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file(page: Path) -> None:
    """Relative links, from the page's own folder; with an anchor, to a heading."""
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        if anchor:
            titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in titles}
            assert anchor in slugs, link


def test_where_is_it_tells_the_truth() -> None:
    """Each file of an answer exists, and each name stands in one of them."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    section = text.partition("## Where is it?")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+\?) \| (.+) \| (.*)\|$", section, re.MULTILINE)
    assert len(rows) >= 10
    for question, answer, names in rows:
        files = files_named(answer)
        assert files, question
        found = [next(b / file for b in BASES if (b / file).exists()) for file in files]
        contents = "".join(path.read_text(encoding="utf-8") for path in found)
        for name in re.findall(r"`(\w+)`", names):
            assert re.search(rf"\b{name}\b", contents), f"{question} {name}"
