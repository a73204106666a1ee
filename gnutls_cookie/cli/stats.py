"""gnutls-cookie stats FILE: the counters that `run --stats FILE` or `xdp attach --stats` writes."""

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
from .counters import counters_text
from .options import file_path

__all__ = ["add_arguments", "read_stats", "run"]

_PROGRAM = "gnutls-cookie stats"
_MAX_STATS_SIZE = 65536  # bytes
_OF_HELLOS = ("challenged", "presented", "verified", "verified_previous")


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
    print_out(json.dumps(counters) if options.json else counters_text(counters))
    return 0


def read_stats(path: Path) -> dict[str, Any]:
    """The counters in a file: numbers by name, and under "discarded" numbers by reason; those of
    XDP under "passed".

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
    in_kernel = isinstance(found, dict) and "passed" in found
    by_reason = "passed" if in_kernel else "discarded"
    if (
        not isinstance(found, dict)
        or not _are_counters(numbers := {k: v for k, v in found.items() if k != by_reason})
        or not _are_counters(found.get(by_reason))
        or not set(_OF_HELLOS if in_kernel else writer.COUNTERS) <= set(numbers)
    ):
        raise ValueError("not the counters that `run --stats` writes")
    return found


def _are_counters(found: Any) -> bool:
    return isinstance(found, Mapping) and all(
        re.fullmatch("[a-z_]{1,40}", name) and type(number) is int and 0 <= number < 2**64
        for name, number in found.items()
    )
