"""gnutls-cookie probe HOST PORT: how a DTLS server does the cookie exchange, seen from outside.

harmless() and hurtful() say what to send, judge() reads what came back; both know bytes only.
run() has the socket, the questions to the user and the report.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import re
import secrets
import selectors
import socket
import sys
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from .blocking import connect
from .credentials import CertificateCredentials, PSKCredentials
from .errors import GnuTLSError
from .reference import wire
from .session import Credentials

__all__ = [
    "Exchange",
    "Finding",
    "Message",
    "Plan",
    "Step",
    "add_arguments",
    "harmless",
    "hurtful",
    "judge",
    "messages",
    "run",
]

NOTHING_BAD, SOMETHING_BAD, UNUSABLE = 0, 1, 2

#: Sizes of the junk, in bytes, all of them zero: around the headers of record (13) and handshake
#: (12), and where libgnutls begins to look for a cookie (gnutls_dtls_cookie_verify in lib/dtls.c).
JUNK_SIZES = (1, 12, 13, 24, 25, 60, 62)

MOST_DATAGRAMS = 60  # that a probe sends, without the handshake that credentials are given for

#: What can be asked by itself: a server that serves one client and no more gets a question each.
GROUPS = ("replay", "return", "dead-cookie", "fragments", "junk")

Verdict = Literal["good", "bad", "info", "unknown"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found out.

    Attributes:
        check: what was looked at, one word.
        verdict: "good" and "bad" by the RFC; "info" is neither; "unknown" could not be seen.
        seen: what was seen, in words.
        section: where it is written how it should be.
    """

    check: str
    verdict: Verdict
    seen: str
    section: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was sent in a step, and what came back.

    Attributes:
        step: its name.
        sent: datagrams.
        received: datagrams, in order; none where the server was silent.
        refused: the system of the server said that nobody has the port (ICMP).
    """

    step: str
    sent: tuple[bytes, ...] = ()
    received: tuple[bytes, ...] = ()
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be sent next.

    Attributes:
        name: of the step; several in a row may have the same, as a client repeats itself.
        source: name of a port to send from; each has its own, "elsewhere" an address of its own.
        datagrams: to be sent, one after the other.
        patience: how long to wait for an answer; in timeouts, 1 is the whole of it.
    """

    name: str
    source: str
    datagrams: tuple[bytes, ...]
    patience: float = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What does not change between the hellos of a client (RFC 6347 4.2.1).

    Attributes:
        random: 32 bytes.
        server_name: for the extension server_name, RFC 6066 3; None leaves it out.
        elsewhere: whether there is a second address to send from.
        groups: what is asked, beside the first hellos.
    """

    random: bytes
    server_name: str | None = None
    elsewhere: bool = False
    groups: frozenset[str] = frozenset(GROUPS)


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a datagram, as far as it can be read without a key.

    Attributes:
        kind: "ServerHello", "HelloVerifyRequest", "alert 40" and so on.
        record_seq: of its record; -1 where there is no record.
        message_seq: of the handshake message; -1 where it is none.
        version: server_version of the two hellos, 0 in all others.
    """

    kind: str
    record_seq: int = -1
    message_seq: int = -1
    version: int = 0


Script = Generator[Step, Exchange, None]


# --- what is sent ---------------------------------------------------------------------------------

# What servers of today have at least one of, with certificates and with pre-shared keys.
_CIPHER_SUITES = (
    0xC02B, 0xC02F, 0xC02C, 0xC030, 0xC0AE, 0xC0AC,  # ECDHE, AES-GCM; ECDSA, AES-CCM_8 and CCM
    0xC009, 0xC013, 0xC00A, 0xC014, 0xC023, 0xC027,  # ECDHE, AES-CBC
    0x009E, 0x0033, 0x0039, 0x009C, 0x002F, 0x0035,  # DHE, RSA
    0xC0A8, 0xC0A4, 0x00A8, 0x00AE, 0x008C,  # PSK: AES-CCM_8, CCM, GCM, CBC
    0xC037, 0xC035, 0x00AA, 0x0090,  # ECDHE-PSK, DHE-PSK
    0x00FF,  # TLS_EMPTY_RENEGOTIATION_INFO_SCSV, RFC 5746
)  # fmt: skip
_GROUPS = (0x001D, 0x0017, 0x0018, 0x0019, 0x0100)  # x25519, P-256, P-384, P-521, ffdhe2048
_SIGNATURES = (
    0x0403, 0x0503, 0x0603, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601, 0x0203, 0x0201,
)  # fmt: skip
_SERVER_NAME, _SUPPORTED_GROUPS, _EC_POINT_FORMATS, _SIGNATURE_ALGORITHMS = 0, 10, 11, 13
_PADDING, _EXTENDED_MASTER_SECRET = 21, 23

# The body of a hello without a cookie: long enough that the first of three fragments holds a
# cookie of 64 bytes (35 bytes stand before its length). Zeros fill it up, RFC 7685.
_FRAGMENTS = 3
_BODY_SIZE = _FRAGMENTS * 36 + 2 * 64

_ALERT_FATAL, _HANDSHAKE_FAILURE = 2, 40  # RFC 5246 7.2

_DEAD_COOKIE = 0xFF  # the last byte of a cookie is changed by it
_TRIES = 2  # of each step, a datagram may be lost
_TRIES_ALIVE = 3
_GRACE = 0.2  # timeouts: for an answer that must be there already if there is one


class _Gone(Exception):
    """The server answers nothing any more."""


def harmless(plan: Plan) -> Script:
    """The steps that every DTLS server has to bear: hellos, whole and in fragments, and alerts."""
    with contextlib.suppress(_Gone):
        hello = yield from _ask(plan, "hello", "first")
        cookie = _cookie(hello)
        if cookie is not None:
            yield from _with_cookie(plan, cookie)
        elif not hello.received:
            return
        if "fragments" in plan.groups:
            yield from _in_fragments(plan)
        yield from _alive(plan, "end")


def hurtful(plan: Plan) -> Script:
    """Datagrams that are no DTLS. One of 1 byte makes a gnutls-serv spin for ever."""
    with contextlib.suppress(_Gone):
        for size in JUNK_SIZES:
            # What answers the next hello has had its time for the junk.
            yield Step(f"junk_{size}", f"junk_{size}", (bytes(size),), 0.0)
            yield from _alive(plan, f"junk_{size}")
            yield Step(f"junk_{size}", f"junk_{size}", (), _GRACE)


def _with_cookie(plan: Plan, cookie: bytes) -> Script:
    for name, number in ("record_seq", 5), ("record_seq_48", 0x010203040506):
        yield from _ask(plan, name, name, record_seq=number)
    again = {"record_seq": 1, "message_seq": 1}
    if "replay" in plan.groups:
        yield from _ask(plan, "replay_port", "replay", cookie=cookie, **again)
        if plan.elsewhere:
            yield from _ask(plan, "replay_address", "elsewhere", cookie=cookie, **again)
    if "return" in plan.groups:
        yield from _ask(plan, "return", "first", cookie=cookie, **again)
    if "dead-cookie" in plan.groups:
        yield from _with_dead_cookie(plan)


def _with_dead_cookie(plan: Plan) -> Script:
    """What a client sees whose cookie was made with a key that the server has no more."""
    hello = yield from _ask(plan, "dead_hello", "dead")
    first = _cookie(hello)
    if not first:
        return
    dead = first[:-1] + bytes([first[-1] ^ _DEAD_COOKIE])
    hello = yield from _ask(plan, "dead_cookie", "dead", cookie=dead, record_seq=1, message_seq=1)
    second = _cookie(hello)
    if second is not None:
        number = 1 + _TRIES
        yield from _ask(
            plan, "dead_return", "dead", cookie=second, record_seq=number, message_seq=2
        )


def _in_fragments(plan: Plan) -> Script:
    fragments = yield from _ask(plan, "fragments", "fragments", count=_FRAGMENTS)
    cookie = _cookie(fragments)
    if cookie is not None and len(cookie) <= 64:
        yield from _ask(
            plan,
            "fragments_return",
            "fragments",
            count=_FRAGMENTS,
            cookie=cookie,
            record_seq=_TRIES * _FRAGMENTS,
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
) -> Generator[Step, Exchange, Exchange]:
    """Send a hello until it is answered. Where that opens a session, end it."""
    asked = Exchange(name)
    for attempt in range(_TRIES):
        datagrams = _hello(plan, count, cookie, record_seq + attempt * count, message_seq)
        asked = _joined(asked, (yield Step(name, source, datagrams)))
        if asked.received:
            break
    hello = _first(asked, "ServerHello")
    if hello is not None:
        # A server of one client at a time must not wait for this one.
        alert = _alert(hello.version, record_seq + _TRIES * count)
        yield Step("alert", source, (alert,), 0.0)
    elif not asked.received:
        yield from _alive(plan, name)
    return asked


def _alive(plan: Plan, after: str) -> Script:
    for attempt in range(_TRIES_ALIVE):
        name = f"alive_{after}"
        answer = yield Step(name, name, _hello(plan, 1, b"", attempt, 0))
        if answer.received:
            return
    raise _Gone


def _hello(
    plan: Plan, count: int, cookie: bytes, record_seq: int, message_seq: int
) -> tuple[bytes, ...]:
    extensions = [
        (_EXTENDED_MASTER_SECRET, b""),
        (_SUPPORTED_GROUPS, _numbers(_GROUPS)),
        (_EC_POINT_FORMATS, b"\x01\x00"),
        (_SIGNATURE_ALGORITHMS, _numbers(_SIGNATURES)),
    ]
    if plan.server_name is not None:
        name = plan.server_name.encode("idna")
        entry = b"\x00" + len(name).to_bytes(2, "big") + name
        extensions.insert(0, (_SERVER_NAME, len(entry).to_bytes(2, "big") + entry))
    hello = wire.ClientHello(plan.random, _CIPHER_SUITES, extensions=tuple(extensions))
    lacking = _BODY_SIZE - len(hello.encode()) - 4
    if lacking >= 0:
        extensions.append((_PADDING, bytes(lacking)))
    datagrams = wire.client_hello_fragments(
        count,
        random=plan.random,
        cipher_suites=_CIPHER_SUITES,
        extensions=extensions,
        cookie=cookie,
        record_seq=record_seq,
        message_seq=message_seq,
    )
    return tuple(datagrams)


def _numbers(values: Iterable[int]) -> bytes:
    data = b"".join(value.to_bytes(2, "big") for value in values)
    return len(data).to_bytes(2, "big") + data


def _alert(version: int, record_seq: int) -> bytes:
    header = wire.RecordHeader(wire.CONTENT_ALERT, version, 0, record_seq, 2)
    return header.encode() + bytes([_ALERT_FATAL, _HANDSHAKE_FAILURE])


# --- what came back -------------------------------------------------------------------------------


def messages(datagram: bytes) -> list[Message]:
    """The messages in a datagram, in order; what cannot be read is one, too, and the last."""
    found: list[Message] = []
    while datagram:
        try:
            record = wire.RecordHeader.decode(datagram)
        except wire.WireError:
            return [*found, Message("bytes of no record")]
        end = wire.RECORD_HEADER_SIZE + record.length
        fragment, datagram = datagram[wire.RECORD_HEADER_SIZE : end], datagram[end:]
        found += _messages_of(record, fragment)
    return found


def _messages_of(record: wire.RecordHeader, fragment: bytes) -> list[Message]:
    if len(fragment) < record.length:
        return [Message("a record cut short", record.record_seq)]
    if record.epoch:
        return [Message("an encrypted record", record.record_seq)]
    if record.content_type == wire.CONTENT_ALERT and len(fragment) == 2:
        return [Message(f"alert {fragment[1]}", record.record_seq)]
    if record.content_type != wire.CONTENT_HANDSHAKE:
        return [Message(f"a record of type {record.content_type}", record.record_seq)]
    found: list[Message] = []
    names = {wire.SERVER_HELLO: "ServerHello", wire.HELLO_VERIFY_REQUEST: "HelloVerifyRequest"}
    while fragment:
        try:
            header = wire.HandshakeHeader.decode(fragment)
        except wire.WireError:
            return [*found, Message("a handshake message cut short", record.record_seq)]
        end = wire.HANDSHAKE_HEADER_SIZE + header.fragment_length
        body, fragment = fragment[wire.HANDSHAKE_HEADER_SIZE : end], fragment[end:]
        name = names.get(header.msg_type, f"handshake message {header.msg_type}")
        if header.fragment_offset:
            name += ", continued"
        version = int.from_bytes(body[:2], "big") if name in names.values() else 0
        found.append(Message(name, record.record_seq, header.message_seq, version))
    return found


def _joined(one: Exchange, other: Exchange) -> Exchange:
    return replace(
        one,
        sent=one.sent + other.sent,
        received=one.received + other.received,
        refused=other.refused,
    )


def _all(exchange: Exchange) -> list[Message]:
    return [message for datagram in exchange.received for message in messages(datagram)]


def _first(exchange: Exchange, kind: str) -> Message | None:
    return next((message for message in _all(exchange) if message.kind == kind), None)


def _requests(exchange: Exchange) -> list[wire.HelloVerifyRequest]:
    """The HelloVerifyRequests that are well-formed."""
    found = []
    for datagram in exchange.received:
        with contextlib.suppress(wire.WireError):
            found.append(wire.HelloVerifyRequest.decode(datagram))
    return found


def _cookie(exchange: Exchange) -> bytes | None:
    """The cookie of the last HelloVerifyRequest: the one that a client goes on with."""
    found = _requests(exchange)
    return found[-1].cookie if found else None


def _size(datagrams: Iterable[bytes]) -> int:
    return sum(len(datagram) for datagram in datagrams)


def _described(exchange: Exchange) -> str:
    """What came, in words: "ServerHello, handshake message 11"; "silence"."""
    kinds = list(dict.fromkeys(message.kind for message in _all(exchange)))
    if not kinds:
        return "the port is closed" if exchange.refused else "silence"
    return ", ".join(kinds)


# --- what it means --------------------------------------------------------------------------------

_COOKIES = "RFC 6347 4.2.1"
_MESSAGE_SEQ = "RFC 6347 4.2.2"
_FRAGMENTED = "RFC 6347 4.2.3"
_INVALID = "RFC 6347 4.1.2.7"  # invalid records are discarded in silence

Exchanges = Mapping[str, Exchange]


def judge(exchanges: Sequence[Exchange]) -> list[Finding]:
    """Say what is good and bad about a server. A pure function of what was sent and received.

    Args:
        exchanges: in the order of sending; several of one step count as one.

    Returns:
        The findings, those that belong together beside each other.
    """
    by: dict[str, Exchange] = {}
    for one in exchanges:
        by[one.step] = _joined(by.get(one.step, Exchange(one.step)), one)
    return [finding for check in _CHECKS for finding in check(by)]


def _judge_cookie(by: Exchanges) -> Iterator[Finding]:
    hello = by.get("hello", Exchange("hello"))
    what = "a ClientHello without a cookie is answered by"
    requests = _requests(hello)
    if requests:
        yield Finding("cookie", "good", f"{what} a HelloVerifyRequest", _COOKIES)
    elif _first(hello, "ServerHello"):
        seen = f"{what} {_described(hello)}: no cookie is demanded"
        yield Finding("cookie", "bad", seen, _COOKIES)
    elif _first(hello, "HelloVerifyRequest"):
        yield Finding("cookie", "bad", f"{what} {_malformed(hello)}", _COOKIES)
    else:
        yield Finding("cookie", "unknown", f"{what} {_described(hello)}", _COOKIES)
    if hello.received:
        into, out = len(hello.sent[-1]), _size(hello.received)
        seen = f"{out} bytes in {_counted(len(hello.received), 'datagram')} for {into}"
        verdict: Verdict = "good" if out <= into else "bad"
        yield Finding("amplification", verdict, f"{seen}: factor {out / into:.2g}", _COOKIES)
    for request in requests[:1]:
        yield from _judge_request(request)


def _judge_request(request: wire.HelloVerifyRequest) -> Iterator[Finding]:
    versions = {"record version": request.record_version, "server_version": request.server_version}
    # "SHOULD use DTLS version 1.0 regardless of the version [...] to be negotiated"
    verdict: Verdict = "good" if set(versions.values()) == {wire.DTLS_1_0} else "info"
    seen = ", ".join(f"{name} {version:04x}" for name, version in versions.items())
    yield Finding("versions", verdict, f"{seen}; feff is due", _COOKIES)
    size = len(request.cookie)
    seen = f"{size} bytes, in a HelloVerifyRequest of {len(request.encode())}"
    if size > 32:
        yield Finding("cookie_size", "info", f"{seen}: DTLS 1.0 has 32 at most", "RFC 4347 4.2.1")
    elif size < 8:
        yield Finding("cookie_size", "bad", f"{seen}: can be guessed", _COOKIES)
    else:
        yield Finding("cookie_size", "good", seen, _COOKIES)


def _judge_record_seq(by: Exchanges) -> Iterator[Finding]:
    # "MUST use the record sequence number in the ClientHello as the record sequence number in the
    # HelloVerifyRequest", so that none is used twice.
    pairs = [
        (wire.RecordHeader.decode(by[name].sent[-1]).record_seq, _requests(by[name]))
        for name in ("record_seq", "record_seq_48")
        if name in by and by[name].sent
    ]
    if not pairs:
        return
    seen = "; ".join(
        f"{sent} is answered by {requests[-1].record_seq if requests else 'nothing'}"
        for sent, requests in pairs
    )
    answered = [(sent, requests[-1].record_seq) for sent, requests in pairs if requests]
    verdict: Verdict = "good" if len(answered) == len(pairs) else "unknown"
    if any(sent != echoed for sent, echoed in answered):
        verdict = "bad"
        if any(echoed and sent != echoed for sent, echoed in answered):
            seen += ": not all 48 bits are echoed"
    yield Finding("record_seq", verdict, seen, _COOKIES)


def _judge_replay(by: Exchanges) -> Iterator[Finding]:
    for step, place in ("replay_port", "port"), ("replay_address", "address"):
        if step not in by or not by[step].sent:
            continue
        exchange = by[step]
        seen = f"a cookie sent from another {place} is answered by {_described(exchange)}"
        if not _first(exchange, "ServerHello"):
            verdict: Verdict = "good" if exchange.received else "info"
            yield Finding(step, verdict, f"{seen}: not accepted", _COOKIES)
        elif place == "port":  # RFC 6347 binds Client-IP only
            yield Finding(step, "info", f"{seen}: the port is not bound into it", _COOKIES)
        else:
            yield Finding(step, "bad", f"{seen}: anybody's cookie is good for all", _COOKIES)


def _judge_return(by: Exchanges) -> Iterator[Finding]:
    if "return" not in by:
        return
    exchange = by["return"]
    hello = _first(exchange, "ServerHello")
    if hello is None:
        seen = f"a cookie sent back is answered by {_described(exchange)}"
        yield Finding("return", "bad", seen, _COOKIES)
        return
    sent = wire.RecordHeader.decode(exchange.sent[-1]).record_seq
    seen = f"ServerHello has message_seq {hello.message_seq} (1 is due)"
    verdict: Verdict = "good" if hello.message_seq == 1 else "bad"
    yield Finding("return", verdict, f"a cookie sent back is accepted; {seen}", _MESSAGE_SEQ)
    # "MUST use the record sequence number in the ClientHello [...] in its initial ServerHello"
    seen = f"ServerHello has record_seq {hello.record_seq} ({sent} is due)"
    verdict = "good" if hello.record_seq == sent else "bad"
    yield Finding("return_record_seq", verdict, seen, _COOKIES)


def _judge_dead_cookie(by: Exchanges) -> Iterator[Finding]:
    if "dead_cookie" not in by:
        return
    answer = by["dead_cookie"]
    if _first(answer, "ServerHello"):
        yield Finding("wrong_cookie", "bad", "a wrong cookie is accepted", _COOKIES)
        return
    requests = _requests(answer)
    if not requests:
        # "SHOULD treat it the same as a ClientHello with no cookie"
        seen = f"a dead cookie is answered by {_described(answer)}: the client gets no further"
        yield Finding("heals", "bad", seen, _COOKIES)
        return
    # A client has read message_seq 0 and drops it from then on as a repetition.
    number = requests[-1].message_seq
    seen = f"a dead cookie: second HelloVerifyRequest with message_seq {number} (1 is due)"
    after = by.get("dead_return", Exchange("dead_return"))
    hello = _first(after, "ServerHello")
    if hello is None:
        seen += f", its cookie is answered by {_described(after)}"
    else:
        seen += f", then ServerHello with message_seq {hello.message_seq} (2 is due)"
    if number == 1 and hello is not None and hello.message_seq == 2:
        yield Finding("heals", "good", f"{seen}: the client gets on", _MESSAGE_SEQ)
    else:
        yield Finding("heals", "bad", f"{seen}: the client stalls", _MESSAGE_SEQ)


def _judge_fragments(by: Exchanges) -> Iterator[Finding]:
    if "fragments" not in by or not by["fragments"].sent:
        return
    hello = by["fragments"]
    tries = max(1, len(hello.sent) // _FRAGMENTS)
    what = f"a ClientHello in {_FRAGMENTS} fragments"
    requests = _requests(hello)
    if requests:
        seen = f"{what} is answered by {_counted(len(requests), 'HelloVerifyRequest')}; 1 is due"
        verdict: Verdict = "good" if len(requests) <= tries else "bad"
        yield Finding("fragments", verdict, seen, _FRAGMENTED)
    elif not _first(hello, "ServerHello"):
        # "MUST buffer it until it has the entire handshake message"
        seen = f"{what} is answered by {_described(hello)}"
        yield Finding("fragments", "bad", seen, _FRAGMENTED)
        return
    complete = by.get("fragments_return", Exchange("")) if requests else hello
    if requests and not complete.sent:
        yield Finding("fragments_return", "unknown", "not asked: a long cookie", _FRAGMENTED)
        return
    answer = _described(complete)
    verdict = "good" if _first(complete, "ServerHello") else "bad"
    seen = f"{what}{' with its cookie' if requests else ''} is answered by {answer}"
    yield Finding("fragments_return", verdict, seen, _FRAGMENTED)


def _judge_junk(by: Exchanges) -> Iterator[Finding]:
    junk = [one for step, one in by.items() if step.startswith("junk_") and one.sent]
    if not junk:
        return
    sizes = ", ".join(str(_size(one.sent)) for one in junk)
    answered = [one for one in junk if one.received]
    if answered:
        worst = max(_size(one.received) / _size(one.sent) for one in answered)
        seen = "; ".join(
            f"{_size(one.sent)} by {_size(one.received)} ({_described(one)})" for one in answered
        )
        seen = f"bytes of junk are answered: {seen}: factor {worst:.3g}"
        yield Finding("junk", "bad", seen, _INVALID)
    elif all(one.received for step, one in by.items() if step.startswith("alive_junk_")):
        yield Finding("junk", "good", f"silence on junk of {sizes} bytes", _INVALID)
    else:
        seen = f"silence on junk of {sizes}, and then on everything"
        yield Finding("junk", "unknown", seen, _INVALID)


def _judge_alive(by: Exchanges) -> Iterator[Finding]:
    alive = {step: one for step, one in by.items() if step.startswith("alive_")}
    for step, one in alive.items():
        if not one.received:
            after = step.removeprefix("alive_")
            what = "all of this" if after == "end" else f"the step {after}"
            section = ""
            if after.startswith("junk_"):
                section = _INVALID
                what = f"junk of {_counted(int(after.removeprefix('junk_')), 'byte')}"
            how = "no ClientHello is answered any more"
            if one.refused:
                how = "nobody else is let in, the port is closed"
            yield Finding("alive", "bad", f"after {what}: {how}", section)
            return
    if any(step.startswith("alive_junk") for step in alive):
        yield Finding("alive", "good", "a ClientHello is answered after the junk", _INVALID)


def _malformed(exchange: Exchange) -> str:
    for datagram in exchange.received:
        try:
            wire.HelloVerifyRequest.decode(datagram)
        except wire.WireError as error:
            return f"a malformed HelloVerifyRequest: {error}"
    return "a HelloVerifyRequest"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


_CHECKS = (
    _judge_cookie,
    _judge_record_seq,
    _judge_replay,
    _judge_return,
    _judge_dead_cookie,
    _judge_fragments,
    _judge_junk,
    _judge_alive,
)


# --- the command ----------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("host", metavar="HOST")
    add("port", metavar="PORT", type=int)
    add("--rate", metavar="N", type=float, default=20.0, help="datagrams a second, at most (20)")
    add("--timeout", metavar="SECONDS", type=float, default=1.0, help="for each answer (1)")
    add("--hurtful", action="store_true", help="send junk too; it kills some servers")
    add("--harmless", action="store_true", help="send no junk, and do not ask")
    add("--only", metavar="GROUP", choices=GROUPS, action="append", help=", ".join(GROUPS))
    add("--yes", "-y", action="store_true", help="yes to every question")
    add("--pskusername", metavar="TEXT", help="PSK identity, for a whole handshake")
    add("--pskkey", metavar="HEX", help="PSK key")
    add("--insecure", action="store_true", help="a whole handshake, any certificate is taken")
    add("--json", action="store_true", help="print the report as JSON, with all datagrams")


def run(options: argparse.Namespace) -> int:
    """Ask the server, and print what was found.

    Returns:
        0 where nothing bad was found, 1 where something was, 2 where there was no answer, or the
        options are unusable, or the user said no.
    """
    try:
        credentials = _credentials(options)
        if not (0 < options.rate <= 1000 and 0 < options.timeout <= 60):
            raise ValueError("--rate must be in 0..1000 and --timeout in 0..60, above 0")
        family, address = _resolved(options.host, options.port)
        if options.hurtful and options.harmless:
            raise ValueError("either --hurtful or --harmless")
        loopback = ipaddress.ip_address(address[0].partition("%")[0]).is_loopback
        if not loopback:
            _consent(options, f"Send up to {MOST_DATAGRAMS} datagrams to {_shown(address)}?")
        junk = not options.harmless and _junk_too(options, address)
    except (OSError, ValueError, OverflowError, GnuTLSError) as error:
        print(f"gnutls-cookie probe: {error}", file=sys.stderr)
        return UNUSABLE
    server_name = None if _is_address(options.host) else options.host
    elsewhere = loopback and family == socket.AF_INET
    groups = frozenset(options.only or GROUPS)
    plan = Plan(secrets.token_bytes(wire.RANDOM_SIZE), server_name, elsewhere, groups)
    handshake: list[Finding] = []
    process: list[Finding] = []
    try:
        with _Link(family, address, options.rate, options.timeout) as link:
            link.follow(harmless(plan))
            if link.answers and credentials is not None:
                handshake = [_handshake(options, credentials)]
            if link.answers and junk:
                link.follow(hurtful(plan))
    except OSError as error:
        print(f"gnutls-cookie probe: {_shown(address)}: {error}", file=sys.stderr)
        return UNUSABLE
    if not link.answers and loopback:
        process = _process(options.port)
    findings = [*judge(link.exchanges), *handshake, *process]
    if link.spent:
        seen = f"{MOST_DATAGRAMS} datagrams are spent: not all was asked"
        findings.append(Finding("end", "unknown", seen, ""))
    answered = any(one.received for one in link.exchanges)
    if options.json:
        print(json.dumps(_as_dict(address, link, findings)))
    elif answered:
        print(_text(address, link, findings))
    if not answered:
        print(f"gnutls-cookie probe: {_shown(address)}: no answer", file=sys.stderr)
        return UNUSABLE
    return SOMETHING_BAD if any(one.verdict == "bad" for one in findings) else NOTHING_BAD


class _Link:
    """The sockets to a server: so many datagrams a second, so many in all, each wait bounded."""

    def __init__(self, family: int, address: tuple[str, int], rate: float, timeout: float) -> None:
        self.exchanges: list[Exchange] = []
        self.answers = True  # whether the server answered when it was last asked
        self.spent = False
        self.sent = 0
        self._family = family
        self._address = address
        self._pause = 1 / rate
        self._timeout = timeout
        self._next = 0.0
        self._sockets: dict[str, socket.socket] = {}

    def __enter__(self) -> _Link:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets.values():
            sock.close()

    def follow(self, script: Script) -> None:
        """Do what a script asks for, and keep what came of it."""
        try:
            step = next(script)
            while self.sent + len(step.datagrams) <= MOST_DATAGRAMS:
                exchange = self._exchange(step)
                self.exchanges.append(exchange)
                if step.patience == 1.0:
                    self.answers = bool(exchange.received)
                step = script.send(exchange)
            self.spent = True
        except StopIteration:
            return
        finally:
            script.close()

    def _exchange(self, step: Step) -> Exchange:
        sock = self._socket(step.source)
        if sock is None:
            return Exchange(step.name)
        received: list[bytes] = []
        refused = False
        for datagram in step.datagrams:
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._pause
            self.sent += 1
            # Linux tells an ICMP error of before at the next call, and sends nothing then.
            for _ in range(2):
                try:
                    sock.send(datagram)
                    break
                except ConnectionRefusedError:
                    refused = True
        deadline = time.monotonic() + self._timeout * step.patience
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            # After the first answer a little for those that come with it, as those of a flight do.
            while selector.select(max(0.0, deadline - time.monotonic())):
                try:
                    received.append(sock.recv(65535))
                except ConnectionRefusedError:
                    refused = True
                    break
                deadline = min(deadline, time.monotonic() + self._timeout * _GRACE)
                if len(received) >= 100:
                    break
        return Exchange(step.name, step.datagrams, tuple(received), refused and not received)

    def _socket(self, source: str) -> socket.socket | None:
        """The socket of that name; None where the system has no other address to send from."""
        if source not in self._sockets:
            sock = socket.socket(self._family, socket.SOCK_DGRAM)
            try:
                if source == "elsewhere":
                    sock.bind((_ELSEWHERE, 0))
                sock.connect(self._address)
            except OSError:
                sock.close()
                if source == "elsewhere":
                    return None
                raise
            self._sockets[source] = sock
        return self._sockets[source]


_ELSEWHERE = "127.77.77.77"  # all of 127.0.0.0/8 is this host on Linux


def _resolved(host: str, port: int) -> tuple[int, tuple[str, int]]:
    if not 1 <= port <= 65535:
        raise ValueError(f"a port is in 1..65535, not {port}")
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    return family, address  # type: ignore[return-value]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _shown(address: tuple[str, int]) -> str:
    return f"{address[0]} port {address[1]}"


def _consent(options: argparse.Namespace, question: str) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("no address of this machine: --yes is needed without a terminal")
    if not _agreed(question):
        raise ValueError("not probed")


def _junk_too(options: argparse.Namespace, address: tuple[str, int]) -> bool:
    if options.only and "junk" not in options.only:
        return False
    if options.yes or options.hurtful:
        return True
    question = f"Send junk too? It kills some servers; is {_shown(address)} yours to lose?"
    return sys.stdin.isatty() and _agreed(question)


def _agreed(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _credentials(options: argparse.Namespace) -> Credentials | None:
    if (options.pskusername is None) != (options.pskkey is None):
        raise ValueError("--pskusername and --pskkey go together")
    if options.pskusername is not None:
        try:
            return PSKCredentials(options.pskusername, bytes.fromhex(options.pskkey))
        except ValueError:
            raise ValueError("--pskkey must be hexadecimal") from None
    return CertificateCredentials() if options.insecure else None


def _handshake(options: argparse.Namespace, credentials: Credentials) -> Finding:
    try:
        with connect(
            options.host,
            options.port,
            credentials=credentials,
            verify_peer=False,
            handshake_timeout=max(5.0, 5 * options.timeout),
        ) as connection:
            seen = f"complete: {connection.session.description}"
            return Finding("handshake", "good", seen, "RFC 6347 4.2.4")
    except (OSError, GnuTLSError) as error:
        return Finding("handshake", "bad", f"not complete: {error}", "RFC 6347 4.2.4")


def _process(port: int) -> list[Finding]:
    """What the process that has a port on this machine is busy with, where /proc tells it."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for pid in _owners(port):
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
            before = _cpu_seconds(pid)
            time.sleep(1)
            share = _cpu_seconds(pid) - before
            verdict: Verdict = "bad" if share > 0.1 else "info"
            how = "it spins" if verdict == "bad" else "it waits"
            seen = f"{name} ({pid}) uses {share:.0%} of a core with nothing to do: {how}"
            return [Finding("process", verdict, seen, "")]
    return []


def _owners(port: int) -> Iterator[int]:
    inodes = set()
    for table in "udp", "udp6":
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[2].endswith(":0000"):
                inodes.add(f"socket:[{fields[9]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) in inodes:
                yield int(link.parts[2])


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _as_dict(
    address: tuple[str, int], link: _Link, findings: Sequence[Finding]
) -> dict[str, object]:
    return {
        "address": address[0],
        "port": address[1],
        "datagrams_sent": link.sent,
        "findings": [asdict(one) for one in findings],
        "exchanges": [
            {
                "step": one.step,
                "sent": [datagram.hex() for datagram in one.sent],
                "received": [datagram.hex() for datagram in one.received],
                "refused": one.refused,
            }
            for one in link.exchanges
        ],
    }


def _text(address: tuple[str, int], link: _Link, findings: Sequence[Finding]) -> str:
    verdicts = [one.verdict for one in findings]
    order: tuple[Verdict, ...] = ("bad", "unknown", "info", "good")
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in order if one in verdicts)
    lines = [f"{_shown(address)}: {counts}; {_counted(link.sent, 'datagram')} sent"]
    for one in findings:
        section = f"  [{one.section}]" * bool(one.section)
        lines.append(f"{one.verdict:<8}{one.check:<18}{_printable(one.seen)}{section}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Without what a server's texts could do to a terminal."""
    return re.sub(r"[^\x20-\x7e]", "?", text)
