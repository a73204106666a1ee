"""Options that several commands share."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

from gnutls_cookie import Session, __version__, library_version

__all__ = [
    "add_counters_file",
    "add_key_life",
    "add_metrics",
    "add_psk_arguments",
    "add_session_arguments",
    "file_or_url",
    "file_path",
    "folder_of",
    "key_material",
    "number_in",
    "plain_formatter",
    "real",
    "whole",
]

_LABEL_MAX_BYTES = 128
_URLS = ("pkcs11:", "system:", "tpmkey:")
_WHOLE, _SPACES = re.compile(r"[+-]?[0-9]{1,1000}"), re.compile(r"[_\s]")
_KEY_LIFE_MIN_S, _KEY_LIFE_MAX_S = 1, 0x7FFFFFFF


def add_key_life(parser: argparse.ArgumentParser, default: float | None = None) -> None:
    """--rotate."""
    parser.add_argument(
        "--rotate",
        metavar="SECONDS",
        type=key_life,
        default=default,
        help="a cookie key's life (3600)",
    )


def add_metrics(parser: argparse.ArgumentParser) -> None:
    """--metrics."""
    parser.add_argument(
        "--metrics", metavar="HOST:PORT", help="serve counters to Prometheus there, over HTTP"
    )


def add_counters_file(parser: argparse.ArgumentParser) -> None:
    """--stats of a command beside servers."""
    parser.add_argument(
        "--stats",
        metavar="FILE",
        type=file_path,
        help="write counters to it once a second: JSON, or NAME.prom",
    )


def add_psk_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of a client with a pre-shared key; their names are gnutls-cli's."""
    parser.add_argument("--pskusername", metavar="TEXT", help="PSK identity")
    parser.add_argument("--pskkey", metavar="HEX", help="PSK key")


def add_session_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of whoever has DTLS sessions; their names are gnutls-cli's and gnutls-serv's."""
    parser.add_argument("--priority", metavar="TEXT", help="GnuTLS priority string")
    parser.add_argument(
        "--mtu", metavar="BYTES", type=_zero_is_none, help="largest datagram to send (1200)"
    )
    parser.add_argument(
        "-d",
        "--debug",
        metavar="LEVEL",
        type=number_in("--debug", 0, 9999),
        default=0,
        help="above 0: log more, and libgnutls' messages up to LEVEL; from 9 on with keys",
    )
    parser.add_argument(
        "--recordsize",
        metavar="BYTES",
        type=_zero_is_none,
        help="largest record that the peer may send",
    )
    parser.add_argument(
        "--srtp-profiles", metavar="TEXT", help="profiles of DTLS-SRTP, colons between them"
    )
    parser.add_argument(
        "--alpn",
        metavar="NAME",
        action="append",
        default=[],
        help="application protocol (ALPN); may be repeated",
    )
    parser.add_argument(
        "--keymatexport",
        metavar="LABEL",
        type=_label,
        help="print keying material of this label (RFC 5705)",
    )
    parser.add_argument(
        "--keymatexportsize",
        metavar="BYTES",
        type=number_in("--keymatexportsize", 1, 65535),
        default=20,
        help="so many bytes of it (20)",
    )
    version = f"gnutls-cookie {__version__}, libgnutls {library_version()}"
    parser.add_argument(
        "-v", "--version", action="version", version=version, help="print versions, and exit"
    )


def file_or_url(text: str) -> Path | str:
    """The type of an option for argparse that names a file, or an object of a token by its URL
    (RFC 7512), which libgnutls reads by itself."""
    return text if text.startswith(_URLS) else file_path(text)


def file_path(text: str) -> Path:
    """The type of an option for argparse that names a file. Path("") would be the present folder,
    where a script's variable is not set, say."""
    if text:
        return Path(text)
    raise argparse.ArgumentTypeError("the name of a file is needed, not ''")


def folder_of(path: Path) -> int:
    """A descriptor of the folder that a file is in, or is to be in.

    Raises:
        ValueError: there is none, or somebody else may lead us to another one.
        OSError: it cannot be opened.
    """
    if not path.name or path.name == ".." or "\0" in str(path):
        raise ValueError(f"{path}: not the name of a file")
    absolute = path.absolute()
    for parent in reversed(absolute.parents):
        # What others make in a folder for all, fs.protected_symlinks(5) is for; it may be off.
        found = _lstat(parent)
        if found is None:
            raise ValueError(f"{path}: there is no such folder")
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in (0, os.geteuid()):
            raise ValueError(f"{path}: {parent} is another user's symbolic link")
    try:
        return os.open(absolute.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        raise ValueError(f"{path}: there is no such folder") from None


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def key_material(options: argparse.Namespace, session: Session) -> str | None:
    """What --keymatexport asks of a session, as gnutls-cli prints it; None: nothing."""
    if options.keymatexport is None:
        return None
    material = session.export_keying_material(options.keymatexport, options.keymatexportsize)
    return f"- Key material: {material.hex()}"


def _label(text: str) -> str:
    """The type of --keymatexport for argparse: what Session.export_keying_material() takes."""
    size = len(text.encode("utf-8", "surrogateescape"))
    if 1 <= size <= _LABEL_MAX_BYTES and text.isprintable():
        return text
    raise argparse.ArgumentTypeError(f"a label must be of 1..{_LABEL_MAX_BYTES} bytes, not {size}")


def _zero_is_none(text: str) -> int | None:
    """A type for argparse: a size, of which 0 is the default, as GnuTLS' tools have it."""
    if text.isascii() and text.isdecimal() and len(text) < 100:
        return int(text) or None
    raise argparse.ArgumentTypeError(f"a whole number of bytes is needed, not {text[:40]!r}")


def plain_formatter(program: str) -> argparse.HelpFormatter:
    """What writes usage and help on one line each, and without the colours of Python 3.14."""
    formatter = argparse.HelpFormatter(program, width=100_000)
    if hasattr(formatter, "_set_color"):
        formatter._set_color(False)
    return formatter


def number_in(name: str, least: int, most: int) -> Callable[[str], int]:
    """A type for argparse: whole numbers from `least` to `most`, in ASCII digits."""

    def number(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(f"{name} must be in {least}..{most}, not {text[:40]!r}")

    return number


def whole(text: str) -> int:
    """A type for argparse: a whole number. int() also takes other digits than ASCII's, underscores
    and spaces, and with thousands of digits it fails."""
    if _WHOLE.fullmatch(text):
        return int(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")


def real(text: str) -> float:
    """A type for argparse: a number, infinity and NaN included; the command has the bounds."""
    if text.isascii() and not _SPACES.search(text):
        with contextlib.suppress(ValueError):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number")


def key_life(text: str) -> float:
    """The type of --rotate for argparse: seconds, of which 68 years are the most."""
    try:
        seconds = real(text)
    except argparse.ArgumentTypeError:
        seconds = 0.0
    if _KEY_LIFE_MIN_S <= seconds <= _KEY_LIFE_MAX_S:
        return seconds
    limits = f"{_KEY_LIFE_MIN_S}..{_KEY_LIFE_MAX_S} seconds"
    raise argparse.ArgumentTypeError(f"a key's life must be in {limits}, not {text[:40]!r}")
