"""What is sent to a server: scripts of steps, each a generator that is given the answers.

greeting() sends one hello, harmless() what every DTLS server must handle, every_bit() a cookie with
each of its bits changed, hurtful() junk.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator
from dataclasses import dataclass

from gnutls_cookie.reference import wire

from .reading import Exchange

__all__ = [
    "FRAGMENTS",
    "GROUPS",
    "JUNK_SIZES",
    "LATE_SHARE",
    "PARAMETERS",
    "Plan",
    "Script",
    "Step",
    "every_bit",
    "greeting",
    "harmless",
    "hurtful",
]

#: What a cookie may depend on besides the client's address (RFC 6347 4.2.1): each is changed in a
#: hello with a cookie that was made for another one.
PARAMETERS = ("version", "random", "session-id", "suites")

#: Questions that can be asked one by one: a server that serves a single client is started again for
#: each.
GROUPS = ("replay", "return", *PARAMETERS, "dead-cookie", "fragments", "junk")

#: Sizes of the junk, in bytes, all of them zero: around the headers of record (13) and handshake
#: (12), and where libgnutls begins to look for a cookie (gnutls_dtls_cookie_verify in lib/dtls.c).
JUNK_SIZES = (1, 12, 13, 24, 25, 60, 62)

#: Fragments of a ClientHello that is not sent whole.
FRAGMENTS = 3

#: How long to wait for what should have arrived already, as a share of the timeout.
LATE_SHARE = 0.2

_TRIES = 2  # of each step: a datagram may be lost
_ALIVE_TRIES = 3  # before a server is considered dead


@dataclass(frozen=True, slots=True)
class Plan:
    """What does not change between the hellos of a client (RFC 6347 4.2.1).

    Attributes:
        random: 32 bytes.
        server_name: for the extension server_name (RFC 6066 3); None leaves it out.
        elsewhere: whether there is a second address to send from.
        groups: which of GROUPS to ask, in addition to the first hellos.
    """

    random: bytes
    server_name: str | None = None
    elsewhere: bool = False
    groups: frozenset[str] = frozenset(GROUPS)


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be sent next.

    Attributes:
        name: of the step; several in a row may have the same name, as retransmissions of a client.
        source: name of the port to send from; each name has a port of its own, "elsewhere" an
            address of its own as well.
        datagrams: to be sent, one after the other.
        wait_share: how long to wait for an answer, as a share of the timeout, 0..1.
    """

    name: str
    source: str
    datagrams: tuple[bytes, ...]
    wait_share: float = 1.0


Script = Generator[Step, Exchange, None]


class _Dead(Exception):
    """The server has stopped answering."""


def greeting(plan: Plan) -> Script:
    """One hello, without a cookie; and an alert where it opened a session."""
    with contextlib.suppress(_Dead):
        yield from _ask(plan, "hello", "first", tries=1)


def harmless(plan: Plan) -> Script:
    """Hellos, whole and in fragments, and alerts: what every DTLS server must handle."""
    with contextlib.suppress(_Dead):
        hello = yield from _ask(plan, "hello", "first")
        cookie = hello.cookie()
        if cookie is not None:
            yield from _with_cookie(plan, cookie)
        elif not hello.received:
            return
        if "fragments" in plan.groups:
            yield from _in_fragments(plan)
        yield from _alive(plan, "end")


def every_bit(plan: Plan) -> Script:
    """A cookie with each of its bits changed in turn, eight hellos at a time."""
    with contextlib.suppress(_Dead):
        hello = yield from _ask(plan, "bits_hello", "bits")
        cookie = hello.cookie() or b""
        for at, byte in enumerate(cookie):
            wrong = [cookie[:at] + bytes([byte ^ 1 << bit]) + cookie[at + 1 :] for bit in range(8)]
            number = _TRIES + 8 * at
            hellos = [_hello(plan, 1, one, number + bit, 1)[0] for bit, one in enumerate(wrong)]
            answer = yield Step(f"bits_{at}", "bits", tuple(hellos), LATE_SHARE)
            accepted = answer.first("ServerHello")
            if accepted is not None:  # the rest would go to the session
                yield Step("alert", "bits", (_alert(accepted.version, number + 8),), 0.0)
                return


def hurtful(plan: Plan) -> Script:
    """Datagrams that are not DTLS. One of 1 byte makes gnutls-serv spin until it is killed."""
    with contextlib.suppress(_Dead):
        for size in JUNK_SIZES:
            name = f"junk_{size}"
            # The next hello is waited for; an answer to the junk arrives meanwhile.
            yield Step(name, name, (bytes(size),), 0.0)
            yield from _alive(plan, name)
            yield Step(name, name, (), LATE_SHARE)


def _with_cookie(plan: Plan, cookie: bytes) -> Script:
    for name, number in ("record_seq", 5), ("record_seq_48", 0x010203040506):
        yield from _ask(plan, name, name, record_seq=number)
    second = functools.partial(_ask, plan, cookie=cookie, record_seq=1, message_seq=1)
    if "replay" in plan.groups:
        yield from second("replay_port", "replay")
        if plan.elsewhere:
            yield from second("replay_address", "elsewhere")
    if "return" in plan.groups:
        yield from second("return", "first")
    for parameter in PARAMETERS:
        if parameter in plan.groups:
            yield from _with_another(plan, parameter)
    if "dead-cookie" in plan.groups:
        yield from _with_dead_cookie(plan)


def _with_another(plan: Plan, parameter: str) -> Script:
    """A hello that has the cookie of another one: one of its parameters is not the same."""
    name = f"other_{parameter}"
    hello = yield from _ask(plan, f"{name}_hello", name)
    cookie = hello.cookie()
    if cookie:
        yield from _ask(plan, name, name, cookie=cookie, record_seq=1, message_seq=1,
                        changed=parameter)  # fmt: skip


def _with_dead_cookie(plan: Plan) -> Script:
    """What a client sees whose cookie was made with a key that the server has since replaced."""
    hello = yield from _ask(plan, "dead_hello", "dead")
    first = hello.cookie()
    if not first:
        return
    dead = first[:-1] + bytes([first[-1] ^ 0xFF])
    hello = yield from _ask(plan, "dead_cookie", "dead", cookie=dead, record_seq=1, message_seq=1)
    second = hello.cookie()
    if second is not None:
        number = 1 + _TRIES
        yield from _ask(
            plan, "dead_return", "dead", cookie=second, record_seq=number, message_seq=2
        )


def _in_fragments(plan: Plan) -> Script:
    fragments = yield from _ask(plan, "fragments", "fragments", count=FRAGMENTS)
    cookie = fragments.cookie()
    if cookie is not None and len(cookie) <= _MAX_COOKIE_IN_FRAGMENT:
        yield from _ask(
            plan,
            "fragments_return",
            "fragments",
            count=FRAGMENTS,
            cookie=cookie,
            record_seq=_TRIES * FRAGMENTS,
            message_seq=1,
        )


def _ask(
    plan: Plan,
    name: str,
    source: str,
    *,
    count: int = 1,
    cookie: bytes = b"",
    record_seq: int = 0,
    message_seq: int = 0,
    changed: str = "",
    tries: int = _TRIES,
) -> Generator[Step, Exchange, Exchange]:
    """Send a hello until it is answered. If that opens a session, end it."""
    asked = Exchange(name)
    for attempt in range(tries):
        datagrams = _hello(plan, count, cookie, record_seq + attempt * count, message_seq, changed)
        asked = asked.joined((yield Step(name, source, datagrams)))
        if asked.received:
            break
    hello = asked.first("ServerHello")
    if hello is not None:
        # A server of one client at a time must not wait for this one.
        yield Step("alert", source, (_alert(hello.version, record_seq + _TRIES * count),), 0.0)
    elif not asked.received and tries > 1:
        yield from _alive(plan, name)
    return asked


def _alive(plan: Plan, after: str) -> Script:
    name = f"alive_{after}"
    for attempt in range(_ALIVE_TRIES):
        answer = yield Step(name, name, _hello(plan, 1, b"", attempt, 0))
        if answer.received:
            return
    raise _Dead


# --- datagrams ------------------------------------------------------------------------------------

# Today's servers have at least one of these, with certificates and with pre-shared keys.
_CIPHER_SUITES = (
    0xC02B, 0xC02F, 0xC02C, 0xC030, 0xC0AE, 0xC0AC,  # ECDHE, AES-GCM; ECDSA, AES-CCM_8 and CCM
    0xC009, 0xC013, 0xC00A, 0xC014, 0xC023, 0xC027,  # ECDHE, AES-CBC
    0x009E, 0x0033, 0x0039, 0x009C, 0x002F, 0x0035,  # DHE, RSA
    0xC0A8, 0xC0A4, 0x00A8, 0x00AE, 0x008C,  # PSK: AES-CCM_8, CCM, GCM, CBC
    0xC037, 0xC035, 0x00AA, 0x0090,  # ECDHE-PSK, DHE-PSK
    0x00FF,  # TLS_EMPTY_RENEGOTIATION_INFO_SCSV, RFC 5746
)  # fmt: skip
_CURVES = (0x001D, 0x0017, 0x0018, 0x0019, 0x0100)  # x25519, P-256, P-384, P-521, ffdhe2048
_SIGNATURES = (
    0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201,
)  # fmt: skip

# ExtensionType (IANA).
_SERVER_NAME, _SUPPORTED_GROUPS, _EC_POINT_FORMATS, _SIGNATURE_ALGORITHMS = 0, 10, 11, 13
_PADDING, _EXTENDED_MASTER_SECRET = 21, 23

# A hello without a cookie is padded (RFC 7685) so that the first of its fragments has room for a
# cookie of 64 bytes; 35 bytes stand before the cookie's length.
_MAX_COOKIE_IN_FRAGMENT = 64
_BODY_SIZE = FRAGMENTS * 36 + (FRAGMENTS - 1) * _MAX_COOKIE_IN_FRAGMENT

_ALERT_FATAL, _HANDSHAKE_FAILURE = 2, 40  # RFC 5246 7.2


_NEWER = 0xFEFC  # as a client_version: a server answers with the newest it has (RFC 5246 E.1)
_SESSION_ID = bytes(range(32, 64))  # that no server knows
_FEWER_SUITES = _CIPHER_SUITES[:-2] + _CIPHER_SUITES[-1:]  # so that the same one is chosen


def _hello(
    plan: Plan, count: int, cookie: bytes, record_seq: int, message_seq: int, changed: str = ""
) -> tuple[bytes, ...]:
    """A hello in `count` datagrams, with one of PARAMETERS not as in the others."""
    extensions = [
        (_EXTENDED_MASTER_SECRET, b""),
        (_SUPPORTED_GROUPS, wire.encode_numbers("supported_groups", _CURVES)),
        (_EC_POINT_FORMATS, b"\x01\x00"),
        (_SIGNATURE_ALGORITHMS, wire.encode_numbers("signature_algorithms", _SIGNATURES)),
    ]
    if plan.server_name is not None:
        host_name = wire.encode_vector("host_name", plan.server_name.encode("idna"), 2)
        names = wire.encode_vector("server_name_list", b"\x00" + host_name, 2)
        extensions.insert(0, (_SERVER_NAME, names))
    hello = wire.ClientHello(plan.random, _CIPHER_SUITES, extensions=tuple(extensions))
    lacking = _BODY_SIZE - len(hello.encode()) - 4
    if lacking >= 0:
        extensions.append((_PADDING, bytes(lacking)))
    datagrams = wire.client_hello_fragments(
        count,
        random=plan.random[::-1] if changed == "random" else plan.random,
        session_id=_SESSION_ID if changed == "session-id" else b"",
        client_version=_NEWER if changed == "version" else wire.DTLS_1_2,
        cipher_suites=_FEWER_SUITES if changed == "suites" else _CIPHER_SUITES,
        extensions=extensions,
        cookie=cookie,
        record_seq=record_seq,
        message_seq=message_seq,
    )
    return tuple(datagrams)


def _alert(version: int, record_seq: int) -> bytes:
    header = wire.RecordHeader(wire.CONTENT_ALERT, version, 0, record_seq, 2)
    return header.encode() + bytes([_ALERT_FATAL, _HANDSHAKE_FAILURE])
