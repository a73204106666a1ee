"""`gnutls-cookie probe --alive HOST PORT` before the rest of the package is imported.

A health check runs it every few seconds, and the package takes ten times as long to import as the
answer takes to come. Any other command line goes on to cli/probe, whose hello is the same.
"""

import _signal as signal  # type: ignore[import-not-found]
import _socket  # `socket` takes 5 ms
import os
import sys
import time

__all__ = ["HELLO", "asked", "hello", "run"]

# A ClientHello (RFC 6347 4.2.2): what stands before and after its random.
HELLO = (
    bytes.fromhex("16feff000000000000000000f8010000ec00000000000000ecfefd"),
    bytes.fromhex(
        "00000038c02bc02fc02cc030c0aec0acc009c013c00ac014c023c027009e00330039009c002f0035c0a8c0a4"
        "00a800ae008cc037c03500aa009000ff0100008a00170000000a000c000a001d0017001800190100000b0002"
        "0100000d001800160403050306030804080508060401050106010203020100150050"
    )
    + bytes(80),  # padding (RFC 7685)
)
_ALERT = bytes.fromhex("15fefd000000000000000200020228")  # handshake_failure
_KINDS = {2: "ServerHello", 3: "HelloVerifyRequest"}
_HANDSHAKE, _TYPE_AT = 22, 13  # of a record; where the type of its message stands
_SECONDS = 1.0  # --timeout of probe


def hello() -> bytes:
    """A ClientHello with a random of its own."""
    return HELLO[0] + os.urandom(32) + HELLO[1]


def asked(words: list[str]) -> tuple[str, int, float] | None:
    """Host, port and timeout in seconds of `probe --alive [--timeout SECONDS] HOST PORT`, in any
    order; None: the command line is another one, or has no stdout."""
    rest, seconds = words[1:], _SECONDS
    try:
        rest.remove("--alive")
        if "--timeout" in rest:
            at = rest.index("--timeout")
            seconds = float(rest[at + 1])
            del rest[at : at + 2]
        host, port = rest
        number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    except (ValueError, IndexError):
        return None
    fits = words[0] == "probe" and 1 <= number <= 65535 and 0.01 <= seconds <= 60
    if not fits or not host or host.startswith("-") or None in (sys.stdout, sys.stderr):
        return None
    return host, number, seconds


def run(words: list[str]) -> int | None:
    """Send one hello, and say whether it is answered.

    Returns:
        The exit code, 0 or 2; None: nothing was sent, as the command line is another one, or HOST
        is not known.
    """
    given = asked(words)
    if given is None:
        return None
    host, port, timeout = given
    try:
        found = _socket.getaddrinfo(host, port, type=_socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return None
    family, kind, protocol, _, address = found[0]
    assert isinstance(address[0], str)  # else a Python without IPv6
    where = f"{address[0]} port {address[1]}"
    sock = _socket.socket(family, kind, protocol)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
        began = time.monotonic()
        sock.send(hello())
        answer = sock.recv(65535)
        seconds = time.monotonic() - began
        if _kind(answer) == _KINDS[2]:  # a server of one client must not wait for this one
            sock.send(_ALERT)
    except TimeoutError:
        return _say(2, f"gnutls-cookie probe: {where}: silence")
    except ConnectionRefusedError:
        return _say(2, f"gnutls-cookie probe: {where}: the port is closed")
    except OSError as error:
        return _say(2, f"gnutls-cookie probe: {where}: {error}")
    finally:
        sock.close()
    return _say(1, f"{where}: alive, {_kind(answer)} after {seconds * 1000:.1f} ms")


def _kind(answer: bytes) -> str:
    if len(answer) > _TYPE_AT and answer[0] == _HANDSHAKE:
        return _KINDS.get(answer[_TYPE_AT], f"handshake message {answer[_TYPE_AT]}")
    return f"a record of type {answer[0]}" if answer else "an empty datagram"


def _say(descriptor: int, line: str) -> int:
    """Write a line; returns the exit code."""
    try:
        os.write(descriptor, f"{line}\n".encode())
    except BrokenPipeError:
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGPIPE)
    except OSError as error:
        if descriptor == 1:
            _say(2, f"gnutls-cookie probe: stdout: {error.strerror}")
        return 2
    return 0 if descriptor == 1 else 2
