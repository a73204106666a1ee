"""`python -m gnutls_cookie demo`: each step in order, and the right exit code."""

from __future__ import annotations

import argparse
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gnutls_cookie.cli.demo import flood, restart
from gnutls_cookie.cli.demo.command import run
from tests.support.common import gnutls_cli, openssl

pytestmark = pytest.mark.peer

COMMAND = [sys.executable, "-m", "gnutls_cookie", "demo"]
CLIENTS = ["our own client", "openssl s_client", "gnutls-cli"]
STEPS = [
    r"ClientHello .* no cookie",
    r"HelloVerifyRequest +44 bytes  message_seq 0, cookie ([0-9a-f]{32})",
    r"ClientHello .* cookie ([0-9a-f]{32})",
    r"verified .*Prestate\(record_seq=1, hsk_read_seq=1, hsk_write_seq=0\)",
    r"handshake .*DTLS1\.2",
    r"echo .*hello, cookie",
    r"closed .*close_notify",
    r"served",
]


def demo() -> subprocess.CompletedProcess[str]:
    return subprocess.run(COMMAND, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def shown() -> str:
    openssl()
    gnutls_cli()
    done = demo()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


def test_every_client_is_shown_every_step_in_order(shown: str) -> None:
    """Our client, openssl s_client and gnutls-cli; each returns the cookie that it was sent."""
    assert "\033" not in shown
    assert "\r" not in shown
    parts = shown.partition("\n2. ")[0].split("\nClient: ")[1:]
    assert [part.splitlines()[0] for part in parts] == CLIENTS
    for part in parts:
        lines = part.splitlines()[1:]
        found = [re.search(step, line) for step, line in zip(STEPS, lines, strict=False)]
        assert all(found), part
        assert found[1] is not None
        assert found[2] is not None
        assert found[1][1] == found[2][1]


def test_changed_key_is_shown_with_the_gate_and_without(shown: str) -> None:
    """The gate numbers its second answer as the hello that it answers; the recipe does not."""
    gate, recipe = shown.partition("\n2. ")[2].partition("\n3. ")[0].split("\nWith the ")[1:]

    def numbers(text: str) -> list[int]:
        return [int(one) for one in re.findall(r"HelloVerifyRequest .*message_seq (\d+)", text)]

    assert numbers(gate) == [0, 1]
    assert "  served" in gate
    assert len(numbers(recipe)) > 2
    assert set(numbers(recipe)) == {0}
    assert "  stalled" in recipe
    assert "handshake  " not in recipe


def test_flood_is_counted_and_clients_are_served(shown: str) -> None:
    """One line of counters."""
    lines = shown.partition("\n3. ")[2].splitlines()
    found = re.match(r" +([\d,]+) strangers challenged +(\d+) clients served", lines[1])
    assert found is not None
    assert int(found[1].replace(",", "")) >= 1000
    assert int(found[2]) >= 1
    assert len([line for line in lines if "strangers challenged" in line]) == 1


def on_terminal(env: dict[str, str], until: bytes) -> bytes:
    """What the demo says there, as far as `until`."""
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    try:
        main, child = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here: {error}")
    process = subprocess.Popen(
        COMMAND, stdout=child, stderr=child, env={**plain, **env}, close_fds=True
    )
    os.close(child)
    said = b""
    try:
        while until not in said and (chunk := os.read(main, 65536)):
            said += chunk
    except OSError:  # how Linux reports that the other end is closed
        pass
    finally:
        process.terminate()
        os.close(main)
        process.wait(timeout=120)
    return said


def test_on_a_terminal_it_is_coloured_and_counts_live() -> None:
    """The line of counters is written over; NO_COLOR and a dumb terminal have no colours."""
    said = on_terminal({"TERM": "xterm"}, b"were challenged, verified")
    assert b"\033[1m1. The DTLS cookie exchange" in said
    assert said.count(b"\r\033[2K") > 1
    assert said.count(b"strangers challenged") > 2
    for plain in {"NO_COLOR": "1"}, {"TERM": "dumb"}:
        assert b"\033" not in on_terminal(plain, b"echo")


@pytest.mark.parametrize(("installed", "code"), [([], 0), (["openssl"], 1)])
def test_client_that_is_not_installed_is_left_out_and_one_that_fails_is_not(
    installed: list[str],
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the package alone the demo goes on with our client; a client's exit code 1 is ours."""
    for name in installed:
        (tmp_path / name).write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    for act in restart, flood:  # they have no client but ours
        monkeypatch.setattr(act, "show", lambda credentials: None)
    assert run(argparse.Namespace()) == code
    said = capsys.readouterr().out
    assert said.count("  served") == 1
    assert "  left out: gnutls-cli is not installed: apt install gnutls-bin" in said
    if installed:
        assert "openssl failed, exit code 1" in said
        assert said.endswith("\nNot served: openssl s_client\n")
    else:
        assert said.endswith("served. Left out: openssl s_client, gnutls-cli.\n")
