"""The types that a user sees: mypy --strict passes what is right and refuses what is wrong."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gnutls_cookie
from tests.support.common import ROOT, missing

PROGRAM = ROOT / "tests" / "house" / "user_program.py"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all runs, and none that others write to."""
    return tmp_path_factory.mktemp("mypy")


def mypy(program: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    """mypy --strict on one file, with the package of this checkout."""
    if importlib.util.find_spec("mypy") is None:
        missing("mypy is not installed: pip install 'gnutls-cookie[check]'")
    options = ["--strict", "--follow-imports=silent", f"--cache-dir={cache}", "--no-color-output"]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *options, str(program)],
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )


def names_used(program: Path) -> set[str]:
    """What the program imports from gnutls_cookie and uses after that."""
    tree = ast.parse(program.read_text(encoding="utf-8"))
    imported = {
        name.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "gnutls_cookie"
        for name in node.names
    }
    return imported & {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def test_program_uses_every_public_name() -> None:
    """Whatever is in __all__ has a line in tests/house/user_program.py, whose header says how."""
    assert sorted(set(gnutls_cookie.__all__) - names_used(PROGRAM)) == []


def test_every_public_name_is_there() -> None:
    """__all__ names nothing twice and nothing that is not there."""
    assert len(set(gnutls_cookie.__all__)) == len(gnutls_cookie.__all__)
    assert [name for name in gnutls_cookie.__all__ if not hasattr(gnutls_cookie, name)] == []


def test_package_is_marked_as_typed() -> None:
    """py.typed (PEP 561) and the types of the compiled module lie beside it."""
    for name in ("py.typed", "_ffi.pyi"):
        assert (Path(gnutls_cookie.__file__).parent / name).exists()


def test_program_runs() -> None:
    """What is checked is also true."""
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "every public name was used\n"


def test_mypy_passes_the_program(cache: Path) -> None:
    """mypy --strict on a user's program that uses every public name."""
    done = mypy(PROGRAM, cache)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Success" in done.stdout


WRONG = """
from gnutls_cookie import (
    Challenge, CookieGate, Discarded, GnuTLSError, Prestate, Verified, client_data, cookie_send,
    cookie_verify, generate_key, prestate_set,
)

def push(transport: int, data: bytes) -> int:
    return transport + len(data)

def later(transport: int, data: bytes) -> str:
    return ""

key = generate_key()
cookie_send(key, b"", Prestate(), 5, push)
cookie_send(key, b"", Prestate(), "five", push)  # wrong
cookie_send(key, b"", Prestate(), 5, later)  # wrong
cookie_send("key", b"", Prestate(), 5, push)  # wrong
cookie_send(None, b"", Prestate(), 5, push)  # wrong
cookie_send(key, b"", None, 5, push)  # wrong
cookie_verify(key, None, "message")  # wrong
cookie_verify(key, None, None)  # wrong
number: str = cookie_verify(key, None, b"").record_seq  # wrong
Prestate("1")  # wrong
Prestate(1).record_sequence  # wrong
prestate_set(1, None)  # wrong
client_data.sockaddr("192.0.2.7")  # wrong
code: str = GnuTLSError(-1).code  # wrong

def forgets(gate: CookieGate) -> str:  # wrong
    match gate.receive(b"", b""):
        case Challenge(datagram=reply):
            return reply.hex()
        case Verified(key_age=age):
            return str(age)

def assigns(verdict: Challenge | Verified | Discarded) -> None:
    if isinstance(verdict, Challenge):
        verdict.datagram = b""  # wrong
"""


def test_mypy_refuses_what_is_wrong(cache: Path, tmp_path: Path) -> None:
    """Each wrong line and no other, so that the types are not Any in disguise."""
    program = tmp_path / "wrong.py"
    program.write_text(WRONG, encoding="utf-8")
    expected = {
        number for number, line in enumerate(WRONG.splitlines(), 1) if line.endswith("# wrong")
    }
    done = mypy(program, cache)
    refused = {int(number) for number in re.findall(r"^[^:]+:(\d+): error", done.stdout, re.M)}
    assert refused == expected, done.stdout
