"""The fuzz targets, in short: they find nothing but what is planted. ./dev fuzz is the long run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ROOT

FUZZ = ROOT / "checks" / "fuzz" / "fuzz.py"
TARGETS = ("gate", "listener", "listener-portable", "session", "preload")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_nothing(target: str, tmp_path: Path) -> None:
    """The seeds and two seconds more."""
    done = fuzz("2", target, "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout
    assert "nothing found" in done.stdout
    assert not any((tmp_path / "found" / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_a_planted_fault(target: str, tmp_path: Path) -> None:
    """Else the runs above would say nothing. The input is kept, and is enough to see it again.

    The time is a bound, many times what it takes: a run ends with what it finds.
    """
    done = fuzz("180", target, "--planted", "--folder", str(tmp_path))
    assert done.returncode == 1, done.stdout
    (kept,) = (tmp_path / "found" / target).iterdir()
    again = subprocess.run([tmp_path / "build" / target / "fuzz", kept], capture_output=True)
    assert again.returncode != 0


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run; skipped without clang, REQUIRE_PEERS or not: a compiler of 400 MB is no peer."""
    command = [sys.executable, str(FUZZ), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    print(done.stdout, done.stderr)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    return done
