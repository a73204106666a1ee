"""What the answers of a server mean by the RFC. Pure functions of what was sent and received."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from gnutls_cookie.reference import wire

from .reading import Exchange
from .script import FRAGMENTS, PARAMETERS

__all__ = ["Finding", "Verdict", "assess"]

Verdict = Literal["good", "bad", "info", "unknown"]

_COOKIES = "RFC 6347 4.2.1"
_MESSAGE_SEQ = "RFC 6347 4.2.2"
_FRAGMENTED = "RFC 6347 4.2.3"
_INVALID = "RFC 6347 4.1.2.7"  # invalid records are discarded silently

# What others call what is asked here: TLS-Anvil's ids (DoS.java of its tests of RFC 6347), and a
# requirement of Common Criteria's protection profile for network devices (NDcPP 3.0e).
_WRONG_COOKIE = "TLS-Anvil 6347-g65TNbT3uV, FCS_DTLSS_EXT.1.2"
_ALSO = {
    "record_seq": "TLS-Anvil 6347-5R0A5tlkOm",
    "return_record_seq": "TLS-Anvil 6347-56hL9Blfzp",
    "versions": "TLS-Anvil 6347-z0AiXbV3Y6 asks for the ServerHello's",
    "heals": "TLS-Anvil 6347-g65TNbT3uV",
    "wrong_cookie": _WRONG_COOKIE,
    "every_bit": _WRONG_COOKIE,
}

# The parameters of a hello, as a finding names their change.
_FIELDS = {
    "version": "another client_version",
    "random": "another random",
    "session-id": "another session_id",
    "suites": "other cipher_suites",
}

_Exchanges = Mapping[str, Exchange]  # by step


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a server.

    Attributes:
        check: what was looked at, one word.
        verdict: "good" and "bad" by the RFC; "info" is neither; "unknown" could not be seen.
        seen: what was seen, in words.
        section: the section of the RFC that says what is right; may be empty.
        also: what others call it: a test of TLS-Anvil by its id, a requirement of Common Criteria.
    """

    check: str
    verdict: Verdict
    seen: str
    section: str
    also: str = ""


def assess(exchanges: Sequence[Exchange]) -> list[Finding]:
    """Say what is good and bad about a server. Never raises, whatever the server sent.

    Args:
        exchanges: in the order of sending; several of one step count as one.

    Returns:
        The findings, related ones next to each other.
    """
    by_step: dict[str, Exchange] = {}
    for one in exchanges:
        by_step[one.step] = by_step.get(one.step, Exchange(one.step)).joined(one)
    found = [finding for check in _CHECKS for finding in check(by_step)]
    return [replace(one, also=_ALSO.get(one.check, "")) for one in found]


def _check_cookie(by_step: _Exchanges) -> Iterator[Finding]:
    hello = by_step.get("hello", Exchange("hello"))
    what = "a ClientHello without a cookie is answered by"
    requests = hello.requests()
    if requests:
        yield Finding("cookie", "good", f"{what} a HelloVerifyRequest", _COOKIES)
    elif hello.first("ServerHello"):
        seen = f"{what} {hello.describe()}: no cookie is demanded"
        yield Finding("cookie", "bad", seen, _COOKIES)
    elif hello.first("HelloVerifyRequest"):
        yield Finding("cookie", "bad", f"{what} {_malformed(hello)}", _COOKIES)
    else:
        yield Finding("cookie", "unknown", f"{what} {hello.describe()}", _COOKIES)
    if hello.received:
        into, out = len(hello.sent[-1]), _size(hello.received)
        seen = f"{out} bytes in {_counted(len(hello.received), 'datagram')} for {into}"
        verdict: Verdict = "good" if out <= into else "bad"
        yield Finding("amplification", verdict, f"{seen}: factor {out / into:.2g}", _COOKIES)
    for request in requests[:1]:
        yield from _check_request(request)


def _check_request(request: wire.HelloVerifyRequest) -> Iterator[Finding]:
    versions = {"record version": request.record_version, "server_version": request.server_version}
    # "SHOULD use DTLS version 1.0 regardless of the version [...] to be negotiated"
    verdict: Verdict = "good" if set(versions.values()) == {wire.DTLS_1_0} else "info"
    seen = ", ".join(f"{name} {version:04x}" for name, version in versions.items())
    yield Finding("versions", verdict, f"{seen}; feff is expected", _COOKIES)
    size = len(request.cookie)
    seen = f"{size} bytes, in a HelloVerifyRequest of {len(request.encode())}"
    if size > 32:
        yield Finding(
            "cookie_size",
            "info",
            f"{seen}: GnuTLS' clients take 32 at most, as DTLS 1.0 has them",
            "RFC 4347 4.2.1",
        )
    elif size < 8:
        yield Finding("cookie_size", "bad", f"{seen}: can be guessed", _COOKIES)
    else:
        yield Finding("cookie_size", "good", seen, _COOKIES)


def _check_record_seq(by_step: _Exchanges) -> Iterator[Finding]:
    # "MUST use the record sequence number in the ClientHello as the record sequence number in the
    # HelloVerifyRequest", so that no number is used twice.
    pairs = [
        (wire.RecordHeader.decode(by_step[name].sent[-1]).record_seq, by_step[name].requests())
        for name in ("record_seq", "record_seq_48")
        if name in by_step and by_step[name].sent
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


def _check_replay(by_step: _Exchanges) -> Iterator[Finding]:
    for step, place in ("replay_port", "port"), ("replay_address", "address"):
        if step not in by_step or not by_step[step].sent:
            continue
        exchange = by_step[step]
        seen = f"a cookie sent from another {place} is answered by {exchange.describe()}"
        if not exchange.first("ServerHello"):
            verdict: Verdict = "good" if exchange.received else "info"
            yield Finding(step, verdict, f"{seen}: not accepted", _COOKIES)
        elif place == "port":  # RFC 6347 binds Client-IP only
            yield Finding(step, "info", f"{seen}: the cookie does not depend on the port", _COOKIES)
        else:
            yield Finding(step, "bad", f"{seen}: one client's cookie is valid for all", _COOKIES)


def _check_parameters(by_step: _Exchanges) -> Iterator[Finding]:
    # "The server SHOULD use those values to generate its cookie and verify that they are correct"
    for parameter in PARAMETERS:
        exchange = by_step.get(f"other_{parameter}")
        if exchange is None or not exchange.sent:
            continue
        what = _FIELDS[parameter]
        seen = f"a cookie of a hello with {what} is answered by {exchange.describe()}"
        if exchange.first("ServerHello"):
            verdict: Verdict = "info"
            seen += ": it does not depend on that"
        else:
            verdict = "good" if exchange.requests() else "unknown"
        yield Finding(f"other_{parameter}", verdict, seen, _COOKIES)


def _check_every_bit(by_step: _Exchanges) -> Iterator[Finding]:
    bits = {step: one for step, one in by_step.items() if step.startswith("bits_") and one.sent}
    hello = bits.pop("bits_hello", None)
    if not bits:
        if hello is not None:
            yield Finding("every_bit", "unknown", "no cookie to change", _COOKIES)
        return
    number = 8 * len(bits)
    for step, one in bits.items():
        if one.first("ServerHello"):
            at = step.removeprefix("bits_")
            seen = f"a cookie with one bit of byte {at} changed is accepted"
            yield Finding("every_bit", "bad", seen, _COOKIES)
            return
    if any(one.received for one in bits.values()):
        seen = f"each of {number} cookies with one bit changed is refused"
        yield Finding("every_bit", "good", seen, _COOKIES)
    else:
        seen = f"silence on {number} cookies with one bit changed"
        yield Finding("every_bit", "unknown", seen, _COOKIES)


def _check_return(by_step: _Exchanges) -> Iterator[Finding]:
    if "return" not in by_step:
        return
    exchange = by_step["return"]
    hello = exchange.first("ServerHello")
    if hello is None:
        seen = f"a cookie sent back is answered by {exchange.describe()}"
        yield Finding("return", "bad", seen, _COOKIES)
        return
    sent = wire.RecordHeader.decode(exchange.sent[-1]).record_seq
    seen = f"ServerHello has message_seq {hello.message_seq} (1 is expected)"
    verdict: Verdict = "good" if hello.message_seq == 1 else "bad"
    yield Finding("return", verdict, f"a cookie sent back is accepted; {seen}", _MESSAGE_SEQ)
    # "MUST use the record sequence number in the ClientHello [...] in its initial ServerHello"
    seen = f"ServerHello has record_seq {hello.record_seq} ({sent} is expected)"
    verdict = "good" if hello.record_seq == sent else "bad"
    yield Finding("return_record_seq", verdict, seen, _COOKIES)


def _check_dead_cookie(by_step: _Exchanges) -> Iterator[Finding]:
    if "dead_cookie" not in by_step:
        return
    answer = by_step["dead_cookie"]
    if answer.first("ServerHello"):
        yield Finding("wrong_cookie", "bad", "a wrong cookie is accepted", _COOKIES)
        return
    requests = answer.requests()
    if not requests:
        # "SHOULD treat it the same as a ClientHello with no cookie"
        seen = f"a dead cookie is answered by {answer.describe()}: the client gets no further"
        yield Finding("heals", "bad", seen, _COOKIES)
        return
    # A client that has read message_seq 0 drops all later messages with 0 as repetitions.
    number = requests[-1].message_seq
    seen = f"a dead cookie: second HelloVerifyRequest with message_seq {number} (1 is expected)"
    after = by_step.get("dead_return", Exchange("dead_return"))
    hello = after.first("ServerHello")
    if hello is None:
        seen += f", its cookie is answered by {after.describe()}"
    else:
        seen += f", then ServerHello with message_seq {hello.message_seq} (2 is expected)"
    if number == 1 and hello is not None and hello.message_seq == 2:
        yield Finding("heals", "good", f"{seen}: the client continues", _MESSAGE_SEQ)
    else:
        yield Finding("heals", "bad", f"{seen}: the client stalls", _MESSAGE_SEQ)


def _check_fragments(by_step: _Exchanges) -> Iterator[Finding]:
    if "fragments" not in by_step or not by_step["fragments"].sent:
        return
    hello = by_step["fragments"]
    tries = max(1, len(hello.sent) // FRAGMENTS)
    what = f"a ClientHello in {FRAGMENTS} fragments"
    requests = hello.requests()
    if requests:
        count = _counted(len(requests), "HelloVerifyRequest")
        verdict: Verdict = "good" if len(requests) <= tries else "bad"
        seen = f"{what} is answered by {count}; 1 is expected"
        yield Finding("fragments", verdict, seen, _FRAGMENTED)
    elif not hello.first("ServerHello"):
        # "MUST buffer it until it has the entire handshake message"
        seen = f"{what} is answered by {hello.describe()}"
        yield Finding("fragments", "bad", seen, _FRAGMENTED)
        return
    complete = by_step.get("fragments_return", Exchange("")) if requests else hello
    if requests and not complete.sent:
        yield Finding("fragments_return", "unknown", "not asked: a long cookie", _FRAGMENTED)
        return
    verdict = "good" if complete.first("ServerHello") else "bad"
    with_cookie = " with its cookie" if requests else ""
    seen = f"{what}{with_cookie} is answered by {complete.describe()}"
    yield Finding("fragments_return", verdict, seen, _FRAGMENTED)


def _check_junk(by_step: _Exchanges) -> Iterator[Finding]:
    junk = [one for step, one in by_step.items() if step.startswith("junk_") and one.sent]
    if not junk:
        return
    sizes = ", ".join(str(_size(one.sent)) for one in junk)
    answered = [one for one in junk if one.received]
    if answered:
        worst = max(_size(one.received) / _size(one.sent) for one in answered)
        answers = "; ".join(
            f"{_size(one.sent)} by {_size(one.received)} ({one.describe()})" for one in answered
        )
        seen = f"bytes of junk are answered: {answers}: factor {worst:.3g}"
        yield Finding("junk", "bad", seen, _INVALID)
    elif all(one.received for step, one in by_step.items() if step.startswith("alive_junk_")):
        yield Finding("junk", "good", f"silence on junk of {sizes} bytes", _INVALID)
    else:
        seen = f"silence on junk of {sizes} bytes, and on everything after it"
        yield Finding("junk", "unknown", seen, _INVALID)


def _check_alive(by_step: _Exchanges) -> Iterator[Finding]:
    alive = {step: one for step, one in by_step.items() if step.startswith("alive_")}
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
                how = "no other client is accepted, the port is closed"
            yield Finding("alive", "bad", f"after {what}: {how}", section)
            return
    if any(step.startswith("alive_junk") for step in alive):
        yield Finding("alive", "good", "a ClientHello is answered after the junk", _INVALID)


_CHECKS = (
    _check_cookie,
    _check_record_seq,
    _check_replay,
    _check_parameters,
    _check_return,
    _check_dead_cookie,
    _check_every_bit,
    _check_fragments,
    _check_junk,
    _check_alive,
)


def _malformed(exchange: Exchange) -> str:
    for datagram in exchange.received:
        try:
            wire.HelloVerifyRequest.decode(datagram)
        except wire.WireError as error:
            return f"a malformed HelloVerifyRequest: {error}"
    return "a HelloVerifyRequest"


def _size(datagrams: Iterable[bytes]) -> int:
    return sum(len(datagram) for datagram in datagrams)


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
