"""docs/recording.py, which draws what a command says on a terminal."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from tests.support.common import ROOT

SAYS = r"""printf '\033[36mfirst\033[0m\n\033[1m\nsecond\033[0m\n'
printf '\r\033[2K1 of 2'; sleep 0.1; printf '\r\033[2K2 of 2\n'"""


def test_recording_of_a_command(tmp_path: Path) -> None:
    """Colours as on the terminal; of a line that is written over each state, and the last stays."""
    file = tmp_path / "recording.svg"
    command = [sys.executable, str(ROOT / "docs" / "recording.py"), str(file), "sh", "-c", SAYS]
    subprocess.run(command, check=True, timeout=60)
    texts = {one.text: one for one in ET.parse(file).iter("{http://www.w3.org/2000/svg}text")}
    assert list(texts) == ["first", "second", "1\xa0of\xa02", "2\xa0of\xa02"]
    assert texts["first"].get("fill") == "#79c0ff"
    assert texts["second"].get("font-weight") == "bold"
    assert texts["2\xa0of\xa02"].get("font-weight") is None
    assert texts["1\xa0of\xa02"].get("y") == texts["2\xa0of\xa02"].get("y")
    assert texts["1\xa0of\xa02"].get("visibility") == "hidden"
    assert texts["2\xa0of\xa02"].get("visibility") == "visible"


def test_recording_of_the_demo_is_of_this_demo() -> None:
    """Whoever adds an act records it again: .venv/bin/python docs/recording.py docs/demo.svg"""
    picture = ET.parse(ROOT / "docs" / "demo.svg").getroot()
    shown = " ".join(picture.itertext()).replace("\xa0", " ")
    source = (ROOT / "gnutls_cookie" / "cli" / "demo" / "command.py").read_text(encoding="utf-8")
    acts = [
        line.split('"')[1].lstrip("\\n")
        for line in source.splitlines()
        if ". " in line and "say(" in line
    ]
    assert len(acts) == 3
    assert all(act.partition(", libgnutls")[0] in shown for act in acts)
