"""The differential bench and targets that behave badly: a finding or one line, and nothing is left.

Every run has a mark in its environment, by which its processes are found, daemons too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import pytest

from gnutls_cookie.cli import main
from gnutls_cookie.differential import (
    LIBGNUTLS,
    ExecTarget,
    PythonTarget,
    case_of_json,
    cases,
    compare,
    load,
)
from gnutls_cookie.differential.cases import case_of_seed
from tests.support.common import ROOT
from tests.support.ill_behaved import CASE, MODULES, PROGRAMS, RIGHT, in_verify, program
from tests.support.run import wait_until

PUSHED_TOO_MUCH = f'{{"operation": "send", "key": "", "pushed": {2**63}}}'

AT_A_TIME = 4  # targets that behave badly
RUN_SECONDS = 100  # for one of them

MARK = "GNUTLS_COOKIE_TEST_MARK"


@dataclass
class Done:
    """What a run of the command did."""

    code: int
    out: str
    err: str
    left: list[int]


def processes(mark: str) -> list[int]:
    """Those that have a mark in their environment, and are not zombies."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def gone(mark: str, seconds: float = 20) -> list[int]:
    """The processes that are left after a while; they are ended."""
    deadline = time.monotonic() + seconds
    while (left := processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left


def started(
    folder: Path,
    *arguments: str,
    mark: str = "none",
    out: IO[bytes] | int = subprocess.PIPE,
    err: IO[bytes] | int = subprocess.PIPE,
) -> subprocess.Popen[str]:
    """The command, under way in a folder."""
    return subprocess.Popen(
        [sys.executable, "-m", "gnutls_cookie", "diff", *arguments],
        cwd=folder,
        env={**os.environ, MARK: mark},
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        text=True,
        errors="replace",
    )


def diff(folder: Path, *arguments: str) -> Done:
    """The command, from its start to its end."""
    mark = uuid.uuid4().hex
    with started(folder, *arguments, mark=mark) as process:
        try:
            out, err = process.communicate(timeout=100)
        finally:
            process.kill()
    return Done(process.returncode, out, err, gone(mark))


@pytest.fixture
def module(tmp_path: Path) -> Path:
    """A file that is the module `mine` of a run in its folder."""
    return tmp_path / "mine.py"


# --- targets that behave badly --------------------------------------------------------------------


class Runs:
    """The command on each of them, some at a time: most of their time is waited.

    Without threads: other tests of this process fork.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._todo = list(EVERY)
        self._running: dict[str, tuple[subprocess.Popen[str], str]] = {}
        self._done: dict[str, Done] = {}

    def result(self, name: str) -> Done:
        """What came of one."""
        deadline = time.monotonic() + RUN_SECONDS
        if name in self._todo:  # this one first: it may be the only test that is run
            self._todo.remove(name)
            self._todo.insert(0, name)
        while name not in self._done:
            assert time.monotonic() < deadline, f"{name} does not end"
            while self._todo and len(self._running) < AT_A_TIME:
                self._start(self._todo.pop(0))
            for one, (process, mark) in list(self._running.items()):
                if process.poll() is not None:
                    del self._running[one]
                    self._done[one] = self._end(one, process, mark)
            time.sleep(0.01)
        return self._done[name]

    def close(self) -> None:
        """End those that nobody has asked for."""
        for process, _ in self._running.values():
            process.kill()
            process.wait()

    def _path(self, name: str) -> Path:
        return self._folder / name.replace(" ", "-")

    def _start(self, name: str) -> None:
        bad, folder, mark = EVERY[name], self._path(name), uuid.uuid4().hex
        folder.mkdir()
        (folder / "mine.py").write_text(bad.code, encoding="utf-8")
        (folder / "cases.jsonl").write_text(f"{CASE}\n" * 3)
        if name.startswith("program"):
            words = ["--exec", f"{shlex.quote(sys.executable)} mine.py", "--replay", "cases.jsonl"]
        else:
            words = [bad.target, "--cases", "240"]
            if bad.exit_code != 2:
                only = "send" if "def cookie_send(key" in bad.code else "verify"
                words += ["--operation", only]
        words += ["--seed", "1", "--timeout", "1", *bad.options]
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            process = started(folder, *words, mark=mark, out=out, err=err)
        self._running[name] = (process, mark)

    def _end(self, name: str, process: subprocess.Popen[str], mark: str) -> Done:
        folder = self._path(name)
        out, err = ((folder / one).read_text("utf-8", "replace") for one in ("out", "err"))
        return Done(process.returncode, out, err, gone(mark))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Those that have been started."""
    found = Runs(tmp_path_factory.mktemp("bad"))
    yield found
    found.close()


EVERY = {f"module {name}": bad for name, bad in MODULES.items()} | {
    f"program {name}": bad for name, bad in PROGRAMS.items()
}


@pytest.mark.parametrize("name", EVERY)
def test_target_that_behaves_badly(name: str, runs: Runs) -> None:
    """The exit code, a finding or one line that says what is wrong, and no process is left."""
    bad = EVERY[name]
    done = runs.result(name)
    said = done.out + done.err
    assert done.code == bad.exit_code, said
    assert bad.says in said
    assert "Traceback" not in said
    assert done.left == []
    if bad.exit_code == 2:
        assert done.out == ""
        assert done.err.startswith("gnutls-cookie diff: ")
        assert done.err.count("\n") == 1
    if "--json" in bad.options:
        assert json.loads(done.out)["compared"] == 240


def test_there_are_enough_of_them() -> None:
    """Forty at least, of every exit code."""
    assert len(EVERY) >= 40
    assert {bad.exit_code for bad in EVERY.values()} == {0, 1, 2}


# --- a finding is not lost ------------------------------------------------------------------------

WRONG_AND_DEADLY = """
def cookie_verify(key, client_data, message, prestate):
    if len(message) > 61 and message[59]:
        if message[27:59] == bytes(32):
            {}
        prestate.record_seq = 77
        return prestate
    return right.cookie_verify(key, client_data, message, prestate)
"""


@pytest.mark.parametrize(
    ("deadly", "kind"),
    [("import ctypes; ctypes.string_at(0)", "died"), ("while True: pass", "hangs")],
)
def test_target_that_ends_while_a_case_is_made_smaller(
    module: Path, deadly: str, kind: str
) -> None:
    """The finding stays, and the crash or hang is one of its own."""
    module.write_text(RIGHT + WRONG_AND_DEADLY.format(deadly))
    done = diff(module.parent, "mine", "--seed", "1", "--timeout", "1", "--json")
    assert (done.code, done.left) == (1, [])
    first, second = json.loads(done.out)["findings"]
    assert first["answer"][:2] == ["prestate", [77, 0, 0]]
    assert first["alone"]
    assert second["answer"][0] == kind
    assert "while another finding was made smaller" in second["note"]


def test_finding_outlives_what_fails_after_it(module: Path, tmp_path: Path) -> None:
    """Corpus, XML and stdout that cannot be written: the case is printed, the exit code is 1."""
    module.write_text(in_verify("return 7"))
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gnutls_cookie", "diff", "mine", "--corpus", "/proc/self"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1
    assert "returned 7; success is 0" in done.stderr
    assert "Traceback" not in done.stderr
    assert "gnutls-cookie diff: stdout: No space left on device" in done.stderr
    assert "gnutls-cookie diff: the finding is not in the corpus: " in done.stderr


def test_reader_that_goes_away(module: Path) -> None:
    """`| head -1` gives no traceback, and the exit code is 1."""
    module.write_text(in_verify("return 7"))
    process = started(module.parent, "mine")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        err = process.stderr.read()
    assert process.wait(60) == 1
    assert err == ""


def test_closed_descriptors(module: Path) -> None:
    """Without stdin, stdout and stderr the exit code is what it is with them."""
    module.write_text(in_verify("return 7"))
    command = f"exec {sys.executable} -m gnutls_cookie diff mine --cases 100 <&- >&- 2>&-"
    done = subprocess.run(["sh", "-c", command], cwd=module.parent, timeout=60)
    assert done.returncode == 1


def test_corpus_is_written_before_a_case_is_made_smaller(module: Path, tmp_path: Path) -> None:
    """A bench that is killed then has lost nothing; one that is not leaves the small case alone."""
    module.write_text(in_verify("if len(message) > 100: return 7"))
    done = diff(tmp_path, "mine", "--seed", "1", "--corpus", "found", "--operation", "verify")
    assert done.code == 1
    (kept,) = (tmp_path / "found").iterdir()
    assert len(case_of_json(kept.read_text()).message) == 101
    assert diff(tmp_path, "mine", "--corpus", "found", "--cases", "0").code == 1
    assert [kept] == list((tmp_path / "found").iterdir())


# --- nothing is left ------------------------------------------------------------------------------

CHILDREN = in_verify(
    """
    if calls == 20:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        open("ready", "w").close()
        time.sleep(600)
    """
)
PROGRAM = program(
    """
    import subprocess
    subprocess.Popen(["sleep", "600"], start_new_session=True)
    open("ready", "w").close()
    time.sleep(600)
    """
)


@pytest.mark.parametrize("kind", ["module", "program", "wrapped program"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL, signal.SIGTERM])
def test_bench_that_is_ended(kind: str, number: signal.Signals, tmp_path: Path) -> None:
    """Neither the target nor its children are left; Ctrl-C says what was compared."""
    (tmp_path / "mine.py").write_text(CHILDREN if kind == "module" else PROGRAM)
    arguments = ["mine", "--operation", "verify"]
    if kind == "program":
        arguments = ["--exec", f"{shlex.quote(sys.executable)} mine.py"]
    elif kind == "wrapped program":
        script = tmp_path / "wrap.sh"
        script.write_text(f"#!/bin/sh\n{sys.executable} mine.py\n")
        script.chmod(0o755)
        arguments = ["--exec", "./wrap.sh"]
    (tmp_path / "report.xml").write_text("<old/>")
    mark = uuid.uuid4().hex
    arguments += ["--junit", "report.xml", "--timeout", "60", "--seed", "3"]
    with started(tmp_path, *arguments, mark=mark) as process:
        try:
            until(tmp_path / "ready")
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert gone(mark) == []
    assert "Traceback" not in out + err
    if number == signal.SIGINT:
        assert process.returncode == 130
        assert "cases of seed 3 compared" in out
        assert err == "gnutls-cookie diff: interrupted\n"
    else:
        assert process.returncode == -number
    assert error_of(tmp_path / "report.xml") != ""


def until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def error_of(path: Path) -> str:
    """The error in a JUnit file; "" where there is none."""
    found = ElementTree.parse(path).getroot().find("testcase/error")
    return "" if found is None else found.get("message", "")


def test_target_of_the_api_is_ended_with_it(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """load() and close(), and a target that nobody closes."""
    module.write_text(in_verify("if calls == 1: subprocess.Popen(['sleep', '600'])"))
    monkeypatch.syspath_prepend(module.parent)
    mark = uuid.uuid4().hex
    monkeypatch.setenv(MARK, mark)
    (case,) = cases(1, ["verify"], 1)
    target = load("mine")
    assert target.answer(case) == LIBGNUTLS.answer(case)
    wait_until(lambda: processes(mark), lambda found: len(found) >= 3)  # as they are executed
    target.close()
    assert gone(mark) == []
    other = load("mine")
    assert other.answer(case) == LIBGNUTLS.answer(case)
    del other
    assert gone(mark) == []
    assert "mine" not in sys.modules


# --- exit codes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, -1.0, math.nan, math.inf, 1e12, True, "1"])
def test_impossible_limits_of_a_target(timeout: Any) -> None:
    """A time that no target can have, and more memory than there is, are refused by their names."""
    wrong = TypeError if isinstance(timeout, (str, bool)) else ValueError
    with pytest.raises(wrong, match="timeout must be "):
        load("gnutls_cookie.reference.cookie", timeout)
    with pytest.raises(wrong, match="timeout must be "):
        ExecTarget("true", timeout)
    with pytest.raises(wrong, match="timeout must be "):
        compare(LIBGNUTLS, LIBGNUTLS, 1, 1, timeout=timeout)
    with pytest.raises(ValueError, match=r"memory must be in 0\.\."):
        load("gnutls_cookie.reference.cookie", memory=-1)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--cases", "0"], "--cases is 0"),
        (["--corpus", "nowhere", "--cases", "0"], "nowhere has no case"),
        (["--corpus", "empty", "--cases", "0"], "empty has no case"),
        (["--corpus", "gates", "--cases", "0"], "gates has no case for verify, send"),
        (["--replay", "empty.jsonl"], "empty.jsonl has no case"),
        (["--replay", "gates/one.jsonl"], "one.jsonl has no case for verify, send"),
        (["--replay", "nowhere.jsonl"], "nowhere.jsonl: No such file"),
        (["--replay", "empty"], "Is a directory"),
        (["--replay", "/dev/zero"], "not a regular file"),
        (["--corpus", "empty.jsonl"], "not a folder"),
        (["--cases", "-5"], "at least 0, not -5"),
        (["--cases", "many"], "'many' is not a whole number"),
        (["--findings", "0"], "at least 1, not 0"),
        (["--timeout", "nan"], "in 0.001..86400, not nan"),
        (["--timeout", "inf"], "in 0.001..86400, not inf"),
        (["--timeout", "0"], "in 0.001..86400, not 0"),
        (["--timeout", "-1"], "in 0.001..86400, not -1"),
        (["--memory", "-1"], "in 0..1048576, not -1"),
        (["--seed", "x"], "--seed"),
        (["--operation", "fly"], "--operation"),
        (["--against", "openssl"], "--against"),
        (["--case", ""], "not a case"),
        (["--case", "[" * 100_000], "not a case"),
        (["--case", PUSHED_TOO_MUCH], "not an ssize_t"),
        (["--junit", "nowhere/report.xml"], "No such file"),
        (["--junit", "empty"], "Is a directory"),
        (["--exec", "true"], "not both"),
    ],
)  # fmt: skip
def test_nothing_to_compare(
    module: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    why: str,
) -> None:
    """Exit code 2 and one line."""
    module.write_text(RIGHT)
    folder = module.parent
    (folder / "empty").mkdir()
    (folder / "gates").mkdir()
    (folder / "empty.jsonl").write_text("")
    gate = '{"operation": "receive", "key": "00", "client_data": "", "message": ""}\n'
    (folder / "gates" / "one.jsonl").write_text(gate)
    assert command(folder, monkeypatch, "mine", *arguments) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert why in err
    assert err.count("\n") == 1


def command(folder: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command in this process: its exit code."""
    monkeypatch.chdir(folder)
    try:
        return main(["diff", *arguments])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


@pytest.mark.parametrize(
    "arguments",
    [
        *(["--exec", one] for one in ("'", "/", "''", "/nowhere")),
        *([one] for one in ("", ":", ".", "..mine", "mine:", "mine:x..y", "mine..x", "no.such")),
    ],
)
def test_target_that_there_is_not(
    module: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    """Exit code 2 and one line."""
    module.write_text(RIGHT)
    assert command(module.parent, monkeypatch, *arguments) == 2
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)


def test_vectors_are_a_corpus(module: Path) -> None:
    """The file of vectors has cases too: all of the operations that the target has."""
    module.write_text(RIGHT)
    text = (ROOT / "gnutls_cookie" / "differential" / "vectors.json").read_text(encoding="utf-8")
    folder = module.parent / "corpus"
    folder.mkdir()
    (folder / "vectors.json").write_text(text, encoding="utf-8")
    done = diff(module.parent, "mine", "--corpus", str(folder), "--cases", "0", "--json")
    assert done.code == 0
    tests = [one for group in json.loads(text)["testGroups"] for one in group["tests"]]
    operations = [one["case"]["operation"] for one in tests]
    known = [operation for operation in operations if operation in ("verify", "send")]
    assert json.loads(done.out)["compared"] == len(known) > 200


def test_last_line_without_its_end(module: Path) -> None:
    """It counts where it is a case, and is passed over where it is half of one."""
    module.write_text(RIGHT)
    file = module.parent / "cases.jsonl"
    for text, compared in (CASE, 1), (f"{CASE}\n{CASE[:20]}", 1), (f"{CASE}\n{CASE}", 2):
        file.write_text(text)
        done = diff(module.parent, "mine", "--replay", "cases.jsonl", "--json")
        assert json.loads(done.out)["compared"] == compared


def test_report_is_never_an_old_one(module: Path) -> None:
    """A run that cannot be leaves a report with that error, not the one of before."""
    report = module.parent / "report.xml"
    module.write_text(RIGHT)
    assert diff(module.parent, "mine", "--cases", "100", "--junit", "report.xml").code == 0
    assert error_of(report) == ""
    module.write_text("1/0")
    assert diff(module.parent, "mine", "--cases", "100", "--junit", "report.xml").code == 2
    assert "ZeroDivisionError" in error_of(report)


def test_traceback_of_an_import_is_printed_if_asked_for(module: Path) -> None:
    """With --verbose."""
    module.write_text("def broken():\n    1/0\nbroken()\n")
    done = diff(module.parent, "mine", "--verbose")
    assert done.code == 2
    assert "in broken" in done.err


# --- targets that remember ------------------------------------------------------------------------


def test_sequence_that_shows_it_is_replayed(module: Path) -> None:
    """The shortest one is kept in the corpus, and as a file of --replay it shows the same."""
    module.write_text(in_verify("if len(message) == 0: keep.append(1)\nif len(keep) > 1: return 7",
                                "keep = []"))  # fmt: skip
    done = diff(module.parent, "mine", "--seed", "1", "--operation", "verify", "--corpus", "found",
                "--cases", "20000", "--json")  # fmt: skip
    assert done.code == 1
    (finding,) = json.loads(done.out)["findings"]
    assert not finding["alone"]
    assert [one["message"] for one in [*finding["before"], finding["case"]]] == ["", ""]
    (kept,) = (module.parent / "found").iterdir()
    for how in ["--replay", str(kept)], ["--corpus", "found", "--cases", "0"]:
        again = json.loads(diff(module.parent, "mine", *how, "--json").out)
        assert len(again["findings"]) == 1
        assert again["compared"] == 2
    text = diff(module.parent, "mine", "--replay", str(kept)).out
    lines = [one for one in text.splitlines() if one.startswith("{")]
    assert "\n".join(lines) + "\n" == kept.read_text()


def test_target_that_is_poisoned_by_a_case() -> None:
    """What it shows in the process that it has spoilt does not count as smaller."""
    poisoned: list[int] = []

    def verify(key: bytes, client_data: bytes | None, message: bytes, prestate: object) -> object:
        from gnutls_cookie.reference import cookie as reference

        if len(message) > 61 and message[59] == 33:
            poisoned.append(1)
        if poisoned:
            return 7
        return reference.cookie_verify(key, client_data, message, prestate)  # type: ignore[arg-type]

    report = compare(PythonTarget("poisoned", verify), LIBGNUTLS, 1, 20_000)
    (finding,) = report.findings
    assert finding.alone
    assert finding.case.message[59] == 33
    assert set(finding.case.message) == {0, 33}
    assert poisoned == []


def test_findings_are_different_ones(module: Path) -> None:
    """As many kinds as there are, and one of each, though most cases differ."""
    module.write_text(
        in_verify(
            """
            if not key: return -1
            if len(message) > 61 and message[59] > 32: return 0
            if len(message) < 60: raise ValueError(len(message))
            """
        )
    )
    done = diff(
        module.parent, "mine", "--seed", "1", "--findings", "9", "--json", "--cases", "4000"
    )
    found = json.loads(done.out)
    kinds = sorted((one["expected"][1], one["answer"][0]) for one in found["findings"])
    assert kinds == [(-50, "error"), (-9, "prestate"), (-9, "raised")]
    assert found["compared"] == 4000
    assert found["repeated"] > 100


# --- cases ----------------------------------------------------------------------------------------


def test_a_case_does_not_depend_on_what_else_a_target_can_do() -> None:
    """Seed, operation and number name it."""
    every = list(cases(5, count=3600))
    for operation in "verify", "send", "receive":
        alone = list(cases(5, [operation], 1200))
        assert [one for one in every if one.operation == operation] == alone
        assert case_of_seed(5, operation, 1199) == alone[1199]
    assert list(cases(5, ["send", "verify"], 200)) == list(cases(5, ["verify", "send"], 200))


def test_number_of_a_finding_names_its_case(module: Path) -> None:
    """For a target of one operation and for one of more."""
    module.write_text(in_verify("if len(message) == 200: return 7"))
    found = []
    for operations in ["verify"], ["send", "verify"]:
        options = [word for one in operations for word in ("--operation", one)]
        done = diff(module.parent, "mine", "--seed", "4", "--json", *options)
        (finding,) = json.loads(done.out)["findings"]
        original = case_of_seed(4, "verify", finding["number"])
        assert case_of_json(json.dumps(finding["original"])) == original
        found.append(original)
    assert found[0] == found[1]


def test_results_of_push_have_all_64_bits() -> None:
    """Both sides of every power of two, of the limits of an int and of an ssize_t."""
    found = {case.pushed for case in cases(1, ["send"], 60_000)}
    numbers = {one for one in found if one is not None}
    assert None in found
    for power in (7, 8, 15, 16, 31, 32, 33, 47, 62, 63):
        for near in (2**power - 1, -(2**power), -(2**power) + 1):
            assert near in numbers, near
    assert numbers >= {-(2**31) - 1, 2**31, 2**32 + 44, -(2**32), 2**63 - 1, -(2**63), 0, 44}
    assert all(-(2**63) <= one < 2**63 for one in numbers)
    narrowed = {(one + 2**31) % 2**32 - 2**31 for one in numbers if abs(one) > 2**32}
    assert min(narrowed) < 0 < max(narrowed)


@pytest.mark.parametrize("pushed", [44, None, 0, -1, 2**32, -(2**31) - 1])
def test_push_gives_a_number(pushed: int | None) -> None:
    """To a target in Python: the case's, or the number of bytes that it was given."""
    seen: list[object] = []

    def send(
        key: bytes, who: bytes | None, prestate: object, transport: object, push: object
    ) -> int:
        seen.append(push(transport, bytes(5)))  # type: ignore[operator]
        return 5

    case = case_of_json('{"operation": "send", "key": "00"}')._replace(pushed=pushed)
    PythonTarget("five", None, send).answer(case)
    assert seen == [5 if pushed is None else pushed]


def test_program_that_reads_nothing(tmp_path: Path) -> None:
    """A question larger than a pipe holds does not hang the bench."""
    script = tmp_path / "mine.py"
    script.write_text(program("").replace("for number", "time.sleep(600)\nfor number"))
    target = ExecTarget(shlex.join([sys.executable, str(script)]), timeout=0.5)
    case = case_of_json(CASE)._replace(message=bytes(200_000))
    try:
        report = compare(target, LIBGNUTLS, 1, 0, corpus=[case])
    finally:
        target.close()
    assert report.findings[0].answer[0] == "hangs"
    assert "no answer" in report.findings[0].answer[1] or "read" in report.findings[0].answer[1]


def test_descriptors_above_1023(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has many files open can compare as well."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 1500:
        pytest.skip("no more than 1500 descriptors are allowed")
    module.write_text(RIGHT)
    monkeypatch.syspath_prepend(module.parent)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1500, hard))
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        target = load("mine")
        assert compare(target, LIBGNUTLS, 1, 100).compared == 100
        target.close()
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_findings_are_printed_as_they_are_made(module: Path) -> None:
    """A run that goes on for another one has told of the first."""
    module.write_text(in_verify("if not key: return 7"))
    arguments = ["mine", "--seed", "1", "--findings", "2", "--cases", "1000000000"]
    with started(module.parent, *arguments) as process:
        try:
            assert process.stdout is not None
            assert "the answers differ" in process.stdout.readline()
            process.send_signal(signal.SIGINT)
            out = process.stdout.read()
            assert process.wait(60) == 130
        finally:
            process.kill()
    assert "returned 7" in out


@pytest.mark.parametrize("kind", ["module", "program"])
def test_slow_target_is_compared_as_it_answers(kind: str, tmp_path: Path) -> None:
    """Ctrl-C counts what was answered, however long the rest of a batch takes."""
    late = "if {}: open('ready', 'w').close()\nif {}: time.sleep(0.1)\n"
    if kind == "module":
        code = in_verify(late.format("calls == 60", "calls > 40"))
        arguments = ["mine", "--operation", "verify"]
    else:
        code = "from gnutls_cookie.reference import cookie\n" + program(
            late.format("number == 60", "number > 40") + ANSWER
        )
        arguments = ["--exec", f"{shlex.quote(sys.executable)} mine.py"]
    (tmp_path / "mine.py").write_text(code)
    with started(tmp_path, *arguments, "--seed", "1", "--json") as process:
        try:
            until(tmp_path / "ready")
            time.sleep(1)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (130, "gnutls-cookie diff: interrupted\n")
    assert json.loads(out)["compared"] >= 50


ANSWER = """
given = cookie.Prestate(*question["prestate"])
try:
    data = bytes.fromhex(question["client_data"] or "")
    message = bytes.fromhex(question["message"])
    cookie.cookie_verify(bytes.fromhex(question["key"]), data, message, given)
    code = 0
except cookie.CookieError as error:
    code = error.code
after = [given.record_seq, given.hsk_read_seq, given.hsk_write_seq]
say(json.dumps({"result": code, "prestate": after}))
"""
