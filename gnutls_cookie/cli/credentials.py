"""The cookie secret of a fleet, as every command reads it from a file."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

__all__ = ["SECRET_MAX_SIZE", "SECRET_MIN_SIZE", "secret_file", "warn_of_readers"]

_log = logging.getLogger("gnutls_cookie")

SECRET_MIN_SIZE = 16  # bytes, as KeyRing.from_secret() has it
SECRET_MAX_SIZE = 65536  # bytes; no secret is that long, and a wrong file or device often is longer


def secret_file(path: Path) -> bytes:
    """The cookie secret of a file: all its bytes but white space at the end.

    A file of any kind is read to its end: a pipe too, as a shell makes it of <(command).

    Args:
        path: the file.

    Returns:
        16..65536 bytes.

    Raises:
        ValueError: fewer than 16 bytes, or a file of more than 65536.
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        content = bytearray()
        while len(content) <= SECRET_MAX_SIZE:
            more = file.read(SECRET_MAX_SIZE + 1 - len(content))
            if not more:
                break
            content += more
    if len(content) > SECRET_MAX_SIZE:
        raise ValueError(f"{path}: a cookie secret has at most {SECRET_MAX_SIZE} bytes")
    secret = bytes(content).rstrip()
    if len(secret) < SECRET_MIN_SIZE:
        raise ValueError(
            f"{path}: a cookie secret has at least {SECRET_MIN_SIZE} bytes, not {len(secret)}"
        )
    warn_of_readers(path, status)
    return secret


def warn_of_readers(path: Path, status: os.stat_result) -> None:
    """Log a warning where others can read a file that holds a secret.

    As ssh does: of a file of one's own where its group can too; of another's only where all can,
    since the group may be how it is shared.
    """
    others = stat.S_IRWXO | (stat.S_IRWXG if status.st_uid == os.geteuid() else 0)
    if stat.S_ISREG(status.st_mode) and status.st_mode & others:
        _log.warning("%s: others than its owner can read it", path)
