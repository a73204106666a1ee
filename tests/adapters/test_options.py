"""Options that are passed on are typed: mypy finds a misspelt one, and Python names it."""

from __future__ import annotations

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import Client, PSKCredentials, Server, aio, blocking
from gnutls_cookie.options import ClientOptions, ServerOptions
from tests.support.common import ROOT

SECRET = PSKCredentials("sensor-1", b"0123456789abcdef")
CALLS: dict[str, Callable[..., Any]] = {
    "aio.start_server": aio.start_server,
    "aio.connect": aio.connect,
    "blocking.serve": blocking.serve,
    "blocking.connect": blocking.connect,
}


@pytest.mark.parametrize("name", CALLS)
def test_misspelt_option_is_a_type_error_that_names_it(name: str) -> None:
    """Before a name is resolved or a socket made."""
    handler: list[Any] = [] if name.endswith("connect") else [print]
    options: dict[str, Any] = {"credentials": SECRET, "hanshake_timeout": 1.0}

    def call() -> None:
        called = CALLS[name](*handler, "no.such.name.invalid", 5684, **options)
        if inspect.iscoroutine(called):
            called.send(None)

    with pytest.raises(TypeError, match="has no option 'hanshake_timeout'"):
        call()


@pytest.mark.parametrize(
    ("options", "kind"),
    [(ClientOptions, Client), (ServerOptions, Server)],
    ids=["client", "server"],
)
def test_options_are_those_of_the_class(options: type, kind: type) -> None:
    """All that Server takes; of Client all that connect() does not say itself."""
    taken = set(inspect.signature(kind).parameters) - {"credentials", "server_name", "address"}
    if kind is Client:
        taken -= {"max_queue", "max_queue_bytes"}
    assert set(options.__annotations__) == taken


PROGRAM = """
from gnutls_cookie import PSKCredentials, aio, blocking

SECRET = PSKCredentials("sensor-1", b"0123456789abcdef")

async def main() -> None:
    async def handler(connection: aio.Connection) -> None: ...
    await aio.start_server(handler, "::1", credentials=SECRET, max_sessions=1, mtu=None)
    await aio.connect("::1", 1, credentials=SECRET, handshake_timeout=1.0)

def run() -> None:
    blocking.serve(print, "::1", credentials=SECRET, idle_timeout=2)
    blocking.connect("::1", 1, credentials=SECRET, verify_peer=None)
"""


@pytest.mark.slow
def test_misspelt_option_is_an_error_of_mypy(tmp_path: Path) -> None:
    """mypy --strict takes the program as it is, and names what is wrong in it otherwise."""
    pytest.importorskip("mypy")
    right, wrong = tmp_path / "right.py", tmp_path / "wrong.py"
    right.write_text(PROGRAM, encoding="utf-8")
    changed = PROGRAM
    for name in ("max_sessions", "handshake_timeout", "idle_timeout", "verify_peer"):
        changed = changed.replace(f"{name}=", f"{name}s=")
    wrong.write_text(changed.replace("mtu=None", "mtu='large'"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", right, wrong],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=300,
    )
    found = done.stdout.splitlines()
    assert not [line for line in found if not line.startswith("wrong.py")], done.stdout
    for name in ("max_sessionss", "handshake_timeouts", "idle_timeouts", "verify_peers", "mtu"):
        assert sum(f'"{name}"' in line for line in found if ": error:" in line) == 1, done.stdout


def test_what_is_called_is_checked_before_anything_is_bound() -> None:
    """Not at the first client."""
    wrong: Any = None
    with pytest.raises(TypeError, match=r"\bhandler\b"):
        blocking.serve(wrong, "127.0.0.1", credentials=SECRET)
    with pytest.raises(TypeError, match=r"\bhandler\b"):
        asyncio.run(aio.start_server(wrong, "127.0.0.1", credentials=SECRET))
    never: Any = 5
    with pytest.raises(TypeError, match=r"\bstop\b"):
        blocking.serve(print, "127.0.0.1", credentials=SECRET, stop=never)
    with pytest.raises(TypeError, match="started must be callable, not int"):
        blocking.serve(print, "127.0.0.1", credentials=SECRET, started=never)
