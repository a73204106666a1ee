"""Credentials and secrets of the command line: the files that options name, read."""

from __future__ import annotations

import argparse
import logging
import os
import re
import stat
import time
from pathlib import Path

from gnutls_cookie import AnonymousCredentials, CertificateCredentials, PSKCredentials
from gnutls_cookie.credentials import FileContent, certificate_validity
from gnutls_cookie.errors import naming

__all__ = [
    "SECRET_MAX_SIZE",
    "SECRET_MIN_SIZE",
    "Credentials",
    "anonymous",
    "client_credentials",
    "psk_credentials",
    "psk_file",
    "secret_file",
    "server_credentials",
    "verifies",
    "warn_of_readers",
    "warn_of_times",
]

Credentials = CertificateCredentials | PSKCredentials | AnonymousCredentials

_log = logging.getLogger("gnutls_cookie")

SECRET_MIN_SIZE = 16  # bytes, as KeyRing.from_secret() has it
SECRET_MAX_SIZE = 65536  # bytes; no secret is that long, and a wrong file or device often is longer


def secret_file(path: Path, what: str = "cookie") -> bytes:
    """The secret of a file: all its bytes but white space at the end.

    A file of any kind is read to its end: a pipe too, as a shell makes it of <(command).

    Args:
        path: the file.
        what: the secret is for; for errors.

    Returns:
        16..65536 bytes.

    Raises:
        ValueError: fewer than 16 bytes, or a file of more than 65536.
        OSError: the file cannot be read.
    """
    with open(path, "rb", buffering=0) as file, naming(path):
        status = os.fstat(file.fileno())
        content = bytearray()
        while len(content) <= SECRET_MAX_SIZE:
            more = file.read(SECRET_MAX_SIZE + 1 - len(content))
            if not more:
                break
            content += more
    if len(content) > SECRET_MAX_SIZE:
        raise ValueError(f"{path}: a {what} secret has at most {SECRET_MAX_SIZE} bytes")
    secret = bytes(content).rstrip()
    if len(secret) < SECRET_MIN_SIZE:
        raise ValueError(
            f"{path}: a {what} secret has at least {SECRET_MIN_SIZE} bytes, not {len(secret)}"
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


def _password() -> str | None:
    """Of encrypted private keys, where GnuTLS' tools take it from."""
    return os.environ.get("GNUTLS_PIN")


def _raw_key(options: argparse.Namespace) -> Path | None:
    """The private key of a raw public key (RFC 7250), of which the public one follows."""
    if options.rawpkfile is not None and options.rawpkkeyfile is None:
        raise ValueError("--rawpkfile needs --rawpkkeyfile")
    path: Path | None = options.rawpkkeyfile
    return path


def anonymous(options: argparse.Namespace) -> list[Credentials]:
    """Those of a priority string that names anonymous key exchange. GnuTLS' tools always have
    them."""
    wanted = re.search(r"\+ANON-(EC)?DH(:|$)", options.priority or "", re.IGNORECASE)
    return [AnonymousCredentials()] if wanted else []


# --- of a client ----------------------------------------------------------------------------------


def psk_credentials(options: argparse.Namespace) -> PSKCredentials | None:
    """The credentials of --pskusername and --pskkey; None if neither is given.

    Raises:
        ValueError: one is missing, or cannot be used.
    """
    if (options.pskusername is None) != (options.pskkey is None):
        raise ValueError("--pskusername and --pskkey go together")
    if options.pskusername is None:
        return None
    try:
        key = bytes.fromhex(options.pskkey)
    except ValueError:
        raise ValueError("--pskkey must be hexadecimal") from None
    return PSKCredentials(options.pskusername, key)


def verifies(options: argparse.Namespace) -> bool:
    """Whether `connect` verifies the server's certificate."""
    return bool(options.ca_verification) and not options.insecure


def client_credentials(options: argparse.Namespace) -> list[Credentials]:
    """The credentials of `connect`: a pre-shared key, certificates, or both where both are given.

    Raises:
        ValueError, OSError, GnuTLSError: an option is missing, or cannot be used.
    """
    psk = psk_credentials(options)
    if (options.x509certfile is None) != (options.x509keyfile is None):
        raise ValueError("--x509certfile and --x509keyfile go together")
    own = options.x509certfile, options.x509cafile, options.rawpkkeyfile
    if psk is not None and own == (None, None, None):
        if options.x509crlfile is not None:
            raise ValueError("--x509crlfile needs --x509cafile")
        return [psk, *anonymous(options)]
    certificates = CertificateCredentials.from_files(
        options.x509certfile,
        options.x509keyfile,
        password=_password(),
        trust=options.x509cafile,
        crl=options.x509crlfile,
        raw_key=_raw_key(options),
        system_trust=options.x509cafile is None and verifies(options),
    )
    return [*([] if psk is None else [psk]), certificates, *anonymous(options)]


# --- of a server ----------------------------------------------------------------------------------


def server_credentials(options: argparse.Namespace) -> list[Credentials]:
    """The credentials of the files that `serve` is given; none of them gives an empty list.

    Raises:
        ValueError, OSError, GnuTLSError: a file cannot be read or used.
    """
    found: list[Credentials] = []
    raw_key = _raw_key(options)
    if options.x509certfile or raw_key is not None:
        pairs = list(zip(options.x509certfile or (), options.x509keyfile or (), strict=True))
        found.append(
            CertificateCredentials.from_files(
                *(pairs[0] if pairs else ()),
                more_pairs=pairs[1:],
                password=_password(),
                trust=options.x509cafile,
                crl=options.x509crlfile,
                ocsp=options.ocsp_response,
                raw_key=raw_key,
            )
        )
    if options.pskpasswd is not None:
        found.append(PSKCredentials(lookup=psk_file(options.pskpasswd), hint=options.pskhint))
    return found + anonymous(options)


def psk_file(path: Path) -> dict[str, bytes]:
    """Identities and keys of a file as psktool writes it: lines `identity:hex`.

    An identity that starts with # is in hex itself; where it is not, the line is a comment. Of two
    lines with one identity the first counts. So libgnutls reads it (lib/auth/psk_passwd.c). Blank
    lines, carriage returns, and a byte order mark at the start do not count.

    Raises:
        ValueError: a line is of another form; the text has the line's number and nothing secret.
        OSError: the file cannot be read.
    """
    keys: dict[str, bytes] = {}
    lines: dict[str, int] = {}
    content = FileContent.read(path).removeprefix(b"\xef\xbb\xbf")  # a byte order mark
    for number, line in enumerate(content.splitlines(), 1):
        where = f"{path}, line {number}"
        entry = _psk_line(line.rstrip(), where)
        if entry is None:
            continue
        identity, key = entry
        if identity in keys:
            first = lines[identity]
            _log.warning("%s: the identity of line %d again, which counts", where, first)
            continue
        keys[identity], lines[identity] = key, number
    if not keys:
        raise ValueError(f"{path}: no keys in it")
    return keys


def _psk_line(line: bytes, where: str) -> tuple[str, bytes] | None:
    """Identity and key of a line; None for a blank line or a comment."""
    if not line.startswith(b"#"):
        if line.lstrip()[:1] in (b"", b"#"):
            return None
        raw, colon, text = line.rpartition(b":")
        key = _unhex(text) if colon else None
    else:
        name, colon, text = line[1:].partition(b":")
        in_hex, key = _unhex(name), _unhex(text)
        words = name != name.strip() and key is None  # "# Cafe: closed on Sundays"
        if not in_hex or not colon or words:
            if colon and key and _unhex(b"0" + name):
                _log.warning("%s: a comment, as an odd number of digits is not an identity", where)
            return None
        raw = in_hex
    if key is None:
        raise ValueError(f"{where}: not identity:hexadecimal key")
    if not 0 < len(key) <= 0xFFFF:
        raise ValueError(f"{where}: a key has 1..65535 bytes, not {len(key)}")
    return raw.decode("utf-8", "surrogateescape"), key


def _unhex(text: bytes) -> bytes | None:
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:
        return None


def warn_of_times(path: Path) -> int | None:
    """Log a warning where a certificate is not valid yet, or no longer.

    Returns:
        When it ceases to be valid, in seconds since the epoch; None: not known.
    """
    if not path.is_file():
        return None  # a pipe, and read already
    start, end = certificate_validity(FileContent.read(path))
    for seconds, wrong, what in (
        (start, start > time.time(), "is not valid before"),
        (end, end < time.time(), "expired on"),
    ):
        if wrong:
            date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
            _log.warning("%s: the certificate %s %s", path, what, date)
    return end
