"""docs/five-minutes.md, followed to the letter: each language whose tools are here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ROOT

PAGE = (ROOT / "docs" / "five-minutes.md").read_text(encoding="utf-8")
TOOLS = {"C": "cc", "Rust": "rustc", "Java": "javac", "JavaScript": "node"}
CASES = 300  # in the place of those of the page


def blocks(title: str, language: str) -> list[str]:
    """The blocks of a section, up to the next one."""
    _, _, text = PAGE.partition(f"# {title}\n")
    section = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def run(script: str, folder: Path) -> str:
    """Run a block in a folder that has the examples, with the command of this Python."""
    (folder / "examples").symlink_to(ROOT / "examples")
    programs = folder / "bin"
    programs.mkdir()
    command = programs / "gnutls-cookie"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m gnutls_cookie "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["sh", "-ec", re.sub(r"--cases \d+", f"--cases {CASES}", script)],
        cwd=folder,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python(tmp_path: Path) -> None:
    """The module of the page passes both commands, and the test of the page passes in pytest."""
    module, conftest, test = blocks("Python", "python")
    (tmp_path / "mine.py").write_text(module)
    folder = tmp_path / "tests"
    folder.mkdir()
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_mine.py").write_text(test.replace("20_000", str(CASES)))
    script = "".join(blocks("Python", "sh"))
    pytest_command = f"{sys.executable} -m pytest -q -p no:cacheprovider tests\n"
    said = run(script + pytest_command.replace("pytest -q", "pytest -q -c /dev/null"), tmp_path)
    assert " 0 answered otherwise" in said
    assert "no disagreement" in said
    assert "1 passed" in said


@pytest.mark.slow
@pytest.mark.parametrize("language", TOOLS)
def test_other_languages(language: str, tmp_path: Path) -> None:
    """All blocks of the section in turn."""
    if shutil.which(TOOLS[language]) is None:
        pytest.skip(f"{TOOLS[language]} is not installed")
    script = "".join(blocks(language, "sh"))
    assert script.count("gnutls-cookie ") >= 2
    said = run(script, tmp_path)
    assert " 0 answered otherwise" in said
    assert "no disagreement" in said
