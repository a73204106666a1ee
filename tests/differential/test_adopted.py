"""The bench in other people's projects: fixtures for pytest, strategies, the reference alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, Phase, find, given, settings

from gnutls_cookie.differential import (
    LIBGNUTLS,
    OPERATIONS,
    REFERENCE,
    Case,
    compare_cases,
    pytest_plugin,
)
from gnutls_cookie.differential import strategies as of
from gnutls_cookie.differential.strategies import any_cases
from gnutls_cookie.differential.vector_file import FILE
from tests.support.common import ROOT
from tests.support.faulty import FAULTS, target

pytest_plugins = ["pytester"]

RIGHT = "from gnutls_cookie.reference.cookie import *\n"
WRONG = """
from gnutls_cookie.reference.cookie import *
def cookie_verify(key, client_data, message, prestate=None, _real=cookie_verify):
    return _real(key, client_data, message + b"\\0", prestate)
"""

# --- pytest ---------------------------------------------------------------------------------------


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """A project whose bench is in a folder of its own, with its own conftest.py."""
    folder = pytester.mkdir("tests") / "bench"
    folder.mkdir()
    (folder / "conftest.py").write_text(
        "from gnutls_cookie.differential.pytest_plugin import (\n"
        "    cookie_differential as cookie_differential,\n"
        "    cookie_vectors as cookie_vectors,\n"
        ")\n"
    )
    pytester.makeini("[pytest]\npythonpath = .\n")
    pytester.makepyfile(mine=RIGHT, wrong=WRONG)
    return pytester


def run(project: pytest.Pytester, test: str, *arguments: str) -> pytest.RunResult:
    (project.path / "tests" / "bench" / "test_mine.py").write_text(test)
    return project.runpytest_inprocess("-p", "no:cacheprovider", *arguments)


def test_fixtures_work_in_a_nested_conftest(project: pytest.Pytester) -> None:
    """A right target passes both; a wrong one fails both, with the case and without our frames."""
    done = run(
        project,
        """
def test_right(cookie_differential, cookie_vectors):
    assert cookie_differential("mine", cases=2000).compared == 2000
    assert cookie_vectors("mine").findings == []
def test_wrong(cookie_differential):
    cookie_differential("wrong", cases=2000)
def test_wrong_vectors(cookie_vectors):
    cookie_vectors("wrong")
def test_none(cookie_vectors):
    cookie_vectors("no_such_module")
""",
    )
    done.assert_outcomes(passed=1, failed=3)
    done.stdout.fnmatch_lines(["*gnutls_dtls_cookie_verify: the answers differ*"])
    done.stdout.fnmatch_lines(["*vector *EndsWithCookie*"])
    done.stdout.fnmatch_lines(["*cannot import 'no_such_module'*"])
    done.stdout.no_fnmatch_line("*pytest_plugin.py*")


def test_the_plugin_may_be_named_in_the_topmost_conftest(pytester: pytest.Pytester) -> None:
    """As pytest_plugins."""
    pytester.makeconftest('pytest_plugins = ["gnutls_cookie.differential.pytest_plugin"]')
    pytester.makepyfile(mine=RIGHT)
    pytester.makepyfile("def test_right(cookie_differential): cookie_differential('mine', cases=9)")
    pytester.runpytest_inprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)


def test_a_seed_is_fresh_and_is_told(
    project: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Printed, in the failure and in the XML; the variable that it names repeats the cases."""
    test = "def test_it(cookie_differential): cookie_differential('wrong', cases=2000)"

    def seed() -> str:
        done = run(project, test, "--junitxml", "report.xml")
        done.assert_outcomes(failed=1)
        found = ElementTree.parse(project.path / "report.xml").getroot().find(".//property")
        assert found is not None
        assert found.get("name") == "cookie_differential_seed"
        value = found.get("value", "")
        done.stdout.fnmatch_lines([f"GNUTLS_COOKIE_SEED={value} repeats it"])
        return value

    monkeypatch.delenv(pytest_plugin.SEED_VARIABLE, raising=False)
    assert pytest_plugin.fresh_seed() != pytest_plugin.fresh_seed()
    monkeypatch.setenv(pytest_plugin.SEED_VARIABLE, "17")
    assert seed() == "17"
    monkeypatch.setenv(pytest_plugin.SEED_VARIABLE, "seventeen")
    with pytest.raises(pytest.fail.Exception, match="'seventeen', not a whole number"):
        pytest_plugin.fresh_seed()


def test_a_finding_is_kept_in_the_corpus(project: pytest.Pytester) -> None:
    """And shows the fault at once in the next run, without a case by chance."""
    test = "def test_it(cookie_differential): cookie_differential('wrong', cases={}, corpus='kept')"
    run(project, test.format(2000)).assert_outcomes(failed=1)
    (kept,) = (project.path / "kept").glob("verify-*.jsonl")
    done = run(project, test.format(0))
    done.assert_outcomes(failed=1)
    (case,) = kept.read_text().splitlines()
    done.stdout.fnmatch_lines([f"*{json.loads(case)['message']}*"])
    (project.path / "wrong.py").write_text(RIGHT)
    run(project, test.format(0)).assert_outcomes(passed=1)


def test_known_differences_of_the_fixture(project: pytest.Pytester) -> None:
    """A file of them, with reasons."""
    entries = [{"flag": flag, "reason": "one byte less"} for flag in
               ("EndsWithCookie", "TwoErrorCodes", "CookieOfAnotherSize", "Normal")]  # fmt: skip
    (project.path / "known.json").write_text(json.dumps({"known": entries}))
    test = "def test_it(cookie_vectors): assert cookie_vectors('wrong', known='known.json').known"
    run(project, test).assert_outcomes(passed=1)


# --- hypothesis -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(any_cases())
def test_strategies(case: Case) -> None:
    """The cases as hypothesis draws them tell nothing apart either."""
    assert list(compare_cases(REFERENCE, LIBGNUTLS, [case])) == []


@pytest.mark.parametrize(
    ("what", "size"),
    [
        ("verify: a datagram may end with its cookie", 77),
        ("verify: the content type is looked at", 78),
        ("send: a negative result comes through", 0),
    ],
)
def test_strategies_shrink(what: str, size: int) -> None:
    """What is left shows the fault and little else."""
    faulty = target(FAULTS[what])
    operation = what.partition(":")[0]
    case = find(
        any_cases([operation]),
        lambda case: bool(list(compare_cases(faulty, LIBGNUTLS, [case]))),
        settings=settings(
            max_examples=5000, deadline=None, database=None, derandomize=True,
            phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
        ),
    )  # fmt: skip
    assert len(case.key) == 1
    assert not case.client_data
    assert case.prestate == (0, 0, 0)
    assert len(case.message) == size
    assert not any(case.message[1:59])


def test_strategies_of_parts() -> None:
    """Keys and clients can be had alone; a wrong operation is an error."""
    few = settings(database=None, max_examples=5, phases=[Phase.generate])
    assert find(of.keys(), lambda _: True, settings=few)
    find(of.client_data(), lambda _: True, settings=few)
    for wrong in [], ["fly"], ["client"]:
        with pytest.raises(ValueError, match="operations"):
            any_cases(wrong)
    assert set(OPERATIONS) == {"verify", "send", "receive"}


# --- without libgnutls ----------------------------------------------------------------------------


def test_the_reference_can_be_copied(tmp_path: Path) -> None:
    """One folder, under another name, with nothing else of the package: it passes the vectors."""
    shutil.copytree(ROOT / "gnutls_cookie" / "reference", tmp_path / "theirs")
    (tmp_path / "run.py").write_text(
        """
import json, sys
from theirs import client, cookie, gate
wrong = asked = 0
for group in json.load(open(sys.argv[1]))["testGroups"]:
    for test in group["tests"]:
        case, answer = test["case"], test["answer"]
        message = bytes.fromhex(case.get("message", ""))
        asked += 1
        if group["operation"] == "client":
            try:
                found = client.client_receive(message)
                got = "ignored" if found is None else found.hex()
            except cookie.CookieError as error:
                got = error.code
            wrong += got != answer.get("cookie", answer.get("code", answer["verdict"]))
            continue
        key = bytes.fromhex(case["key"])
        who = None if case["client_data"] is None else bytes.fromhex(case["client_data"])
        if group["operation"] == "verify":
            state = cookie.Prestate(*case["prestate"])
            try:
                cookie.cookie_verify(key, who, message, state)
                got = 0
            except cookie.CookieError as error:
                got = error.code
            after = [state.record_seq, state.hsk_read_seq, state.hsk_write_seq]
            wrong += (got, after) != (answer["result"], answer["prestate"])
        elif group["operation"] == "receive":
            previous = case["previous"] and bytes.fromhex(case["previous"])
            got = gate.receive(message, who, key, previous)
            wrong += type(got).__name__.lower() != answer["verdict"]
assert "gnutls_cookie" not in sys.modules and "cffi" not in sys.modules
print(asked, wrong)
"""
    )
    done = subprocess.run(
        [sys.executable, "-S", "run.py", FILE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    asked, wrong = map(int, done.stdout.split()) if done.returncode == 0 else (0, 1)
    assert (asked > 400, wrong) == (True, 0), done.stderr
