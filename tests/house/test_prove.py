"""The proof of gate.c closes, and does not without any one of its length checks."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.support.common import ROOT, missing

PROVE = ROOT / "checks" / "prove"
TOOLS = {
    "frama-c": ("frama-c", "why3", "z3", "cvc4"),
    "cbmc": ("cbmc", "gcc"),
}
HINT = (
    "no prover: apt-get install frama-c-base why3 z3 cvc4 (Debian 12), or cbmc (Debian 13); "
    "sh checks/prove/prove.sh --install does either"
)

pytestmark = [pytest.mark.prove, pytest.mark.long]


@pytest.fixture(params=TOOLS)
def prover(request: pytest.FixtureRequest) -> str:
    """Each prover that is on this machine; one of them is enough."""
    here = [name for name, tools in TOOLS.items() if all(map(shutil.which, tools))]
    if not here:
        missing(HINT)
    name: str = request.param
    if name not in here:
        pytest.skip(f"no {name} here, proved with {here[0]}")
    return name


def test_every_goal_closes(prover: str) -> None:
    """Every access, every bound and every contract."""
    done = subprocess.run(
        ["sh", PROVE / "prove.sh", "--with", prover], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_no_length_check_can_be_spared(prover: str) -> None:
    """Each taken out leaves a goal open."""
    done = subprocess.run(
        [sys.executable, PROVE / "mutations.py", "--with", prover], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_without_a_prover_nothing_counts_as_proved() -> None:
    """A machine that cannot try says so, with exit code 2."""
    done = subprocess.run(
        ["sh", PROVE / "prove.sh", "--with", "nothing"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no prover is called nothing" in done.stderr
