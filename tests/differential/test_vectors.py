"""The recorded answers of libgnutls hold for the libgnutls in use, and for the reference.

`gnutls-cookie vectors -o tests/vectors/libgnutls.json` makes the file, and adds the version in use
to those that it names. After a change of the set it names that version alone until the others are
asked again, each on a machine that has it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import DiscardReason, library_version
from gnutls_cookie.differential import LIBGNUTLS, OPERATIONS, REFERENCE, Case, case_of_json
from gnutls_cookie.differential.datagrams import CLIENTS
from gnutls_cookie.differential.vectors import COMMAND, answer, document, vectors
from tests.support.common import ROOT
from tests.support.faulty import FAULTS, target

FILES = sorted((ROOT / "tests" / "vectors").glob("*.json"))
NAMES = [path.name for path in FILES]


@cache
def recorded(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def cases(path: Path) -> list[tuple[str, Case, dict[str, Any]]]:
    """Name, case and recorded answer; without those that need a wider ssize_t than there is."""
    found = [
        (one["name"], case_of_json(json.dumps(one["case"])), one["answer"])
        for one in recorded(path)["vectors"]
    ]
    return [one for one in found if one[1].pushed is None or one[1].pushed <= sys.maxsize]


def test_answers_of_3_7_and_of_3_8_are_kept() -> None:
    """Those of Debian 12 and Debian 13."""
    versions = [version for path in FILES for version in recorded(path)["libgnutls"]]
    assert {"3.7", "3.8"} <= {version[:3] for version in versions}
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize("path", FILES, ids=NAMES)
@pytest.mark.parametrize("one", [LIBGNUTLS, REFERENCE], ids=["libgnutls", "reference"])
def test_recorded_answers_hold(path: Path, one: Any) -> None:
    """Of the libgnutls in use, whatever its version, and of the reference."""
    wrong = [name for name, case, expected in cases(path) if answer(one, case) != expected]
    assert wrong == []


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_file_holds_the_set_of_the_command(path: Path) -> None:
    """The same cases, names and reasons in the same order: nothing was written by hand."""
    file = recorded(path)
    kept = [(one["name"], one["why"], one["case"]) for one in file["vectors"]]
    assert kept == [(one.name, one.why, one.case.as_dict()) for one in vectors()]
    assert file["command"] == COMMAND


def test_the_file_is_made_by_its_command_byte_by_byte(tmp_path: Path) -> None:
    """The version in use is added where it is missing, and nothing else changes."""
    (path,) = FILES
    text = path.read_text(encoding="utf-8")
    made = tmp_path / path.name
    made.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *COMMAND.split()[1:], "-o", made],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    written = made.read_text(encoding="utf-8")
    assert json.loads(written)["libgnutls"] == sorted(
        {*recorded(path)["libgnutls"], library_version()},
        key=lambda version: [int(number) for number in version.split(".")],
    )
    if library_version() in recorded(path)["libgnutls"]:
        assert written == text
    assert json.loads(written)["vectors"] == recorded(path)["vectors"]


def test_versions_of_other_answers_are_not_kept() -> None:
    """A file whose rows differ says nothing of the versions that it named."""
    former = json.loads(document()) | {"libgnutls": ["3.0.0"]}
    assert "3.0.0" in json.loads(document(json.dumps(former)))["libgnutls"]
    former["vectors"][0]["answer"] = {"result": 1}
    assert json.loads(document(json.dumps(former)))["libgnutls"] == [library_version()]


def test_the_former_name_of_the_command_prints_the_same() -> None:
    """`python -m gnutls_cookie.differential.vectors`, which is in files made earlier."""
    done = subprocess.run(
        [sys.executable, "-m", "gnutls_cookie.differential.vectors"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, document()), done.stderr


def test_the_set_has_every_answer() -> None:
    """Each error code, each verdict, each reason, both keys; the names are its own."""
    found = vectors()
    answers = [answer(LIBGNUTLS, one.case) for one in found]
    assert len({one.name for one in found}) == len(found)
    assert all(one.why for one in found)
    assert {one.case.operation for one in found} == set(OPERATIONS)
    results = {one["result"] for one in answers if "result" in one}
    assert {0, 1, 5, 43, 44, -9, -50, -53, -214} <= results
    reasons = {one["reason"] for one in answers if "reason" in one}
    assert reasons == set(DiscardReason) - {DiscardReason.INTERNAL}  # which no datagram brings
    assert {one["key_age"] for one in answers if "key_age" in one} == {0, 1}
    presented = {one["presented_cookie"] for one in answers if "presented_cookie" in one}
    assert presented == {False, True}
    assert all(any(client in one.name for one in found) for client in CLIENTS)


@pytest.mark.parametrize("what", FAULTS)
def test_the_set_tells_every_planted_fault_apart(what: str) -> None:
    """Without a single case of chance: a vector shows each."""
    operation, _, _ = what.partition(":")
    faulty = target(FAULTS[what])
    asked = [one.case for one in vectors() if one.case.operation == operation]
    assert any(faulty.answer(case) != LIBGNUTLS.answer(case) for case in asked)


def test_case_answers_one() -> None:
    """--case prints the answer to a case, as a line that a program would give; junk is an error."""
    (case,) = [one.case for one in vectors() if one.name == "verify: a good cookie"]
    command = [sys.executable, *COMMAND.split()[1:], "--case"]
    done = subprocess.run(
        [*command, case.as_json()], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert json.loads(done.stdout) == {"result": 0, "prestate": [1, 1, 0]}
    done = subprocess.run([*command, "{}"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "no case" in done.stderr
