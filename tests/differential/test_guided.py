"""Guided comparisons: cases that reach new code of a target, changed again and again."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from gnutls_cookie.cli import main
from gnutls_cookie.differential import LIBGNUTLS, PythonTarget, Report, compare
from gnutls_cookie.differential.cases import Case, cases
from gnutls_cookie.differential.guided import ROUND, Guided
from gnutls_cookie.differential.reached import Reached
from gnutls_cookie.reference import cookie as reference

NEWS = b'[[%d], [7, "beef"]]'


def planted(shows: Callable[[bytes, bytes], bool]) -> PythonTarget:
    """The reference's verify, wrong for the keys and clients that a function names."""

    def verify(
        key: bytes, client_data: bytes | None, message: bytes, prestate: reference.Prestate
    ) -> None:
        reference.cookie_verify(key, client_data, message, prestate)
        if shows(key, client_data or b""):
            prestate.record_seq ^= 1

    return PythonTarget("planted", verify)


def deep(key: bytes, client_data: bytes) -> bool:
    """One of 2**24: three bytes have to be right, and none of them stands in the code."""
    if not client_data or len(key) < 3:
        return False
    return key[0] ^ 0x55 == 0x32 and key[1] * 3 == 330 and key[2] + client_data[0] == 300


def shallow(key: bytes, client_data: bytes) -> bool:
    """One constant of the code."""
    return client_data.startswith(b"\xde\xad")


def compared(shows: Callable[[bytes, bytes], bool], seed: int, count: int, guided: bool) -> Report:
    """The report of a comparison."""
    return compare(planted(shows), LIBGNUTLS, seed, count, guided=guided)


@pytest.mark.slow
def test_guidance_finds_what_chance_does_not() -> None:
    """In 120,000 cases of this seed, where chance needs sixteen million."""
    assert compared(deep, 7, 120_000, False).findings == []
    (finding,) = compared(deep, 7, 120_000, True).findings
    assert finding.alone
    assert deep(finding.case.key, finding.case.client_data or b"")


def test_a_seed_makes_the_same_run_again() -> None:
    """The same number of cases, and the same finding; a constant of the code is found soon."""
    one, other = (compared(shallow, 5, 60_000, True) for _ in range(2))
    assert one.findings
    assert one.compared == other.compared
    assert one.findings == other.findings


def test_what_the_collector_runs_is_not_the_target_s() -> None:
    """A function of gc.callbacks (hypothesis has one), in the middle of an answer."""
    calls: list[str] = []
    during: list[int] = []

    def verify(*arguments: object) -> bool:
        before = len(calls)
        for _ in range(3):
            make_garbage()
        during.append(len(calls) - before)
        return False

    def make_garbage() -> None:
        for _ in range(2000):
            one: list[object] = []
            one.append(one)

    def on_collection(phase: str, _: object) -> None:
        calls.append(phase)

    reached = Reached(PythonTarget("mine", verify))
    gc.callbacks.append(on_collection)
    try:
        case = next(cases(1, ("verify",), None, 0))
        reached.answer(case)
        assert json.loads(reached.news())[0]
        gc.collect()
        assert calls
        reached.answer(case)
        assert reached.news() == b""
        assert during == [0, 0]
    finally:
        gc.callbacks.remove(on_collection)
        reached.close()


def test_any_part_of_a_run_can_be_made_again() -> None:
    """With what was known in each round, and nothing that was learned later."""
    operations = ("verify", "send", "receive")
    guided = Guided(3, operations, 10 * ROUND)
    seen: list[Case] = []
    for case in guided.cases(0):
        if len(seen) % 50 == 0:
            guided.saw(len(seen), case, NEWS % len(seen))
        seen.append(case)
    assert len(seen) == 10 * ROUND
    for start in 0, 1, ROUND, 5 * ROUND + 17:
        assert list(guided.cases(start)) == seen[start:]
    of_seed = [case for place, case in enumerate(seen) if guided.number(place) >= 0]
    assert of_seed == list(islice(cases(3, operations), len(of_seed)))
    assert len(of_seed) == len(seen) // 4
    assert {case.operation for case in seen} == set(operations)
    assert all(case.key for case in seen if case.operation == "receive")


@pytest.mark.parametrize("news", [b"", b"junk", b"[]", b"[[1], 2]", b'[["x"], []]', b"[[1], [{}]]"])
def test_what_a_target_may_write_in_the_place_of_news(news: bytes) -> None:
    """It counts for nothing."""
    guided = Guided(3, ("verify",), ROUND)
    guided.saw(0, Case("verify", b"k", b"c"), news)
    fresh = Guided(3, ("verify",), ROUND)
    assert list(guided.cases(0)) == list(fresh.cases(0))


def test_each_condition_of_a_line_is_told_once(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With the constants beside it, of the module too; and nothing of what Python brings."""
    module = tmp_path / "mine.py"
    module.write_text(
        "import json\n"
        "MAGIC = b'magic'\n"
        "def verify(key, client_data, message, prestate):\n"
        "    return key == MAGIC and json.dumps([1]) and len(message) == 777\n"
    )
    names: dict[str, object] = {}
    exec(compile(module.read_text(), str(module), "exec"), names)
    verify = names["verify"]
    assert callable(verify)
    reached = Reached(PythonTarget("mine", verify))
    request.addfinalizer(reached.close)
    told = []
    for key in b"k", b"k", b"", b"magic", b"magic":
        reached.answer(Case("verify", key, b""))
        told.append(reached.news())
    # The first two have this function in them as well, where that is told.
    assert [bool(news) for news in told[2:]] == [False, True, False]
    assert b"magic".hex().encode() in told[0]
    assert b"777" in told[0]
    assert len(told[3]) < 500


def test_only_python_can_be_followed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of a program nobody can see what it reaches: exit code 2, and a line that says so."""
    program = tmp_path / "target"
    program.write_text('#!/bin/sh\nread line\necho \'{"operations": ["send"]}\'\nread line\n')
    program.chmod(0o755)
    assert main(["diff", "--exec", str(program), "--guided"]) == 2
    assert "is not in Python" in capsys.readouterr().err
