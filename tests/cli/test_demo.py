"""`python -m gnutls_cookie demo`: each step in order, and the right exit code."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import gnutls_cli, openssl

pytestmark = pytest.mark.peer

COMMAND = [sys.executable, "-m", "gnutls_cookie", "demo"]
CLIENTS = ["our own client", "openssl s_client", "gnutls-cli"]
STEPS = [
    r"ClientHello .* no cookie",
    r"HelloVerifyRequest +44 bytes +cookie ([0-9a-f]{32})",
    r"ClientHello .* cookie ([0-9a-f]{32})",
    r"verified .*Prestate\(record_seq=1, hsk_read_seq=1, hsk_write_seq=0\)",
    r"handshake .*DTLS1\.2",
    r"echo .*hello, cookie",
    r"closed .*close_notify",
    r"served",
]


def demo(path: str | None = None) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **({} if path is None else {"PATH": path})}
    return subprocess.run(COMMAND, capture_output=True, text=True, timeout=120, env=env)


def test_every_client_is_shown_every_step_in_order() -> None:
    """Our client, openssl s_client and gnutls-cli; each returns the cookie that it was sent."""
    openssl()
    gnutls_cli()
    done = demo()
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "\033" not in done.stdout
    parts = done.stdout.split("\nClient: ")[1:]
    assert [part.splitlines()[0] for part in parts] == CLIENTS
    for part in parts:
        lines = part.splitlines()[1:]
        found = [re.search(step, line) for step, line in zip(STEPS, lines, strict=False)]
        assert all(found), part
        assert found[1] is not None
        assert found[2] is not None
        assert found[1][1] == found[2][1]


def test_demo_is_coloured_on_a_terminal_only() -> None:
    """On a pty, with and without NO_COLOR."""
    plain = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    for env, coloured in ({}, True), ({"NO_COLOR": "1"}, False):
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
            while chunk := os.read(main, 65536):
                said += chunk
        except OSError:  # how Linux reports that the other end is closed
            pass
        finally:
            os.close(main)
            process.wait(timeout=120)
        assert (b"\033[" in said) == coloured


def test_missing_client_is_reported_and_fails(tmp_path: Path) -> None:
    """With openssl alone on PATH, gnutls-cli is named, and the exit code is 1."""
    (tmp_path / "openssl").symlink_to(openssl())
    done = demo(str(tmp_path))
    assert done.returncode == 1
    assert "gnutls-cli is not installed" in done.stdout
    assert "Not served: gnutls-cli" in done.stdout
    assert done.stdout.count("  served") == 2
    assert "Traceback" not in done.stderr
