"""The quirks of libgnutls, of notes.md: docs/quirks.md and the notes of the vectors are made of it.

A note is a section of that file: its title and number, a comment with its flag, the RFC's sections,
text, and cases as lines of JSON, to which the page adds libgnutls' answers.
`gnutls-cookie vectors --format markdown` prints the page.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from .cases import Case, case_of_json

__all__ = ["Note", "notes", "page"]

_FILE = Path(__file__).resolve().parent / "notes.md"
_SECTION = re.compile(
    r"^## (\d+)\. ([^\n]+)\n<!-- (\w+)(, acceptable)? -->\n\n\*(.+?)\*\n(.*?)(?=^## |\Z)",
    re.MULTILINE | re.DOTALL,
)
_CASE = re.compile(r'^\{"operation": .*\}$', re.MULTILINE)
_FLAG = re.compile(r"^<!-- .+ -->\n", re.MULTILINE)


class Note(NamedTuple):
    """A quirk.

    Attributes:
        number: on the page.
        title: a sentence.
        flag: its name in the vectors.
        acceptable: whether an implementation that answers otherwise may be right as well.
        source: sections of RFCs, functions and files of GnuTLS.
        text: the first paragraph.
        cases: that show it.
    """

    number: int
    title: str
    flag: str
    acceptable: bool
    source: str
    text: str
    cases: list[Case]


@cache
def notes() -> tuple[Note, ...]:
    """All of them, in the order of the page."""
    found = []
    for match in _SECTION.finditer(_FILE.read_text(encoding="utf-8")):
        number, title, flag, acceptable, source, rest = match.groups()
        paragraphs = (one.strip() for one in rest.split("\n\n"))
        text = next(one for one in paragraphs if one and not one.startswith("```"))
        cases = [case_of_json(line) for line in _CASE.findall(rest)]
        found.append(
            Note(int(number), title, flag, bool(acceptable), _plain(source), _plain(text), cases)
        )
    return tuple(found)


def _plain(text: str) -> str:
    """A paragraph in one line, without links."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", " ".join(text.split()))


def page(answer: Callable[[Case], dict[str, Any]]) -> str:
    """docs/quirks.md.

    Args:
        answer: gives libgnutls' answer to a case.
    """

    def answered(match: re.Match[str]) -> str:
        line = match[0]
        return f'{line[:-1]}, "answer": {json.dumps(answer(case_of_json(line)))}}}'

    return _CASE.sub(answered, _FLAG.sub("", _FILE.read_text(encoding="utf-8")))
