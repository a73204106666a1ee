"""The vectors: recorded answers of libgnutls, which hold for the one in use, and run on any target.

`gnutls-cookie vectors -o gnutls_cookie/differential/vectors.json` makes the file, and adds the
version in use to those that it names. After a change of the set it names that version alone until
the others are asked again, each on a machine that has it.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from gnutls_cookie import DiscardReason, library_version
from gnutls_cookie.cli import main
from gnutls_cookie.differential import LIBGNUTLS, REFERENCE, Target, notes
from gnutls_cookie.differential.cases import VECTOR_OPERATIONS
from gnutls_cookie.differential.datagrams import CLIENTS
from gnutls_cookie.differential.vector_file import FILE, SCHEMA, answer, document, read
from gnutls_cookie.differential.vectors import vectors
from tests.support.common import ROOT, compiler, gnutls_flags, peer_required
from tests.support.faulty import FAULTS, target
from tests.support.run import wait_until

TESTS = read()
RECORDED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
RIGHT = "gnutls_cookie.reference.cookie"


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `gnutls-cookie vectors`."""
    return subprocess.run(
        [sys.executable, "-m", "gnutls_cookie", "vectors", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


# --- the file -------------------------------------------------------------------------------------


def test_answers_of_3_7_and_of_3_8_are_kept() -> None:
    """Those of Debian 11, 12 and 13."""
    versions = RECORDED["libgnutls"]
    assert {"3.7", "3.8"} <= {version[:3] for version in versions}
    assert len(set(versions)) == len(versions)


@pytest.mark.parametrize("one", [LIBGNUTLS, REFERENCE], ids=["libgnutls", "reference"])
def test_recorded_answers_hold(one: Target) -> None:
    """Of the libgnutls in use, whatever its version, and of the reference."""
    recorded = {row["tcId"]: row["answer"] for row in rows()}
    wrong = [
        test.name
        for test in TESTS
        if test.case.pushed is None or abs(test.case.pushed) <= sys.maxsize
        if answer(one, test.case) != recorded[test.number]
    ]
    assert wrong == []


def rows() -> list[dict[str, Any]]:
    return [row for group in RECORDED["testGroups"] for row in group["tests"]]


def test_the_file_is_made_by_its_command_byte_by_byte(tmp_path: Path) -> None:
    """The version in use is added where it is missing, and nothing else changes."""
    made = tmp_path / "vectors.json"
    made.write_bytes(FILE.read_bytes())
    assert main(["vectors", "-o", str(made)]) == 0
    written = json.loads(made.read_text(encoding="utf-8"))
    versions = {*RECORDED["libgnutls"], library_version()}
    assert written["libgnutls"] == sorted(
        versions, key=lambda one: [int(n) for n in one.split(".")]
    )
    if library_version() in RECORDED["libgnutls"]:
        assert made.read_bytes() == FILE.read_bytes()
    assert written["testGroups"] == RECORDED["testGroups"]
    assert written["notes"] == RECORDED["notes"]


def test_versions_of_other_answers_are_not_kept() -> None:
    """A file whose answers differ says nothing of the versions that it named; a tcId stays."""
    former = json.loads(document()) | {"libgnutls": ["3.0.0"]}
    assert "3.0.0" in json.loads(document(json.dumps(former)))["libgnutls"]
    first = former["testGroups"][0]["tests"][0]
    first["answer"], first["tcId"] = {"result": 1}, 9999
    found = json.loads(document(json.dumps(former)))
    assert found["libgnutls"] == [library_version()]
    assert found["testGroups"][0]["tests"][0]["tcId"] == 9999


def test_the_file_is_of_its_schema(tmp_path: Path) -> None:
    """check-jsonschema takes it, and refuses one with a fault in it."""
    pytest.importorskip("check_jsonschema", reason="pip install check-jsonschema")
    check = [sys.executable, "-m", "check_jsonschema", "--schemafile", str(SCHEMA)]
    wrong = tmp_path / "wrong.json"
    changed = json.loads(FILE.read_text(encoding="utf-8"))
    changed["testGroups"][0]["tests"][0]["result"] = "maybe"
    wrong.write_text(json.dumps(changed), encoding="utf-8")
    for path, code in (FILE, 0), (wrong, 1):
        done = subprocess.run([*check, str(path)], capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stdout + done.stderr


def test_every_flag_has_a_note_and_every_number_is_its_own() -> None:
    """Each note of a quirk names its section; an acceptable vector is of one that may differ."""
    used = {flag for test in TESTS for flag in test.flags}
    assert used == set(RECORDED["notes"])
    assert RECORDED["numberOfTests"] == len(TESTS)
    assert len({test.number for test in TESTS}) == len({test.name for test in TESTS}) == len(TESTS)
    quirks = {note.flag: note for note in notes.notes()}
    for name, note in RECORDED["notes"].items():
        assert note["title"]
        assert note["description"]
        assert name == "Normal" or note["quirk"] == quirks[name].number
    assert {test.result for test in TESTS} == {"valid", "invalid", "acceptable"}
    assert all(quirks[test.flags[0]].acceptable for test in TESTS if test.result == "acceptable")


def test_the_set_has_every_answer() -> None:
    """Each error code, each verdict, each reason, both keys, and each client."""
    answers = [row["answer"] for row in rows()]
    assert {test.case.operation for test in TESTS} == set(VECTOR_OPERATIONS)
    results = {one["result"] for one in answers if "result" in one}
    assert {0, 1, 5, 43, 44, 2**31 - 1, -9, -50, -53, -214} <= results
    reasons = {one["reason"] for one in answers if "reason" in one}
    assert reasons == set(DiscardReason) - {DiscardReason.INTERNAL}  # which no datagram brings
    assert {one["key_age"] for one in answers if "key_age" in one} == {0, 1}
    presented = {one["presented_cookie"] for one in answers if "presented_cookie" in one}
    assert presented == {False, True}
    verdicts = {one["verdict"] for one in answers if "verdict" in one}
    assert verdicts == {"challenge", "verified", "discarded", "hello", "ignored", "failed"}
    assert all(any(client in test.name for test in TESTS) for client in CLIENTS)
    assert {-(2**63), -(2**32), -(2**31) - 1, 2**63 - 1} <= {test.case.pushed for test in TESTS}


def test_the_former_name_of_the_command_prints_the_file() -> None:
    """`python -m gnutls_cookie.differential.vectors`."""
    done = subprocess.run(
        [sys.executable, "-m", "gnutls_cookie.differential.vectors"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["testGroups"] == RECORDED["testGroups"]


# --- run on a target ------------------------------------------------------------------------------


@pytest.mark.parametrize("what", FAULTS)
def test_the_set_tells_every_planted_fault_apart(what: str) -> None:
    """Without a single case of chance: a vector shows each."""
    operation, _, _ = what.partition(":")
    faulty = target(FAULTS[what])
    asked = [one.case for one in vectors() if one.case.operation == operation]
    assert any(faulty.answer(case) != LIBGNUTLS.answer(case) for case in asked)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        (RIGHT, ["verify", "send"]),
        ("gnutls_cookie.reference.gate", ["verify", "send", "receive"]),
        ("gnutls_cookie.reference.client", ["client"]),
        ("gnutls_cookie:CookieGate", ["receive"]),
    ],
)
def test_right_targets(name: str, asked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0; what a target does not do is not asked."""
    assert main(["vectors", name, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["findings"] == []
    assert found["compared"] + found["not_asked"] == len(TESTS)
    assert found["compared"] <= sum(test.case.operation in asked for test in TESTS)
    assert found["compared"] > 60


STRICT = """
from gnutls_cookie.reference import cookie as real
def cookie_verify(key, client_data, message, prestate):
    if key and message[:1] not in (b"", b"\\x16"):
        raise real.CookieError(-9)
    return real.cookie_verify(key, client_data, message, prestate)
"""


@pytest.fixture
def strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module `strict`, which looks at the content type, and the folder it is in."""
    (tmp_path / "strict.py").write_text(STRICT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def differing(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code = main(["vectors", "strict", "--json", *map(str, arguments)])
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, found


def test_a_difference_is_shown_with_its_vector(
    strict: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Number, name, flag and reason, the case field by field, and in XML."""
    assert main(["vectors", "strict", "--junit", "report.xml"]) == 1
    printed = capsys.readouterr().out
    assert "verify: content type 23 (FixedOffsets): not looked at" in printed
    assert "expected" in printed
    assert "record header" in printed
    failures = ElementTree.parse(strict / "report.xml").getroot().findall("testcase/failure")
    assert len(failures) > 10
    assert printed.count("verify: the answers differ") == 10
    for failure in failures:  # of the others there is a line each
        assert str(failure.text).splitlines()[1] in printed


def report_error(folder: Path) -> str:
    found = ElementTree.parse(folder / "report.xml").getroot().find("testcase/error")
    return "" if found is None else str(found.get("message"))


def test_report_is_never_an_old_one(strict: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that cannot be leaves a report with that error, not the one of before."""
    assert main(["vectors", "strict", "--junit", "report.xml"]) == 1
    assert report_error(strict) == ""
    (strict / "strict.py").write_text("1 / 0")
    assert main(["vectors", "strict", "--junit", "report.xml"]) == 2
    assert "ZeroDivisionError" in report_error(strict)
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_target_that_hangs_ends_the_run(strict: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five times, or hundreds of vectors would take an hour; what was found is told."""
    (strict / "strict.py").write_text(STRICT.replace("if key", "while key: pass\n    if key"))
    words = ["vectors", "strict", "--timeout", "0.3", "--junit", "report.xml"]
    assert main(words) == 1
    said = capsys.readouterr()
    assert "5 answered otherwise" in said.out
    assert "it has hung 5 times" in said.err
    assert "it has hung 5 times" in report_error(strict)


def test_what_was_found_is_told_where_the_target_does_not_start_again(
    strict: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It dies of the first record that is not a handshake's, and then its import fails."""
    died = "open('dead', 'w'), __import__('os')._exit(3)"
    again = "assert not __import__('os').path.exists('dead')\n"
    (strict / "strict.py").write_text(again + STRICT.replace("raise real.CookieError(-9)", died))
    assert main(["vectors", "strict", "--junit", "report.xml"]) == 1
    said = capsys.readouterr()
    assert "1 answered otherwise" in said.out
    assert "AssertionError" in said.err
    assert "AssertionError" in report_error(strict)


def test_ctrl_c_tells_what_was_found(strict: Path) -> None:
    """And ends the process by the signal, as it ends others."""
    waits = "wrong = iter((1,) * 5)\ndef wait(): open('seen', 'w'); __import__('time').sleep(100)\n"
    sixth = "next(wrong, 0) or wait()\n        raise"
    (strict / "strict.py").write_text(waits + STRICT.replace("raise", sixth))
    words = [sys.executable, "-m", "gnutls_cookie", "vectors", "strict", "--timeout", "60"]
    words += ["--junit", "report.xml"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until((strict / "seen").exists, bool)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "the answers differ" in out
    assert re.search(r"\b[1-5] answered otherwise", out)
    assert report_error(strict) == "interrupted"


def test_known_differences_are_accepted_with_their_reasons(
    strict: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By number, name or flag; one that is not seen is told; what is left is a difference."""
    code, found = differing(capsys)
    assert code == 1
    numbers = [one["note"].split(",")[0].removeprefix("vector ") for one in found["findings"]]
    known = strict / "known.json"
    entries: list[dict[str, object]] = [
        {"tcId": int(number), "reason": "hellos only"} for number in numbers
    ]
    entries.append({"name": "send: zeros", "reason": "never seen"})
    known.write_text(json.dumps({"known": entries}))
    code, found = differing(capsys, "--known", known)
    assert (code, found["findings"]) == (0, [])
    assert {str(one["tcId"]) for one in found["known"]} == set(numbers)
    assert found["unused"] == [{"name": "send: zeros", "reason": "never seen"}]
    known.write_text(json.dumps({"known": [{"flag": "FixedOffsets", "reason": "strict"}]}))
    code, found = differing(capsys, "--known", known)
    assert code == 1
    assert found["known"]


def test_lenient_takes_either_answer_to_an_acceptable_vector(
    strict: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others count still."""
    _, all_of_them = differing(capsys)
    code, found = differing(capsys, "--lenient")
    acceptable = {test.name for test in TESTS if test.result == "acceptable"}
    assert code == 1
    assert 0 < len(found["findings"]) < len(all_of_them["findings"])
    assert {one["name"] for one in found["known"]} <= acceptable


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", 'has to be {"known"'),
        ("{}", 'has to be {"known"'),
        ('{"known": [{"tcId": 1}]}', "reason"),
        ('{"known": [{"tcId": 1, "reason": " "}]}', "reason"),
        ('{"known": [{"reason": "x"}]}', "needs one of"),
        ('{"known": [{"name": "nobody", "reason": "x"}]}', "names no vector"),
        ("nothing", "known differences"),
    ],
)
def test_bad_list_of_known_differences(
    content: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that names the file, and exit code 2."""
    known = tmp_path / "known.json"
    known.write_text(content)
    assert main(["vectors", RIGHT, "--known", str(known)]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert "known.json" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["no_such_module"], "cannot import"),
        (["--exec", "/nowhere"], "cannot start"),
        ([RIGHT, "--exec", "true"], "not both"),
        ([RIGHT, "--file", "/nowhere"], "No such file"),
        ([RIGHT, "--file", "/dev/null"], "Expecting value"),
        (["./mine.py"], "name the module, as in `import mine`"),
        (["--case", "{}"], "not a case: it has no 'operation'"),
    ],
)
def test_what_cannot_be_asked(
    arguments: Sequence[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and one line."""
    assert main(["vectors", *arguments]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


def test_case_answers_one(capsys: pytest.CaptureFixture[str]) -> None:
    """--case prints the answer to a case, as a line that a program would give."""
    (case,) = [one.case for one in vectors() if one.name == "verify: a good cookie"]
    assert main(["vectors", "--case", case.as_json()]) == 0
    assert json.loads(capsys.readouterr().out) == {"result": 0, "prestate": [1, 1, 0]}


# --- in other languages ---------------------------------------------------------------------------


def test_table_in_c_passes_against_libgnutls(tmp_path: Path) -> None:
    """It compiles without a warning, pedantic too; with one answer changed it fails."""
    header = tmp_path / "dtls-cookie-vectors.h"
    assert main(["vectors", "--format", "c", "-o", str(header)]) == 0
    program = tmp_path / "vectors"
    build = [
        *compiler(), "-std=c11", "-D_DEFAULT_SOURCE", "-pedantic", "-Wall", "-Wextra",
        "-Wconversion", "-Werror", "-I", str(tmp_path), "-o", str(program),
        str(ROOT / "examples" / "vectors.c"), *gnutls_flags(),
    ]  # fmt: skip
    subprocess.run(build, check=True, timeout=120)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60)
    asked = sum(test.case.operation in ("verify", "send") for test in TESTS)
    assert (done.returncode, done.stdout) == (
        0,
        f"libgnutls {library_version()}: {asked} vectors, 0 answered otherwise, 0 left out\n",
    )
    header.write_text(header.read_text().replace(" -214, ", " -9, ", 1))
    subprocess.run(build, check=True, timeout=120)
    assert subprocess.run([program], capture_output=True, timeout=60).returncode == 1


def test_consumer_in_javascript(tmp_path: Path) -> None:
    """It reads the file itself, and its own functions pass."""
    node = peer_required("node", "apt install nodejs")
    done = subprocess.run(
        [node, ROOT / "examples" / "vectors.js", FILE], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
    assert ", 0 answered otherwise" in done.stdout


def test_consumer_in_rust(tmp_path: Path) -> None:
    """It reads the file itself; right, it passes, and with its planted fault it does not."""
    program = rust_program(tmp_path)
    done = subprocess.run([program, FILE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
    assert ", 0 answered otherwise" in done.stdout
    done = subprocess.run([program, FILE, "--wrong"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1


def rust_program(folder: Path) -> Path:
    if shutil.which("rustc") is None:
        pytest.skip("apt install rustc")
    program = folder / "cookie"
    source = ROOT / "examples" / "cookie.rs"
    build = ["rustc", "-O", "-D", "warnings", "-o", str(program), str(source)]
    subprocess.run(build, check=True, timeout=300)
    return program


def test_vectors_run_on_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JavaScript's example is right, and with its planted fault it is not."""
    node = peer_required("node", "apt install nodejs")
    example = shlex.join([node, str(ROOT / "examples" / "cookie.js")])
    assert main(["vectors", "--exec", example]) == 0
    assert main(["vectors", "--exec", f"{example} --wrong"]) == 1
    assert "EndsWithCookie" in capsys.readouterr().out


def test_program_of_the_client_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The client's reading is asked of programs too; one that takes 33 bytes is told apart."""
    program = tmp_path / "client.py"
    program.write_text(
        textwrap.dedent(
            """
            import json, sys
            from gnutls_cookie.reference import client
            client.COOKIE_SIZE_MAX = int(sys.argv[1])
            for line in sys.stdin:
                asked = json.loads(line)
                if asked["operation"] == "hello":
                    answer = {"operations": ["client"]}
                else:
                    try:
                        cookie = client.client_receive(bytes.fromhex(asked["message"]))
                        answer = {"verdict": "ignored"}
                        if cookie is not None:
                            answer = {"verdict": "hello", "cookie": cookie.hex()}
                    except client.CookieError as error:
                        answer = {"verdict": "failed", "code": error.code}
                print(json.dumps(answer), flush=True)
            """
        )
    )
    run = shlex.join([sys.executable, str(program)])
    assert main(["vectors", "--exec", f"{run} 32"]) == 0
    assert main(["vectors", "--exec", f"{run} 33"]) == 1
    assert "CookieOver32" in capsys.readouterr().out
