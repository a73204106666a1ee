"""The proof of gate.c closes, and does not without any one of its length checks."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from support import ROOT

PROVE = ROOT / "tests" / "prove"

pytestmark = [
    pytest.mark.prove,
    pytest.mark.long,
    pytest.mark.skipif(
        any(shutil.which(tool) is None for tool in ("frama-c", "why3", "z3", "cvc4")),
        reason="no Frama-C: apt install frama-c-base why3 z3 cvc4",
    ),
]


def test_every_goal_closes() -> None:
    """Every access, every bound and every contract."""
    done = subprocess.run(["sh", PROVE / "prove.sh"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_length_check_can_be_spared() -> None:
    """Each taken out leaves a goal open."""
    done = subprocess.run([sys.executable, PROVE / "mutations.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
