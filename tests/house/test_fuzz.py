"""The fuzz targets find what is planted. ./dev fuzz, which CI runs too, must find nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ROOT

FUZZ = ROOT / "checks" / "fuzz" / "fuzz.py"
TARGETS = ("gate", "listener", "session", "serve", "preload")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("target", TARGETS)
def test_fuzzing_finds_a_planted_fault(target: str, tmp_path: Path) -> None:
    """Otherwise a run without a finding would say nothing. The input is kept, and shows it again.

    The time is a generous bound: a run ends with its first finding.
    """
    done = fuzz("180", target, "--planted", "--folder", str(tmp_path))
    assert done.returncode == 1, done.stdout
    (kept,) = (tmp_path / "found" / target).iterdir()
    again = subprocess.run([tmp_path / "build" / target / "fuzz", kept], capture_output=True)
    assert again.returncode != 0


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A run; skipped without clang, REQUIRE_PEERS or not: a compiler of 400 MB is not a peer."""
    command = [sys.executable, str(FUZZ), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    print(done.stdout, done.stderr)
    if done.returncode == 2:
        pytest.skip(done.stderr.strip())
    return done
