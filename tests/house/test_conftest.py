"""The suite ends: whatever the run inherits, and whatever a test waits for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ROOT

# This suite's hooks; BOUNDS are replaced.
HOOKS = f"""
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("hooks", {str(ROOT / "tests" / "conftest.py")!r})
hooks = module_from_spec(spec)
spec.loader.exec_module(hooks)
hooks.LIMIT_S, hooks.GRACE_S = BOUNDS
pytest_configure, pytest_unconfigure = hooks.pytest_configure, hooks.pytest_unconfigure
pytest_runtest_protocol = hooks.pytest_runtest_protocol
"""

# Prints what a child has ignored or blocked, and in which way Ctrl-C ends it.
CHILD = """
import signal, subprocess, sys
def test_child():
    code = '''
import signal
ours = {signal.SIGPIPE, signal.SIGXFSZ}
print([int(n) for n in signal.valid_signals() - ours if signal.getsignal(n) == signal.SIG_IGN])
print(signal.pthread_sigmask(signal.SIG_BLOCK, []))
signal.raise_signal(signal.SIGINT)
'''
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert child.stdout == "[]\\nset()\\n"
    assert child.returncode == -signal.SIGINT
"""

ENDLESS = """
import threading
def test_endless(): threading.Event().wait()
def test_next(): print('next')
"""

LEFT_BEHIND = """
import threading
def test_thread(): threading.Thread(target=threading.Event().wait).start()
"""


def run_pytest(
    folder: Path, text: str, *before: str, limit: int = 60, grace: int = 60
) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(HOOKS.replace("BOUNDS", f"{limit}, {grace}"))
    (folder / "test_it.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir"]
    return subprocess.run(
        [*before, *command, str(folder), str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("names", ["INT", "INT HUP QUIT TERM CHLD ALRM USR1 USR2"])
def test_signals_ignored_where_the_run_was_started_are_not_ignored_in_children(
    tmp_path: Path, names: str
) -> None:
    """nohup, cron and `trap '' INT` in a script: children of a test are as from a terminal."""
    done = run_pytest(tmp_path, CHILD, "sh", "-c", f"trap '' {names}; exec \"$@\"", "sh")
    assert done.returncode == 0, done.stdout


def test_blocked_signals_are_not_blocked_in_children(tmp_path: Path) -> None:
    """A signal mask is inherited as well."""
    code = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT, signal.SIGTERM])
os.execvp(sys.argv[1], sys.argv[1:])
"""
    done = run_pytest(tmp_path, CHILD, sys.executable, "-c", code)
    assert done.returncode == 0, done.stdout


def test_endless_test_fails_and_the_run_goes_on(tmp_path: Path) -> None:
    """Its stack is shown; the next test runs."""
    done = run_pytest(tmp_path, ENDLESS, limit=1)
    assert done.returncode == 1, done.stdout
    assert "Failed: not done after 1 s" in done.stdout
    assert "in test_endless" in done.stdout
    assert "1 failed, 1 passed" in done.stdout


def test_thread_that_never_ends_does_not_keep_the_run(tmp_path: Path) -> None:
    """The run ends with an error and shows where the thread stands."""
    done = run_pytest(tmp_path, LEFT_BEHIND, grace=1)
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    assert "Timeout" in done.stderr
