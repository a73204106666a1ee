"""gnutls-cookie stats FILE: the counters that `gnutls-cookie run --stats FILE` writes."""

from __future__ import annotations

import argparse
import json
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import writer
from .console import complain, print_out
from .options import file_path

__all__ = ["add_arguments", "read_stats", "run"]

_PROGRAM = "gnutls-cookie stats"
_MAX_STATS_SIZE = 65536  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("file", metavar="FILE", type=file_path, help="what `run --stats` writes")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Print the counters of a server under `run`.

    Returns:
        0; 2 where there are none.

    Raises:
        OSError: they cannot be printed.
    """
    try:
        counters = read_stats(options.file)
    except (OSError, ValueError) as error:
        complain(_PROGRAM, f"{options.file}: {getattr(error, 'strerror', None) or error}")
        return 2
    print_out(json.dumps(counters) if options.json else _counters_text(counters))
    return 0


def _counters_text(counters: dict[str, Any]) -> str:
    discarded = counters["discarded"]
    lines = [
        f"{counters['challenged']} challenged ({counters['presented']} with a cookie), "
        f"{counters['verified']} verified, {counters['verified_previous']} with the previous key, "
        f"{sum(discarded.values())} discarded, {counters['left_alone']} left alone"
    ]
    if counters.get("not_recorded"):
        lines.append(f"{counters['not_recorded']} calls not recorded: they came too fast")
    for reason, number in sorted(discarded.items(), key=lambda one: -one[1]):
        lines.append(f"  {number:>10} {reason}")
    return "\n".join(lines)


def read_stats(path: Path) -> dict[str, Any]:
    """The counters in a file: numbers by name, and under "discarded" numbers by reason.

    Raises:
        ValueError: it is not a file of counters.
        OSError: it cannot be read.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("not a file")
        data = b""
        while len(data) <= _MAX_STATS_SIZE and (more := os.read(file, _MAX_STATS_SIZE)):
            data += more
    finally:
        os.close(file)
    try:
        if len(data) > _MAX_STATS_SIZE:
            raise ValueError
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if (
        not isinstance(found, dict)
        or not _are_counters(numbers := {k: v for k, v in found.items() if k != "discarded"})
        or not _are_counters(found.get("discarded"))
        or not set(writer.COUNTERS) <= set(numbers)
    ):
        raise ValueError("not the counters that `run --stats` writes")
    return found


def _are_counters(found: Any) -> bool:
    return isinstance(found, Mapping) and all(
        re.fullmatch("[a-z_]{1,40}", name) and type(number) is int and 0 <= number < 2**64
        for name, number in found.items()
    )
