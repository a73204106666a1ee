"""The differential bench: it tells every planted fault apart, by a case as small as can be."""

from __future__ import annotations

import faulthandler
import json
import os
import shlex
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gnutls_cookie import differential
from gnutls_cookie.differential import (
    LIBGNUTLS,
    OPERATIONS,
    REFERENCE,
    Case,
    ExecTarget,
    PythonTarget,
    Report,
    Unusable,
    case_of_json,
    cases,
    compare,
    compare_cases,
    load,
    text,
)
from gnutls_cookie.differential.cases import BLOCK
from gnutls_cookie.reference import cookie as reference
from gnutls_cookie.reference import gate
from tests.support.common import ROOT, compiler, gnutls_flags, peer_required
from tests.support.faulty import FAULTS, target

SEED = 20


# --- the faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("what", FAULTS)
def test_planted_fault_is_told_apart(what: str) -> None:
    """Within 10,000 cases, shrunk to one in which every remaining byte matters."""
    faulty = target(FAULTS[what])
    report = compare(faulty, LIBGNUTLS, SEED, 10_000)
    assert len(report.findings) == 1
    finding = report.findings[0]
    assert finding.alone
    assert finding.case.operation == what.partition(":")[0]
    assert differs(faulty, finding.case)
    for name in "message", "key", "client_data":
        data: bytes = getattr(finding.case, name) or b""
        for place in range(len(data)):
            without = data[:place] + data[place + 1 :]
            emptied = data[:place] + b"\0" + data[place + 1 :]
            for changed in {without, emptied} - {data}:
                if name == "message":  # key and client_data go with the cookie: see shrink.py
                    smaller = finding.case._replace(message=changed)
                    assert not differs(faulty, smaller), f"byte {place} does not matter"
    assert json.loads(text(finding).splitlines()[-1]) == finding.case.as_dict()


def differs(one: PythonTarget, case: Case) -> bool:
    return bool(list(compare_cases(one, LIBGNUTLS, [case])))


def test_the_right_one_is_not_told_apart() -> None:
    """The implementation in which the faults are planted has none of its own."""
    assert compare(target(""), LIBGNUTLS, SEED, 30_000).findings == []


@pytest.mark.parametrize(
    "name", ["gnutls_cookie.reference.cookie", "gnutls_cookie.reference.gate", "gnutls_cookie",
             "gnutls_cookie:CookieGate"],
)  # fmt: skip
def test_targets_of_this_package(name: str) -> None:
    """The references, the wrapper itself and the gate: nothing differs."""
    held = load(name)
    assert ("receive" in held.operations) == ("gate" in name.lower())
    report = compare(held, LIBGNUTLS, SEED, 20_000)
    assert report.findings == []
    assert report.compared == 20_000


@pytest.mark.long
def test_reference_is_libgnutls_10000000_times() -> None:
    """The long run."""
    report = compare(REFERENCE, LIBGNUTLS, 1, 10_000_000, operations=["verify", "send"])
    print(f"{report.compared / report.seconds:.0f} a second")
    assert report.findings == []


def test_arguments_with_a_default_are_left_out() -> None:
    """A prestate of zeros and a previous key of None: what is made of none is compared too."""
    left_out: set[str] = set()

    def verify(
        key: bytes, who: bytes | None, message: bytes, prestate: reference.Prestate | None = None
    ) -> reference.Prestate | None:
        if prestate is None:
            left_out.add("prestate")
        found = reference.cookie_verify(key, who, message, prestate)
        return None if prestate is None else found  # nothing to be seen of the numbers

    def receive(
        datagram: bytes, who: bytes | None, current: bytes, previous: bytes | None = b"-"
    ) -> object:
        if previous == b"-":
            left_out.add("previous")
        return gate.receive(datagram, who, current, previous)

    one = PythonTarget("defaults", verify, receive=receive)
    asked = cases(SEED, ["verify"], 1000)
    (_, expected, answer), *_ = compare_cases(one, LIBGNUTLS, asked)
    assert (expected[0], answer[0]) == ("prestate", "wrong")
    list(compare_cases(one, LIBGNUTLS, cases(SEED, ["receive"], 1000)))
    assert left_out == {"prestate", "previous"}


def test_gate_that_answers_twice_as_long() -> None:
    """A gate's fault is found and shown like those of the functions."""

    def receive(
        datagram: bytes, client_data: bytes | None, current: bytes, previous: bytes | None
    ) -> object:
        answer = gate.receive(datagram, client_data, current, previous)
        if isinstance(answer, gate.Discarded) and answer.reason == gate.DiscardReason.TRAILING_DATA:
            return gate.receive(datagram[:-1], client_data, current, previous)
        return answer

    report = compare(PythonTarget("gate", receive=receive), LIBGNUTLS, SEED, 50_000)
    assert report.findings[0].expected == ("discarded", 11)
    assert "the gate's receive: the answers differ" in text(report.findings[0])


def test_fault_that_needs_a_history() -> None:
    """One that shows only after other calls is a finding too, and is said to be of that kind."""
    seen: list[bytes] = []

    def verify(key: bytes, client_data: bytes | None, message: bytes, prestate: object) -> object:
        seen.append(message)
        if len(seen) == 500:
            raise reference.CookieError(-1)
        return reference.cookie_verify(key, client_data, message, prestate)  # type: ignore[arg-type]

    report = compare(PythonTarget("forgetful", verify), LIBGNUTLS, SEED, 10_000)
    assert [finding.alone for finding in report.findings] == [False]
    assert "remembers what came before" in text(report.findings[0])


@pytest.mark.parametrize(
    ("fault", "kind", "how"),
    [
        ("while True: pass", "hangs", "no answer in 1 s"),
        ("os._exit(3)", "died", "exit code 3"),
        ("faulthandler.disable(); os.kill(os.getpid(), 11)", "died", "signal SIGSEGV"),
    ],
)
def test_target_that_hangs_or_dies(fault: str, kind: str, how: str) -> None:
    """A finding with its case; this process lives on."""

    def verify(key: bytes, client_data: bytes | None, message: bytes, prestate: object) -> object:
        if len(message) > 61 and message[59] == 33:
            exec(fault, {"os": os, "faulthandler": faulthandler})
        return reference.cookie_verify(key, client_data, message, prestate)  # type: ignore[arg-type]

    report = compare(PythonTarget("deadly", verify), LIBGNUTLS, SEED, 20_000, timeout=1)
    (finding,) = report.findings
    assert finding.answer == (kind, how)
    assert finding.case.message[59] == 33
    assert len(finding.case.message) <= len(finding.original.message)


# --- the cases ------------------------------------------------------------------------------------


def test_a_seed_names_its_cases() -> None:
    """The same seed gives the same cases, from any number on; another seed gives others."""
    first = list(cases(1, count=3 * BLOCK))
    assert list(cases(1, count=3 * BLOCK)) == first
    assert list(cases(1, count=10, start=BLOCK + 17)) == first[BLOCK + 17 : BLOCK + 27]
    assert list(cases(2, count=10)) != first[:10]
    assert {case.operation for case in first} == set(OPERATIONS)


def test_cases_reach_every_answer() -> None:
    """Each error, success, each length boundary on both sides, each kind of result of push."""
    seen = {LIBGNUTLS.answer(case)[:2] for case in cases(SEED, ["verify", "send"], 20_000)}
    kinds = {one[0] for one in seen}
    codes = {one[1] for one in seen if one[0] == "error"}
    assert kinds == {"prestate", "sent", "error"}
    assert codes == {-9, -50, -53, -214}
    sizes = {len(case.message) for case in cases(SEED, ["verify"], 20_000)}
    assert sizes >= {0, 12, 13, 24, 25, 58, 59, 60, 61, 62, 76, 77, 78, 79}


def test_a_case_and_its_line_of_json() -> None:
    """There and back; what is not a case is told by what is wrong with it."""
    for case in cases(SEED, count=2000):
        assert case_of_json(case.as_json()) == case
    for line in "", "[]", "{}", '{"operation": "fly", "key": ""}', '{"operation": "send"}':
        with pytest.raises(ValueError, match="not a case"):
            case_of_json(line)
    with pytest.raises(ValueError, match="prestate"):
        case_of_json('{"operation": "send", "key": "00", "prestate": [0, 0, -1]}')


@pytest.mark.parametrize("operations", [(), ("fly",)])
def test_operations_that_there_are_not(operations: tuple[str, ...]) -> None:
    """An error that names the argument."""
    with pytest.raises(ValueError, match="operations"):
        list(cases(1, operations, 1))


# --- targets of a user ----------------------------------------------------------------------------


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that becomes the module `mine` of a process that runs in its folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "mine.py"


def diff(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "gnutls_cookie", "diff", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


RIGHT = "from gnutls_cookie.reference.cookie import *\n"
WRONG = RIGHT + textwrap.dedent(
    """
    def cookie_verify(key, client_data, message, prestate=None, _real=cookie_verify):
        return _real(key, client_data, message + b"\\0", prestate)
    """
)
NEGATIVE = textwrap.dedent(
    """
    from gnutls_cookie.reference import cookie as _reference
    class State:
        def __init__(self):
            self.record_seq = self.hsk_read_seq = self.hsk_write_seq = 0
    def cookie_verify(key, client_data, message, prestate):
        try:
            _reference.cookie_verify(key, client_data, message, prestate)
        except _reference.CookieError as error:
            return error.code
        return 0
    """
)


def test_command_on_a_right_target(module: Path) -> None:
    """Exit code 0 and one line."""
    module.write_text(RIGHT)
    done = diff("mine", "--cases", "5000", "--seed", "3")
    assert (done.returncode, done.stderr) == (0, "")
    assert "5000 cases of seed 3 compared" in done.stdout
    assert "no disagreement" in done.stdout


def test_command_on_a_target_with_negative_results(module: Path) -> None:
    """An error may be a negative int, and one function is enough."""
    module.write_text(NEGATIVE)
    done = diff("mine", "--cases", "5000")
    assert done.returncode == 0, done.stdout


def test_command_on_a_wrong_target(module: Path, tmp_path: Path) -> None:
    """Exit code 1, the case in fields and in a line, JSON, XML and a corpus that finds it again."""
    module.write_text(WRONG)
    done = diff("mine", "--seed", "3", "--corpus", "found", "--junit", "report.xml")
    assert (done.returncode, done.stderr) == (1, "")
    assert "session_id length" in done.stdout
    line = next(one for one in done.stdout.splitlines() if one.startswith("{"))
    again = json.loads(diff("mine", "--case", line, "--json").stdout)
    assert again["findings"][0]["case"] == json.loads(line)
    assert again["compared"] == 1
    from_corpus = json.loads(diff("mine", "--corpus", "found", "--cases", "0", "--json").stdout)
    assert from_corpus["findings"][0]["number"] == -1
    failures = ElementTree.parse(tmp_path / "report.xml").getroot().findall("testcase/failure")
    assert len(failures) == 1
    assert line in (failures[0].text or "")
    module.write_text(RIGHT)
    assert diff("mine", "--corpus", "found", "--cases", "0").returncode == 0


@pytest.mark.parametrize(
    ("content", "arguments", "why"),
    [
        ("", ["mine"], "has neither"),
        ("", ["no_such_module"], "cannot import 'no_such_module'"),
        ("1/0", ["mine"], "ZeroDivisionError"),
        ("", ["mine:it"], "no 'it' there"),
        ("def receive(a): pass", ["mine"], "receive(datagram, client_data, current, previous)"),
        (RIGHT, ["mine", "--operation", "receive"], "answers verify, send only"),
        (RIGHT, ["mine", "--case", "{}"], "not a case"),
        (RIGHT, ["mine", "--case", '{"operation": "receive", "key": "00"}'], "does not answer"),
        (RIGHT, [], "either TARGET or --exec is needed"),
        (RIGHT, ["--exec", "/nowhere/program"], "cannot start"),
        (RIGHT, ["--exec", "true"], "exit code 0"),
        (RIGHT, ["--exec", "cat"], "operations"),
        (RIGHT, ["--exec", "sleep 60", "--timeout", "0.5"], "no answer in 0.5 s"),
    ],
)
def test_unusable_target(module: Path, content: str, arguments: list[str], why: str) -> None:
    """Exit code 2 and one line that says why."""
    module.write_text(content)
    done = diff(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert "Traceback" not in done.stderr


# --- programs in other languages ------------------------------------------------------------------


def test_program_in_javascript() -> None:
    """The example is right; with its planted fault it is told apart."""
    node = peer_required("node", "apt install nodejs")
    example = ROOT / "examples" / "cookie.js"
    assert exec_report(shlex.join([node, str(example)])).findings == []
    (finding,) = exec_report(shlex.join([node, str(example), "--wrong"])).findings
    assert finding.alone
    assert finding.expected != finding.answer


def test_program_in_c(tmp_path: Path) -> None:
    """The example in C over libgnutls itself is right; with its planted fault it is told apart."""
    program = tmp_path / "cookie"
    source = ROOT / "examples" / "cookie.c"
    command = [*compiler(), "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-o", str(program)]
    subprocess.run([*command, str(source), *gnutls_flags()], check=True)
    assert exec_report(str(program)).findings == []
    assert len(exec_report(f"{program} --wrong").findings) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        ("print('no json', flush=True)", "wrong", "not JSON"),
        ("print('{}', flush=True)", "wrong", "result"),
        ("sys.exit(4)", "died", "exit code 4"),
        ("time.sleep(60)", "hangs", "no answer in 2 s"),
    ],
)
def test_program_that_goes_wrong(answer: str, kind: str, detail: str, tmp_path: Path) -> None:
    """No answer, no sense, no end: each is a finding."""
    program = tmp_path / "program.py"
    program.write_text(
        "import json, sys, time\n"
        "for number, line in enumerate(sys.stdin):\n"
        "    if number == 0:\n"
        '        print(\'{"operations": ["verify"]}\', flush=True)\n'
        "    else:\n"
        f"        {answer}\n"
    )
    held = ExecTarget(shlex.join([sys.executable, str(program)]), timeout=2)  # it has to start, too
    try:
        report = compare(held, LIBGNUTLS, SEED, 10)
    finally:
        held.close()
    assert report.findings[0].answer[0] == kind
    assert detail in report.findings[0].answer[1]


def exec_report(command: str) -> Report:
    held = ExecTarget(command)
    try:
        return compare(held, LIBGNUTLS, SEED, 3000)
    finally:
        held.close()


def test_exec_target_is_a_program_not_a_shell() -> None:
    """Nothing is expanded."""
    with pytest.raises(Unusable, match=r"\$HOME ; true"):
        ExecTarget("echo $HOME ; true")
    with pytest.raises(Unusable, match="empty"):
        ExecTarget("")


def test_object_is_compared_beside_a_thread() -> None:
    """As under pytest-xdist, whose workers have one: a warning of the fork is no failure."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(60,))
    thread.start()
    try:
        report = compare(target(""), LIBGNUTLS, SEED, 50)
    finally:
        done.set()
        thread.join(60)
    assert (report.compared, report.findings) == (50, [])


BENCH: Any = differential  # not typed: it is given what it must not be


def test_targets_that_cannot_be_named() -> None:
    """TypeError, before anything is started."""
    with pytest.raises(TypeError, match=r"^text must be "):
        BENCH.load(None)
    with pytest.raises(TypeError, match=r"^command must be "):
        BENCH.ExecTarget(["cat"])
