"""gnutls-cookie vectors: a chosen set of cases with libgnutls' answers, as a file of JSON."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from gnutls_cookie.differential import LIBGNUTLS, case_of_json
from gnutls_cookie.differential.vectors import answer, document

from .console import complain, print_out, reason

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        type=Path,
        help="write it there; a file of the same answers keeps the versions that it names",
    )
    parser.add_argument("--case", metavar="JSON", help="the answer to this case alone")


def run(options: argparse.Namespace) -> int:
    """Print the file, write it, or answer one case.

    Returns:
        0, or 2 where what was given is not a case, or the file cannot be read or written.

    Raises:
        OSError: it cannot be printed.
    """
    text: str | None = None
    try:
        if options.case is not None:
            text = json.dumps(answer(LIBGNUTLS, case_of_json(options.case)))
        elif options.output is not None:
            path: Path = options.output
            former = path.read_text(encoding="utf-8") if path.exists() else ""
            path.write_text(document(former), encoding="utf-8")
        else:
            text = document().removesuffix("\n")
    except (OSError, ValueError, KeyError, TypeError) as error:
        complain("gnutls-cookie vectors", reason(error))
        return 2
    if text is not None:
        print_out(text)
    return 0
