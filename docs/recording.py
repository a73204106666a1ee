"""A recording of a command on a terminal, as an animated SVG: recording.py FILE [COMMAND...]

Without a command it is that of the demo. What the command says is read from a pseudo-terminal, line
by line with its time; a line that is written over is shown as long as it stood there. Programs that
play no animation show the end. Long pauses are shortened.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROWS, COLUMNS = 34, 112
LONGEST_PAUSE_SECONDS = 1.0
LAST_SECONDS = 5.0  # the end stays for so long, before it begins anew
CHAR_WIDTH, ROW_HEIGHT, MARGIN, SIZE = 7.25, 17, 14, 12  # in px
COLOURS = {31: "#ff7b72", 32: "#7ee787", 33: "#e3b341", 36: "#79c0ff"}  # SGR
NO_BREAK = "\u00a0"  # else several spaces are one
SGR = re.compile(r"\033\[(\d*)m")


@dataclass
class Shown:
    """One line of text, from a time on until another one took its place, if one did."""

    row: int
    text: str
    colour: int
    start: float
    end: float | None = None


def record(command: list[str]) -> tuple[list[Shown], list[tuple[float, int]], float]:
    """Run a command.

    Returns:
        What was shown; at which times the terminal stood at how many rows; and when it ended.

    Raises:
        SystemExit: the command failed.
    """
    main, child = pty.openpty()
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(COLUMNS), "LINES": str(ROWS)}
    env.pop("NO_COLOR", None)
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=child, stderr=child, env=env
    )
    os.close(child)
    shown: list[Shown] = []
    heights = [(0.0, 1)]
    row, colour, now, last = 0, 0, 0.0, time.monotonic()
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # how Linux reports that the other end is closed
            break
        if not chunk:
            break
        present = time.monotonic()
        now, last = now + min(present - last, LONGEST_PAUSE_SECONDS), present
        text = chunk.decode("utf-8", "replace").replace("\r\n", "\n")
        for piece in re.findall(r"[^\n\r]*[\n\r]|[^\n\r]+$", text):
            visible = SGR.sub("", piece).replace("\033[2K", "").strip("\r\n")
            codes = [int(code or 0) for code in SGR.findall(piece)]
            if codes and not visible.startswith(piece[0]):
                colour = codes[0]
            if visible:
                for former in shown:
                    if former.row == row and former.end is None:
                        former.end = now
                shown.append(Shown(row, visible[:COLUMNS], colour, now))
            colour = (codes or [colour])[-1]
            if piece.endswith("\n"):
                row += 1
                heights.append((now, row + 1))
    os.close(main)
    if process.wait() != 0:
        raise SystemExit(f"{command} failed")
    return shown, heights, now + LAST_SECONDS


def svg(shown: list[Shown], heights: list[tuple[float, int]], seconds: float) -> str:
    """The picture, of ROWS rows; what is more scrolls up."""
    width, height = COLUMNS * CHAR_WIDTH + 2 * MARGIN, ROWS * ROW_HEIGHT + 2 * MARGIN

    def steps(values: list[tuple[float, str]]) -> str:
        times = ";".join(f"{at / seconds:.4f}" for at, _ in values)
        return (
            f'values="{";".join(value for _, value in values)}" keyTimes="{times}" '
            f'dur="{seconds:.2f}s" calcMode="discrete" repeatCount="indefinite"'
        )

    scrolls = [(at, f"0 {-ROW_HEIGHT * max(0, rows - ROWS)}") for at, rows in heights]
    scrolls = [step for before, step in zip([None, *scrolls], scrolls, strict=False)
               if before is None or before[1] != step[1]]  # fmt: skip
    lines = []
    for one in shown:
        seen = [(0.0, "hidden"), (one.start, "visible")]
        if one.end is not None:
            seen.append((one.end, "hidden"))
        style = f' fill="{COLOURS[one.colour]}"' if one.colour in COLOURS else ""
        style += ' font-weight="bold"' if one.colour == 1 else ""
        state = "visible" if one.end is None else "hidden"
        lines.append(
            f'<text x="{MARGIN}" y="{MARGIN + SIZE + one.row * ROW_HEIGHT}" visibility="{state}"'
            f"{style}>{escape(one.text).replace(' ', NO_BREAK)}"
            f'<animate attributeName="visibility" {steps(seen)}/></text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-size="{SIZE}" '
        'font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace">\n'
        "<title>A recording of ./dev demo</title>\n"
        f'<rect width="100%" height="100%" rx="8" fill="#0d1117"/>\n'
        f'<svg y="{MARGIN}" height="{ROWS * ROW_HEIGHT}" width="100%"><g fill="#c9d1d9" '
        f'transform="translate({scrolls[-1][1]})"><animateTransform attributeName="transform" '
        f'type="translate" {steps(scrolls)}/>\n<g transform="translate(0 {-MARGIN})">\n'
        + "\n".join(lines)
        + "\n</g></g></svg>\n</svg>\n"
    )


if __name__ == "__main__":
    command = sys.argv[2:] or [sys.executable, "-m", "gnutls_cookie", "demo"]
    Path(sys.argv[1]).write_text(svg(*record(command)), encoding="utf-8")
