"""The gate under AddressSanitizer and UBSan, in short; ./dev sanitize is the long run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support import ROOT, compiler, missing


@pytest.mark.slow
def test_sanitizers_find_the_planted_error_and_nothing_else() -> None:
    """20,000 cases, each in memory of exactly its size."""
    said = run("run.sh", "20000")
    assert "the planted overread was found" in said
    assert "20000 cases, 0 disagreements" in said


@pytest.mark.slow
def test_sanitizers_watch_the_extension_in_python() -> None:
    """One file of tests; without arguments it is more of them."""
    said = run("suite.sh", "tests/test_gate.py")
    assert "the overread planted in Python was found" in said
    assert " passed" in said


def run(script: str, *arguments: str) -> str:
    probe = [*compiler(), "-fsanitize=address,undefined", "-x", "c", "-o", os.devnull, "-"]
    if subprocess.run(probe, input=b"int main(void){return 0;}", capture_output=True).returncode:
        missing("the compiler has no sanitizers: apt install libasan8 libubsan1")
    done = subprocess.run(
        ["sh", ROOT / "tests" / "sanitize" / script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable},
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
