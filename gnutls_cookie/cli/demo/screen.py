"""What the demo prints."""

from __future__ import annotations

import os
import sys

__all__ = ["BOLD", "CYAN", "GREEN", "RED", "YELLOW", "is_terminal", "say", "say_for_now"]

BOLD, RED, GREEN, YELLOW, CYAN = 1, 31, 32, 33, 36  # SGR parameters, ECMA-48 8.3.117
_ERASE_LINE = "\r\033[2K"  # EL, ECMA-48 8.3.41


def is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def say(text: str, colour: int = 0) -> None:
    """Print a line; in colour if stdout is a terminal that has any."""
    if sys.stdout is None:  # closed
        return
    if is_terminal() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb":
        text = f"\033[{colour}m{text}\033[0m"
    print(text, flush=True)


def say_for_now(text: str) -> None:
    """Show a line that the next one takes the place of. On a terminal only; "" takes it away."""
    if is_terminal() and os.environ.get("TERM") != "dumb":
        print(_ERASE_LINE + text, end="", flush=True)
