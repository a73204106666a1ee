"""The C half under sanitizers and valgrind; ./dev sanitize is the long run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support.common import ROOT, compiler, missing

# Both look at Python's memory, which must come from malloc for that.
no_malloc = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="a free-threaded Python has no PYTHONMALLOC=malloc",
)


@pytest.mark.slow
def test_sanitizers_find_the_planted_error_and_nothing_else() -> None:
    """20,000 cases, each in memory of exactly its size."""
    said = run("run.sh", "20000")
    assert "the planted overread was found" in said
    assert "20000 cases, 0 disagreements" in said


@no_malloc
@pytest.mark.slow
def test_sanitizers_watch_the_extension_in_python() -> None:
    """One file of tests; without arguments it is more of them."""
    said = run("suite.sh", "tests/gate/test_gate.py")
    assert "the overread planted in Python was found" in said
    assert " passed" in said


@no_malloc
@pytest.mark.slow
def test_valgrind_finds_the_planted_error_and_nothing_else_of_ours() -> None:
    """Wrapper, gate, listener and sessions; errors of Python and of libraries do not count."""
    if shutil.which("valgrind") is None:
        missing("valgrind is not installed: apt install valgrind libc6-dbg")
    command: list[str | Path] = [sys.executable, ROOT / "checks" / "valgrind" / "run.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the planted overread was found" in done.stdout
    assert "all was called\n0 errors of ours" in done.stdout


@no_malloc
@pytest.mark.slow
def test_threads_race_where_a_race_was_planted_and_nowhere_else() -> None:
    """Over one gate, one server and one lock, and the peers of two sockets."""
    said = run("threads.sh", "3", sanitizers="thread")
    assert "the planted race was found" in said
    assert "no other race" in said


def run(script: str, *arguments: str, sanitizers: str = "address,undefined") -> str:
    probe = [*compiler(), f"-fsanitize={sanitizers}", "-x", "c", "-o", os.devnull, "-"]
    if subprocess.run(probe, input=b"int main(void){return 0;}", capture_output=True).returncode:
        missing("the compiler has no sanitizers: apt install libasan8 libubsan1")
    done = subprocess.run(
        ["sh", ROOT / "checks" / "sanitize" / script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
