"""Wrong command lines of the other commands: one line that says why, an exit code, nobody left.

Those of `serve` and `connect` stand in test_serve_options.py and test_connect.py, what is wrong
before a command is known in test_cli.py.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gnutls_cookie.cli import main
from tests.support.common import peer_required
from tests.support.serve import SECONDS

REFERENCE = "gnutls_cookie.reference.cookie"

# Exit code and what stands in the line, of each command line.
ROWS: dict[str, tuple[int, str]] = {
    "demo x": (2, "unrecognized arguments: x"),
    "demo --port 1": (2, "unrecognized arguments: --port 1"),
    "stats": (2, "required: FILE"),
    "stats /nowhere": (2, "/nowhere: No such file"),
    "stats /": (2, "/: "),
    "stats junk": (2, "junk: "),
    "stats empty": (2, "empty: "),
    "stats list.json": (2, "list.json: "),
    "stats half.json": (2, "half.json: "),
    "stats binary": (2, "binary: "),
    "stats --json junk": (2, "junk: "),
    "stats a b": (2, "unrecognized arguments: b"),
    "stats --nosuch": (2, "required: FILE"),
    "probe": (2, "required: HOST, PORT"),
    "probe localhost": (2, "required: PORT"),
    "probe localhost 0": (2, "1..65535, not '0'"),
    "probe localhost 65536": (2, "1..65535, not '65536'"),
    "probe localhost x": (2, "1..65535, not 'x'"),
    "probe '' 5684": (2, "probe: "),
    "probe a..b 5684": (2, "no name of a host has such a label"),
    "probe no.such.host.invalid 5684": (2, "probe: no.such.host.invalid: "),
    "learn no.such.host.invalid 5684": (2, "learn: no.such.host.invalid: "),
    "probe localhost 5684 more": (2, "unrecognized arguments: more"),
    "probe --rate 0 localhost 5684": (2, "--rate must be"),
    "probe --rate nan localhost 5684": (2, "--rate must be"),
    "probe --rate inf localhost 5684": (2, "--rate must be"),
    "probe --rate=-1 localhost 5684": (2, "--rate must be"),
    "probe --rate x localhost 5684": (2, "--rate: 'x' is not a number"),
    "probe --timeout 0 localhost 5684": (2, "--timeout"),
    "probe --timeout nan localhost 5684": (2, "--timeout"),
    "probe --timeout 61 localhost 5684": (2, "--timeout"),
    "probe --only nonsense localhost 5684": (2, "--only: invalid choice"),
    "probe --hurtful --harmless localhost 5684": (2, "either --hurtful or --harmless"),
    "probe --alive --every-bit localhost 5684": (2, "--alive asks for nothing else"),
    "probe --pskusername a localhost 5684": (2, "go together"),
    "probe --pskkey 00 localhost 5684": (2, "go together"),
    "probe --pskusername a --pskkey xy localhost 5684": (2, "must be hexadecimal"),
    "probe --nosuch localhost 5684": (2, "unrecognized arguments: --nosuch"),
    "diff": (2, "either TARGET or --exec"),
    "diff no_such_module": (2, "'no_such_module'"),
    "diff empty_module": (2, "'empty_module' has neither"),
    "diff empty_module:nothing": (2, "no 'nothing' there"),
    "diff raising_module": (2, "ZeroDivisionError"),
    "diff broken_module": (2, "SyntaxError"),
    "diff ''": (2, "import ''"),
    "diff :": (2, "import ''"),
    f"diff {REFERENCE} --exec true": (2, "either TARGET or --exec"),
    "diff --exec ''": (2, "the command is empty"),
    "diff --exec /nowhere/program": (2, "/nowhere/program"),
    "diff --exec false --cases 1": (2, "'false'"),
    "diff --exec true --cases 1": (2, "'true'"),
    'diff --exec "\'"': (2, "--exec"),
    f"diff --cases x {REFERENCE}": (2, "--cases: "),
    f"diff --cases=-1 {REFERENCE}": (2, "--cases: "),
    f"diff --cases 0 {REFERENCE}": (2, "nothing to compare"),
    f"diff --seed x {REFERENCE}": (2, "--seed: "),
    f"diff --seed=1_0 --cases=1 {REFERENCE}": (2, "--seed: '1_0' is not a whole number"),
    f"diff --cases={'9' * 5000} {REFERENCE}": (2, "--cases: "),
    f"diff --findings 0 {REFERENCE}": (2, "--findings: "),
    f"diff --timeout 0 {REFERENCE}": (2, "--timeout: "),
    f"diff --timeout nan {REFERENCE}": (2, "--timeout: "),
    f"diff --timeout=-1 {REFERENCE}": (2, "--timeout: "),
    f"diff --operation nonsense {REFERENCE}": (2, "--operation: invalid choice"),
    f"diff --against nonsense {REFERENCE}": (2, "--against: invalid choice"),
    f"diff --case junk {REFERENCE}": (2, "case"),
    f"diff --case '{{}}' {REFERENCE}": (2, "case"),
    f"diff --case '[]' {REFERENCE}": (2, "case"),
    f"diff --case 5 {REFERENCE}": (2, "case"),
    f"diff --replay /nowhere {REFERENCE}": (2, "/nowhere"),
    f"diff --replay /proc/self/mem {REFERENCE}": (2, "/proc/self/mem: Input/output error"),
    f"diff --replay / {REFERENCE}": (2, "/"),
    f"diff --replay junk {REFERENCE}": (2, "junk"),
    f"diff --replay empty {REFERENCE}": (2, "empty"),
    f"diff --corpus junk --cases 1 {REFERENCE}": (2, "--corpus: junk"),
    f"diff --corpus junk/folder --cases 1 {REFERENCE}": (2, "--corpus: junk/folder"),
    f"diff --corpus /proc/nowhere --cases 1 {REFERENCE}": (2, "--corpus: /proc/nowhere"),
    f"diff --junit /nowhere/x --cases 1 {REFERENCE}": (2, "/nowhere/x"),
    f"diff --junit / --cases 1 {REFERENCE}": (2, "/"),
    f"diff --nosuch {REFERENCE}": (2, "unrecognized arguments: --nosuch"),
    "diff a b": (2, "unrecognized arguments: b"),
    "diff --cases": (2, "expected one argument"),
    "stats 'a\nb'": (2, "stats: "),
    **{
        f"vectors --{words}": (2, f"--{words.split()[0]} needs TARGET or --exec")
        for words in ("known x", "lenient", "timeout 5", "timeout nan", "json", "junit x")
    },
    **{
        f"vectors {REFERENCE} --timeout={value}": (2, "timeout must be in 0.001..86400 seconds")
        for value in ("inf", "nan", "0", "-1", "1e999", "9" * 25)
    },
    # What float() and int() take, and nobody means.
    **{
        f"{words}={value}{more}": (2, f"is not a {what}")
        for words, more, what in (
            ("probe --rate", " localhost 5684", "number"),
            ("probe --timeout", " localhost 5684", "number"),
            ("learn --wait", " localhost 5684", "number"),
            (f"vectors {REFERENCE} --timeout", "", "number"),
        )
        for value in ("1_0", "\u0663", "' 5'", "'5\n'", "0x10", "''")
    },
    **{
        f"learn --walks={value} localhost 5684": (2, "walks must be in 0..1000000")
        for value in ("-1", "1_0", "\u0663", "1e3", "9" * 25)
    },
    **{
        f"learn localhost {port}": (2, "a port must be in 1..65535")
        for port in ("0", "65536", "1_0", "\u0663", "' 5'", "9" * 5000)
    },
    **{
        f"learn --wait={value} localhost 5684": (2, "--wait must be above 0 and at most 10 seconds")
        for value in ("nan", "inf", "0", "-1", "10.1")
    },
    # Files that fail as they are read, or have no end.
    "stats /proc/self/mem": (2, "/proc/self/mem: Input/output error"),
    f"vectors {REFERENCE} --file /proc/self/mem": (2, "/proc/self/mem: Input/output error"),
    f"vectors {REFERENCE} --known /proc/self/mem": (2, "/proc/self/mem: Input/output error"),
    "vectors --format c --file /proc/self/mem": (2, "/proc/self/mem: Input/output error"),
    f"vectors {REFERENCE} --file /dev/zero": (2, "/dev/zero has more than"),
    f"vectors {REFERENCE} --known /dev/zero": (2, "/dev/zero has more than"),
    f"vectors {REFERENCE} --file binary": (2, "binary: 'utf-8' codec"),
    "vectors -o /dev/full": (2, "/dev/full: No space left on device"),
    "vectors --file x": (2, "--file needs TARGET, --exec or --format c"),
    "vectors --file /nowhere --format c": (2, "/nowhere"),
    "vectors --case '{}'": (2, "case"),
    "vectors --format x": (2, "--format: invalid choice"),
    f"vectors {REFERENCE} --output x": (2, "--output goes without TARGET"),
    f"vectors {REFERENCE} --case x": (2, "--case goes without TARGET"),
    f"vectors {REFERENCE} --file ''": (2, "the name of a file is needed"),
    "xdp": (2, "required: ACTION, INTERFACE"),
    "xdp attach": (2, "required: INTERFACE"),
    "xdp nonsense lo": (2, "ACTION: invalid choice"),
    "xdp attach lo": (2, "attach needs --port"),
    "xdp attach lo --port 0": (2, "--port: a port must be in 1..65535, not '0'"),
    "xdp attach lo --port 1": (2, "attach needs --cookie-secret-file"),
    "xdp attach lo --port 1 --rotate 0": (2, "--rotate: a key's life must be in"),
    "xdp attach lo --port 1 --client-data x": (2, "--client-data: invalid choice"),
    "xdp attach lo --port 1 --mode x": (2, "--mode: invalid choice"),
    "xdp attach lo --port 1 --cookie-secret-file ''": (2, "the name of a file is needed"),
    "xdp attach lo --json": (2, "--json goes with status"),
    "xdp detach lo --port 1": (2, "--port goes with attach"),
    "xdp status lo --drop-junk": (2, "--drop-junk goes with attach"),
    "xdp status no-such-interface": (2, "there is no interface 'no-such-interface'"),
    "xdp status ''": (2, "there is no interface ''"),
    "demo '\x1b[31m'": (2, r"unrecognized arguments: \x1b[31m"),
}

RUN: dict[str, tuple[int, str]] = {
    "": (2, "a COMMAND is needed"),
    "--": (2, "a COMMAND is needed"),
    "-- /nowhere": (127, "/nowhere: there is no such program"),
    "-- no-such-program": (127, "no-such-program: there is no such program"),
    "-- ''": (127, "there is no such program"),
    "-- /": (126, "/ is a folder"),
    "-- ./junk": (126, "./junk is not executable"),
    "-- ./script": (2, "a script"),
    "-- sh": (2, "does not use libgnutls"),
    "--rotate=0 -- true": (2, "--rotate: a key's life must be in 1..2147483647 seconds"),
    "--rotate": (2, "expected one argument"),
    "--cookie-secret-file /nowhere -- gnutls-serv": (2, "/nowhere"),
    "--cookie-secret-file /proc/self/mem -- gnutls-serv": (2, ": /proc/self/mem: Input/output"),
    "--cookie-secret-file / -- gnutls-serv": (2, "Is a directory"),
    "--cookie-secret-file junk -- gnutls-serv": (2, "at least 16 bytes"),
    "--cookie-secret-file empty -- gnutls-serv": (2, "at least 16 bytes"),
    "--stats /nowhere/x -- gnutls-serv": (2, "/nowhere/x: there is no such folder"),
    "--stats / -- gnutls-serv": (2, "/: "),
    "--record /nowhere/x -- gnutls-serv": (2, "/nowhere/x: there is no such folder"),
    "--record / -- gnutls-serv": (2, "/: "),
    "--nosuch -- gnutls-serv": (2, "unrecognized arguments: --nosuch"),
}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command lines name, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name, content in {
        "junk": "junk",
        "empty": "",
        "list.json": "[1]",
        "half.json": '{"discarded":',
        "script": "#!/bin/sh\n",
        "empty_module.py": "x = 1\n",
        "raising_module.py": "1 / 0\n",
        "broken_module.py": "def\n",
    }.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    (tmp_path / "script").chmod(0o700)


@pytest.mark.parametrize("words", [words for words in ROWS if not words.startswith("diff")])
def test_wrong_command_line(words: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One line that begins with program and command, and says what is wrong."""
    code, text = ROWS[words]
    got: object
    try:
        got = main(shlex.split(words))
    except SystemExit as ended:
        got = ended.code
    said = capfd.readouterr()
    assert (got, said.out) == (code, ""), said.err
    assert re.fullmatch(rf"gnutls-cookie {words.split()[0]}: [^\n]+\n", said.err), said.err
    assert text in said.err


# What is wrong with the others is seen before anything is started.
OF_OTHER_PROGRAMS = {
    words: row
    for words, row in ROWS.items()
    if re.match(
        r"diff (--exec .*--cases|\w+_module|--replay)|diff .* --(replay|corpus|junit) ", words
    )
}
OF_OTHER_PROGRAMS |= {f"run {words}": row for words, row in RUN.items()}


@pytest.mark.parametrize("words", OF_OTHER_PROGRAMS)
def test_wrong_command_line_with_a_program(words: str) -> None:
    """The same, of commands that start another one: nothing that was started stays."""
    code, text = OF_OTHER_PROGRAMS[words]
    command, *more = shlex.split(words)
    if "gnutls-serv" in more:
        peer_required("gnutls-serv", "apt install gnutls-bin")
    child = subprocess.Popen(
        [sys.executable, "-m", "gnutls_cookie", command, *more],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = child.communicate(timeout=SECONDS)
        # Its process group has died with it: what it has started, too.
        with pytest.raises(ProcessLookupError):
            os.killpg(child.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(SECONDS)
    assert (child.returncode, out) == (code, ""), err
    assert re.fullmatch(rf"gnutls-cookie {command}: [^\n]+\n", err), err
    assert text in err
