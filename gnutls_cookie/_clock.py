"""The one clock that is asked where a caller gives no time."""

from __future__ import annotations

import time

__all__ = ["monotonic"]


def monotonic() -> float:
    """Seconds, of time.monotonic()."""
    return time.monotonic()
