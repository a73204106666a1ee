"""Runs program.py under valgrind's memcheck and tells the errors that are this package's.

python checks/valgrind/run.py [PROGRAM [ARGUMENTS]]. Exit code 0: none, 1: some, 2: not tried.
Without arguments a planted overread must be found first.

Python and the libraries have errors of their own under memcheck. One counts if the way from where
it happened leads, through whatever libraries, into our extension before it leads into Python: what
Python does in a callback is not ours, what libgnutls or the C library does for us is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PROGRAM = HERE / "program.py"
PLANTED = HERE.parent / "sanitize" / "planted.py"

INSTALL = "no valgrind here: apt install valgrind libc6-dbg"
OPTIONS = [
    *("--tool=memcheck", "--num-callers=60", "--error-limit=no", "--xml=yes", "-q"),
    *("--leak-check=full", "--show-leak-kinds=definite", "--errors-for-leak-kinds=definite"),
]


class Error(NamedTuple):
    """One error of memcheck: its kind, what it says, and its frames from the inside out."""

    kind: str
    what: str
    frames: list[tuple[str, str]]  # object file, function


def errors(report: Path) -> list[Error]:
    """All that memcheck has reported."""
    found = []
    for error in ElementTree.parse(report).getroot().iter("error"):
        what = error.findtext("what") or error.findtext("xwhat/text") or ""
        stack = error.find("stack")
        frames = [] if stack is None else list(stack.iter("frame"))
        places = [(f.findtext("obj") or "", f.findtext("fn") or "?") for f in frames]
        found.append(Error(error.findtext("kind") or "", what, places))
    return found


def is_ours(error: Error) -> bool:
    """Whether its way leads into our extension before it leads into Python."""
    for path, _ in error.frames:
        name = Path(path).name
        if name.startswith("_ffi") and Path(path).parent.name == "gnutls_cookie":
            return True
        if name.startswith(("python", "libpython", "_cffi_backend")):
            return False
    return False


def watched(program: Path, *arguments: str) -> list[Error]:
    """The errors of a Python program under memcheck."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        # The interpreter itself: .venv/bin/python may be a link to a script of a version manager.
        # It finds the packages of this one by PYTHONPATH. PYTHONMALLOC: memory of Python's own
        # pools has no borders that can be watched.
        python = os.path.realpath(sys.executable)
        path = os.pathsep.join([str(ROOT), *filter(None, sys.path[1:])])
        done = subprocess.run(
            ["valgrind", *OPTIONS, f"--xml-file={report}", python, str(program), *arguments],
            env={**os.environ, "PYTHONMALLOC": "malloc", "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        if done.returncode != 0 or not report.exists():
            raise SystemExit(f"{program.name} ended with {done.returncode}\n{done.stderr[-4000:]}")
        print(done.stdout, end="")
        return errors(report)


def tell(found: list[Error]) -> None:
    for error in found:
        print(f"{error.kind}: {error.what}")
        for path, function in error.frames:
            print(f"    {function} ({Path(path).name})")
            if Path(path).name.startswith("python"):
                break


def main() -> int:
    """See above."""
    if shutil.which("valgrind") is None:
        print(INSTALL, file=sys.stderr)
        return 2
    if len(sys.argv) == 1:
        if not any(is_ours(error) for error in watched(PLANTED)):
            print("the planted overread was not found")
            return 1
        print("the planted overread was found", flush=True)
    program = Path(sys.argv[1]) if len(sys.argv) > 1 else PROGRAM
    found = watched(program, *sys.argv[2:])
    ours = [error for error in found if is_ours(error)]
    print(f"{len(ours)} errors of ours, {len(found) - len(ours)} of others")
    tell(ours)
    return 1 if ours else 0


if __name__ == "__main__":
    sys.exit(main())
