"""The command probe: on bytes, on servers that are functions, on real servers on loopback."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from gnutls_cookie import (
    BadCookieError,
    GnuTLSError,
    Prestate,
    Session,
    UnexpectedPacketLengthError,
    _alive,
    client_data,
    cookie_send,
    cookie_verify,
)
from gnutls_cookie.cli import main
from gnutls_cookie.cli.probe.command import MAX_DATAGRAMS
from gnutls_cookie.cli.probe.judging import Finding, assess
from gnutls_cookie.cli.probe.reading import Exchange, Message, read_messages
from gnutls_cookie.cli.probe.script import (
    GROUPS,
    JUNK_SIZES,
    PARAMETERS,
    Plan,
    Script,
    every_bit,
    greeting,
    harmless,
    hurtful,
)
from gnutls_cookie.reference import gate, wire
from tests.support.common import Address, free_udp_port, running, seeded, udp_socket
from tests.support.peers import certificate, trusting
from tests.support.probe_peers import (
    BEGIN,
    DOCUMENT,
    END,
    PEERS_ASKED,
    asked,
    exchanges_of,
    findings_of,
    module,
    probe,
    row,
    serving,
)

PLAN = Plan(random=bytes(range(32)), elsewhere=True)
QUICK = ("--rate", "200", "--timeout", "0.5")
KEY = b"a key of 16 byte"

#: A server as a function: a datagram and its source in, answers out.
Server = Callable[[bytes, str], list[bytes]]


# --- servers that are functions -------------------------------------------------------------------


def right(datagram: bytes, source: str) -> list[bytes]:
    """The reference's gate, and a ServerHello for a verified client."""
    verdict = gate.receive(datagram, source.encode(), KEY)
    if isinstance(verdict, gate.Challenge):
        return [verdict.datagram]
    if isinstance(verdict, gate.Verified):
        return [server_hello(verdict.prestate.record_seq, verdict.prestate.hsk_write_seq + 1)]
    return []


def server_hello(record_seq: int, message_seq: int) -> bytes:
    """The beginning of a ServerHello, which is all that the probe reads of it."""
    body = wire.DTLS_1_2.to_bytes(2, "big") + bytes(36)
    return wire.handshake_record(
        wire.SERVER_HELLO, body, record_seq=record_seq, message_seq=message_seq
    )


def follow(script: Script, server: Server) -> list[Exchange]:
    """Run a script against a server that is a function."""
    exchanges: list[Exchange] = []
    try:
        step = next(script)
        while True:
            received = [
                answer for datagram in step.datagrams for answer in server(datagram, step.source)
            ]
            exchanges.append(Exchange(step.name, step.datagrams, tuple(received)))
            step = script.send(exchanges[-1])
    except StopIteration:
        return exchanges


def probed(server: Server | type[Mortal], plan: Plan = PLAN) -> dict[str, Finding]:
    """The findings about a server that is a function, by check."""
    function: Server = server() if isinstance(server, type) else server
    exchanges = follow(harmless(plan), function) + follow(hurtful(plan), function)
    return {one.check: one for one in assess(exchanges)}


def bad(findings: dict[str, Finding]) -> set[str]:
    """The checks with a bad verdict."""
    return {check for check, one in findings.items() if one.verdict == "bad"}


def changed(
    change: Callable[[wire.HelloVerifyRequest, wire.RecordHeader], wire.HelloVerifyRequest],
) -> Server:
    """The right server, except for its HelloVerifyRequests."""

    def server(datagram: bytes, source: str) -> list[bytes]:
        answers = right(datagram, source)
        if not answers or len(answers[0]) != 44:
            return answers
        request = wire.HelloVerifyRequest.decode(answers[0])
        return [change(request, wire.RecordHeader.decode(datagram)).encode()]

    return server


def with_request(**values: object) -> Server:
    """The right server, with these values in each HelloVerifyRequest."""
    return changed(lambda request, _: replace(request, **values))  # type: ignore[arg-type]


def low_byte_only(datagram: bytes, source: str) -> list[bytes]:
    """Echoes the low byte of the record sequence only, as gnutls_dtls_cookie_send does."""
    server = changed(lambda request, hello: replace(request, record_seq=hello.record_seq & 255))
    return server(datagram, source)


def no_cookie(datagram: bytes, _: str) -> list[bytes]:
    """Answers each hello with its flight."""
    return [server_hello(0, 0), bytes([22]) + bytes(1000)] if len(datagram) > 100 else []


def any_cookie(datagram: bytes, _: str) -> list[bytes]:
    """Accepts a cookie from any address."""
    return right(datagram, "all the same")


def no_port(datagram: bytes, source: str) -> list[bytes]:
    """Binds the address and not the port."""
    return right(datagram, "elsewhere" if source == "elsewhere" else "here")


def bound_to(parameter: str) -> Server:
    """The right server, whose cookie depends on one parameter of the hello as well."""

    def server(datagram: bytes, source: str) -> list[bytes]:
        try:
            _, _, hello = wire.decode_client_hello(datagram)
        except wire.WireError:
            return right(datagram, source)
        value = {
            "version": hello.client_version,
            "random": hello.random,
            "session-id": hello.session_id,
            "suites": hello.cipher_suites,
        }
        return right(datagram, f"{source} {value[parameter]!r}")

    return server


def without_last_bit(datagram: bytes, source: str) -> list[bytes]:
    """Does not look at the last bit of a cookie's byte 5."""
    at = 61 + 5  # no session id
    if datagram[59:61] == b"\x00\x10":
        for byte in datagram[at], datagram[at] ^ 1:
            answers = right(datagram[:at] + bytes([byte]) + datagram[at + 1 :], source)
            if answers and answers[0][13] == wire.SERVER_HELLO:
                return answers
    return right(datagram, source)


def wrong_cookie_too(datagram: bytes, source: str) -> list[bytes]:
    """Accepts any cookie of 16 bytes."""
    if datagram[59:61] == b"\x00\x10":  # no session id, a cookie of 16 bytes
        return [server_hello(1, datagram[18])]
    return right(datagram, source)


def answers_junk(datagram: bytes, source: str) -> list[bytes]:
    """Answers anything of 60 bytes or more that is not a handshake record with a cookie."""
    is_hello = datagram[:1] == b"\x16"
    if not is_hello and len(datagram) >= 60:
        return [wire.HelloVerifyRequest(bytes(16)).encode()]
    return right(datagram, source)


def each_fragment(datagram: bytes, source: str) -> list[bytes]:
    """Answers each fragment of a hello."""
    answers = right(datagram, source)
    if not answers and datagram[:1] == b"\x16" and len(datagram) > 50:
        return right(wire.client_hello(), source)
    return answers


def whole_hellos(datagram: bytes, source: str) -> list[bytes]:
    """Ignores fragments."""
    return right(datagram, source) if len(datagram) > 200 else []


def alert_on_a_wrong_cookie(datagram: bytes, source: str) -> list[bytes]:
    """Ends the handshake of a client with a dead cookie."""
    verdict = gate.receive(datagram, source.encode(), KEY)
    if isinstance(verdict, gate.Challenge) and verdict.presented_cookie:
        return [bytes.fromhex("15 feff 0000 000000000000 0002 02 28")]
    return right(datagram, source)


def second_server_hello_number(datagram: bytes, source: str) -> list[bytes]:
    """Echoes both sequences, but does not hand message_seq over: half of the cure."""
    verdict = gate.receive(datagram, source.encode(), KEY)
    if isinstance(verdict, gate.Verified):
        return [server_hello(verdict.prestate.record_seq, 1)]
    return right(datagram, source)


class Mortal:
    """Stops answering after a datagram of one byte."""

    def __init__(self) -> None:
        self.dead = False

    def __call__(self, datagram: bytes, source: str) -> list[bytes]:
        self.dead = self.dead or len(datagram) == 1
        return [] if self.dead else right(datagram, source)


# Servers with one fault each, and the checks that are then bad. Each run makes its own Mortal.
FAULTS: dict[str, tuple[Server | type[Mortal], set[str]]] = {
    "no cookie": (no_cookie, {"cookie", "amplification"}),
    "no echo of record_seq": (with_request(record_seq=0), {"record_seq"}),
    "a byte of record_seq": (low_byte_only, {"record_seq"}),
    "message_seq 0": (with_request(message_seq=0), {"heals"}),
    "a short cookie": (with_request(cookie=bytes(4)), {"cookie_size", "return", "heals",
                                                       "fragments_return"}),
    "anybody's cookie": (any_cookie, {"replay_address"}),
    "any cookie": (wrong_cookie_too, {"replay_address", "wrong_cookie"}),
    "an alert": (alert_on_a_wrong_cookie, {"heals"}),
    "half the cure": (second_server_hello_number, {"heals"}),
    "answers to junk": (answers_junk, {"junk"}),
    "answers to fragments": (each_fragment, {"fragments"}),
    "no fragments": (whole_hellos, {"fragments"}),
    "death": (Mortal, {"alive"}),
}  # fmt: skip


def test_right_server() -> None:
    """Every finding about the reference's gate is good, but that it binds the address alone."""
    findings = probed(right)
    others = {f"other_{parameter}" for parameter in PARAMETERS}
    assert {check for check, one in findings.items() if one.verdict == "info"} == others
    assert {one.verdict for one in findings.values()} == {"good", "info"}
    assert set(findings) == others | {
        "cookie", "amplification", "versions", "cookie_size", "record_seq", "replay_port",
        "replay_address", "return", "return_record_seq", "heals", "fragments", "fragments_return",
        "junk", "alive",
    }  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    """One fault at a time: what it breaks is bad, and nothing else is."""
    server, expected = FAULTS[fault]
    assert bad(probed(server)) == expected


def test_neither_good_nor_bad() -> None:
    """What the RFC leaves open is info: a cookie for any port, DTLS 1.2 instead of 1.0."""
    findings = probed(no_port)
    assert findings["replay_port"].verdict == "info"
    assert findings["replay_address"].verdict == "good"
    findings = probed(with_request(record_version=wire.DTLS_1_2, server_version=wire.DTLS_1_2))
    assert findings["versions"].verdict == "info"
    assert bad(findings) == set()


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_what_a_cookie_depends_on(parameter: str) -> None:
    """RFC 6347 4.2.1: the server SHOULD bind each parameter of the hello; each is seen alone."""
    findings = probed(bound_to(parameter))
    bound = {name for name in PARAMETERS if findings[f"other_{name}"].verdict == "good"}
    assert (bound, bad(findings)) == ({parameter}, set())


def test_every_bit_of_a_cookie() -> None:
    """One bit that does not matter is found, and told by its byte."""
    for server, verdict, said in (
        (right, "good", "each of 128 cookies"),
        (without_last_bit, "bad", "one bit of byte 5 "),
        (no_cookie, "unknown", "no cookie"),
    ):
        (found,) = [
            one for one in assess(follow(every_bit(PLAN), server)) if one.check == "every_bit"
        ]
        assert (found.verdict, said in found.seen) == (verdict, True), found
        assert "FCS_DTLSS_EXT.1.2" in found.also


def test_one_hello_and_no_more() -> None:
    """greeting() sends one hello; the session of a server without cookies is ended."""
    assert [len(one.sent) for one in follow(greeting(PLAN), right)] == [1]
    assert [len(one.sent) for one in follow(greeting(PLAN), lambda *_: [])] == [1]
    hello, alert = follow(greeting(PLAN), no_cookie)
    assert (hello.sent[0][0], alert.sent[0][0]) == (wire.CONTENT_HANDSHAKE, wire.CONTENT_ALERT)


def test_every_finding_about_the_protocol_names_its_section() -> None:
    """A reader can look it up."""
    for server, _ in FAULTS.values():
        for one in probed(server).values():
            assert one.section.startswith("RFC "), one


def test_silence_ends_the_questions() -> None:
    """A server that never answers is sent five datagrams."""
    exchanges = follow(harmless(PLAN), lambda *_: [])
    assert sum(len(one.sent) for one in exchanges) == 5
    assert [one.check for one in assess(exchanges) if one.verdict == "good"] == []


def test_loss_changes_no_finding() -> None:
    """The first datagram from each port is lost, and the findings are the same."""
    seen: set[str] = set()

    def lossy(datagram: bytes, source: str) -> list[bytes]:
        if source not in seen:
            seen.add(source)
            return []
        return right(datagram, source)

    findings = {one.check: one for one in assess(follow(harmless(PLAN), lossy))}
    assert bad(findings) == set()
    assert findings["heals"].verdict == "good"


def test_groups() -> None:
    """Each group alone: its own findings and those of the first hellos."""
    own = {
        "replay": {"replay_port", "replay_address"},
        "return": {"return", "return_record_seq"},
        **{parameter: {f"other_{parameter}"} for parameter in PARAMETERS},
        "dead-cookie": {"heals"},
        "fragments": {"fragments", "fragments_return"},
    }
    first = {"cookie", "amplification", "versions", "cookie_size", "record_seq"}
    for group, checks in own.items():
        plan = Plan(PLAN.random, elsewhere=True, groups=frozenset({group}))
        exchanges = follow(harmless(plan), right)
        assert {one.check for one in assess(exchanges)} == first | checks
    assert set(own) | {"junk"} == set(GROUPS)


def test_hellos_of_an_exchange_differ_in_cookie_and_numbers_only() -> None:
    """RFC 6347 4.2.1: the parameters stay the same. Of fragments the first has the cookie."""
    hellos = set()
    for one in follow(harmless(PLAN), right):
        if one.step in {f"other_{parameter}" for parameter in PARAMETERS}:
            continue
        if "fragments" in one.step:
            first = one.sent[0]
            assert first[25 + 35] + 36 <= len(first) - 25  # the cookie is in the first fragment
        for datagram in one.sent:
            if datagram[0] == wire.CONTENT_HANDSHAKE and "fragments" not in one.step:
                _, _, hello = wire.decode_client_hello(datagram)
                hellos.add(wire.ClientHello(hello.random, hello.cipher_suites, hello.client_version,
                                            extensions=hello.extensions))  # fmt: skip
    assert len(hellos) == 1


def test_server_name_is_sent_where_there_is_one() -> None:
    """In the extension server_name (RFC 6066 3)."""
    (exchange, *_) = follow(harmless(Plan(PLAN.random, "sensor.example")), right)
    _, _, hello = wire.decode_client_hello(exchange.sent[0])
    assert hello.extensions is not None
    assert hello.extensions[0] == (0, b"\x00\x11\x00\x00\x0esensor.example")


# --- bytes ----------------------------------------------------------------------------------------

RECORDED = {
    # openssl s_server (3.0): a HelloVerifyRequest with a cookie of 20 bytes.
    "16feff00000000000000000023030000170000000000000017feff14" + "ab" * 20: [
        Message("HelloVerifyRequest", 0, 0, wire.DTLS_1_0)
    ],
    "15fefd00000000000000020002022f": [Message("alert 47", 2)],
    "14fefd0000000000000005000101": [Message("a record of type 20", 5)],
    "16fefd0001000000000000000401020304": [Message("an encrypted record", 0)],
    "16fefd0000000000000003000401020304": [Message("a handshake message cut short", 3)],
    "16fefd00000000000000030100": [Message("a record cut short", 3)],
    "00": [Message("bytes that are not a record")],
    "": [],
}


@pytest.mark.parametrize("datagram", RECORDED)
def test_what_is_read_in_a_datagram(datagram: str) -> None:
    """Records and messages, whole and cut short."""
    assert read_messages(bytes.fromhex(datagram)) == RECORDED[datagram]


def test_a_flight_in_one_datagram() -> None:
    """Several messages in a record, several records in a datagram."""
    two = wire.handshake_record(11, b"abc", message_seq=2, record_seq=6)
    continued = wire.handshake_record(11, b"d", length=4, fragment_offset=3, message_seq=2)
    kinds = [one.kind for one in read_messages(server_hello(5, 1) + two + continued)]
    assert kinds == ["ServerHello", "handshake message 11", "handshake message 11, continued"]


def test_any_bytes_are_assessed() -> None:
    """Whatever a server answers, there are findings and never an exception."""
    chance = seeded()
    for _ in range(300):
        good = right(wire.client_hello(), "first")[0]
        data = bytearray(good if chance.random() < 0.7 else chance.randbytes(60))
        for _ in range(chance.randint(0, 3)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        answer = bytes(data[: chance.randint(0, len(data))])
        assert assess(follow(harmless(PLAN), lambda *_, answer=answer: [answer]))


def test_malformed_request_is_reported() -> None:
    """A malformed HelloVerifyRequest is not a cookie, and the finding says so."""
    findings = probed(lambda *_: [wire.HelloVerifyRequest(bytes(16)).encode() + b"x"])
    assert findings["cookie"].verdict == "bad"
    assert "malformed" in findings["cookie"].seen


# --- the command ----------------------------------------------------------------------------------


class StockServer:
    """The recipe of GnuTLS' manual in Python, in a thread, for many clients at once."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self.received: list[bytes] = []
        self._key = os.urandom(16)
        self._sessions: dict[Address, Session] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> StockServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        self.sock.settimeout(0.05)
        while not self._stop.is_set():
            try:
                datagram, address = self.sock.recvfrom(65535)
            except TimeoutError:
                continue
            self.received.append(datagram)
            session = self._sessions.get(address) or self._verified(datagram, address)
            if session is None:
                continue
            self._sessions[address] = session
            session.receive_datagram(datagram)
            try:
                session.handshake()
            except GnuTLSError:
                del self._sessions[address]
            for data in session.datagrams_to_send():
                self.sock.sendto(data, address)

    def _verified(self, datagram: bytes, address: Address) -> Session | None:
        prestate, who = Prestate(), client_data.sockaddr(address)
        try:
            cookie_verify(self._key, who, datagram, prestate)
        except BadCookieError:
            cookie_send(
                self._key, who, prestate, address, lambda to, data: self.sock.sendto(data, to)
            )
            return None
        except UnexpectedPacketLengthError:
            return None
        return Session("server", certificate(), prestate=prestate)


@pytest.fixture
def stock() -> Iterator[StockServer]:
    """A running stock server."""
    with udp_socket() as sock, StockServer(sock) as server:
        yield server


def test_stock_recipe_does_not_heal_and_answers_junk(
    stock: StockServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both are found over a socket, and printed with the section of the RFC."""
    assert main(["probe", "127.0.0.1", str(stock.port), "--hurtful", *QUICK]) == 1
    said = capsys.readouterr().out
    assert (
        "bad     heals             a dead cookie: second HelloVerifyRequest with message_seq 0 "
        in said
    )
    # libgnutls reports 60 and 61 bytes as too short, and this recipe drops those.
    junk = "bytes of junk are answered: 62 by 44 (HelloVerifyRequest): factor 0.71"
    assert f"bad     junk              {junk}  [RFC 6347 4.1.2.7]" in said
    assert "good    alive " in said
    assert len(stock.received) <= MAX_DATAGRAMS


def test_junk_is_never_sent_unasked(
    stock: StockServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not without a terminal, not with --harmless, not if another group was asked for."""
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        for options in [], ["--harmless", "--yes"], ["--only", "replay", "--hurtful"]:
            assert main(["probe", "127.0.0.1", str(stock.port), *QUICK, *options]) == 1
    assert "junk" not in capsys.readouterr().out
    assert not any(set(datagram) == {0} for datagram in stock.received)


@pytest.mark.parametrize(("answer", "sent"), [(b"y\n", True), (b"\n", False), (b"no\n", False)])
def test_junk_is_asked_about_on_a_terminal(stock: StockServer, answer: bytes, sent: bool) -> None:
    """Junk is sent after a yes only."""
    try:
        ours, theirs = pty.openpty()
    except OSError as error:
        pytest.skip(f"no pseudo-terminal here: {error}")
    command = module("probe", "127.0.0.1", str(stock.port), *QUICK, "--only=junk")
    child = subprocess.Popen(
        command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.write(ours, answer)
    _, question = child.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert question.startswith(
        f"Send junk as well? It kills some servers; is 127.0.0.1 port {stock.port}"
    )
    junk = [len(datagram) for datagram in stock.received if set(datagram) == {0}]
    assert junk == (list(JUNK_SIZES) if sent else [])


def test_another_machine_is_asked_about(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal and without --yes nothing is sent to another machine."""
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was made"))
    with open(os.devnull) as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        assert main(["probe", "192.0.2.1", "5684", "--hurtful"]) == 2
    assert "--yes is needed" in capsys.readouterr().err


@pytest.mark.parametrize("closed", [True, False])
def test_no_answer(closed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A closed port and a silent one: exit code 2."""
    with udp_socket() as sock:
        port = free_udp_port() if closed else sock.getsockname()[1]
        assert main(["probe", "127.0.0.1", str(port), "--timeout", "0.1", "--yes"]) == 2
    assert "no answer" in capsys.readouterr().err


def test_alive(stock: StockServer, capsys: pytest.CaptureFixture[str]) -> None:
    """For health checks: one hello, one line, exit code 0."""
    assert main(["probe", "--alive", "127.0.0.1", str(stock.port)]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"127.0.0.1 port {stock.port}: alive, HelloVerifyRequest after ")
    assert len(stock.received) == 1
    assert main(["probe", "--alive", "127.0.0.1", str(stock.port), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["datagrams_sent"] == 1


@pytest.mark.parametrize("closed", [True, False])
def test_not_alive(closed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """A closed port and a silent one: one line, exit code 2."""
    with udp_socket() as sock:
        port = free_udp_port() if closed else sock.getsockname()[1]
        assert main(["probe", "127.0.0.1", str(port), "--timeout", "0.1", "--alive"]) == 2
    why = "the port is closed" if closed else "silence"
    assert capsys.readouterr().err == f"gnutls-cookie probe: 127.0.0.1 port {port}: {why}\n"


@pytest.mark.parametrize("closed", [True, False])
def test_health_check_does_not_wait_for_the_package(closed: bool, stock: StockServer) -> None:
    """Of a process the answer comes before C, argparse and the commands are imported."""
    port = free_udp_port() if closed else stock.port
    words = ["-m", "gnutls_cookie", "probe", "--alive", "--timeout", "9", "127.0.0.1", str(port)]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *words], capture_output=True, text=True, timeout=60
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "gnutls_cookie._alive" in imported
    assert not imported & {"_cffi_backend", "argparse", "socket", "gnutls_cookie.cli"}
    if closed:
        said = f"gnutls-cookie probe: 127.0.0.1 port {port}: the port is closed\n"
        assert (done.returncode, done.stdout) == (2, "")
        assert said in done.stderr
    else:
        said = f"127.0.0.1 port {port}: alive, HelloVerifyRequest after "
        assert done.returncode == 0
        assert done.stdout.startswith(said)
        assert len(stock.received) == 1


def test_health_check_sends_the_hello_of_every_other_probe() -> None:
    """But for the random."""
    step = next(greeting(Plan(bytes(32))))
    assert step.datagrams == (_alive.HELLO[0] + bytes(32) + _alive.HELLO[1],)


@pytest.mark.parametrize(
    "words",
    [
        "probe --alive --json a 1",
        "probe --alive a 0",
        "probe --alive a",
        "probe -h --alive 1",
        "probe --alive a 1 --timeout",
        "probe --alive a 1 --timeout 61",
        "serve --alive a 1",
    ],
)
def test_health_check_leaves_other_command_lines_alone(words: str) -> None:
    """The command takes them, or says what is wrong."""
    assert _alive.asked(words.split()) is None
    assert _alive.asked(["probe", "a", "--timeout", "0.2", "5684", "--alive"]) == ("a", 5684, 0.2)


def test_every_bit_of_a_real_servers_cookie(stock: StockServer) -> None:
    """128 hellos of which none is accepted, beyond the limit of all others."""
    _, report = probe(stock.port, "--every-bit", "--only=replay", "--rate=1000", "--timeout=0.5")
    (found,) = [one for one in findings_of(report) if one.check == "every_bit"]
    assert found.verdict == "good"
    assert len(stock.received) > 128


def test_limit_of_datagrams(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that answers every third datagram: the report says that the limit was reached."""
    received: list[bytes] = []
    stop = threading.Event()

    def serve(sock: socket.socket) -> None:
        sock.settimeout(0.05)
        while not stop.is_set():
            try:
                datagram, address = sock.recvfrom(65535)
            except TimeoutError:
                continue
            received.append(datagram)
            if len(received) % 3 == 0:
                for answer in right(datagram, str(address)):
                    sock.sendto(answer, address)

    with udp_socket() as sock:
        thread = threading.Thread(target=serve, args=(sock,))
        thread.start()
        try:
            port = str(sock.getsockname()[1])
            main(["probe", "127.0.0.1", port, "--timeout", "0.02", "--rate", "1000", "--hurtful"])
        finally:
            stop.set()
            thread.join()
    assert len(received) <= MAX_DATAGRAMS
    said = capsys.readouterr().out
    assert f"{MAX_DATAGRAMS} datagrams are spent" in said or len(received) < MAX_DATAGRAMS


def test_report_can_be_assessed_again(stock: StockServer) -> None:
    """--json holds every datagram, and assess() finds the same in them."""
    code, report = probe(stock.port, "--hurtful", *QUICK)
    assert code == 1
    assert assess(exchanges_of(report)) == findings_of(report)
    assert report["datagrams_sent"] == len(stock.received)


def test_handshake_with_a_key() -> None:
    """With credentials a whole handshake is made, and a wrong key is a bad finding."""
    command = module("serve", "--port", "0", "--json")
    with running(command) as child:
        assert child.stdout is not None
        made = json.loads(child.stdout.readline())
        for key, verdict in (made["key"], "good"), ("00" * 16, "bad"):
            options = ["--pskusername", made["identity"], "--pskkey", key, "--only=replay"]
            _, report = probe(made["port"], *options)
            found = {one.check: one.verdict for one in findings_of(report)}
            assert found["handshake"] == verdict


def test_ipv6(capsys: pytest.CaptureFixture[str]) -> None:
    """The same over ::1, which has no second address to send from."""
    with (
        udp_socket("::1"),
        running(module("serve", "--host", "::1", "--port", "0", "--json")) as child,
    ):
        assert child.stdout is not None
        port = json.loads(child.stdout.readline())["port"]
        assert main(["probe", "::1", str(port), "--yes"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"::1 port {port}: 4 info, 13 good; ")
    assert "replay_address" not in said


# --- real servers ---------------------------------------------------------------------------------


@pytest.mark.peer
def test_gnutls_serv_is_found_dead_after_junk() -> None:
    """It answered, was sent one byte, has stopped answering, and spins."""
    with serving(PEERS_ASKED["gnutls-serv --udp"]) as port:
        code, report = probe(port, "--hurtful")
    assert code == 1
    found = {one.check: one for one in findings_of(report)}
    assert bad(found) >= {"alive", "heals", "record_seq", "fragments"}
    assert found["alive"].seen == "after junk of 1 byte: no ClientHello is answered any more"
    assert "gnutls-serv" in found["process"].seen
    assert found["process"].verdict == "bad"
    assert "it spins" in found["process"].seen


@pytest.mark.peer
def test_our_server_does_both_right() -> None:
    """It heals, is silent on junk and continues to serve; all findings are good, exit code 0."""
    with serving(PEERS_ASKED["gnutls-cookie serve"]) as port:
        code, report = probe(port, "--hurtful", "--insecure")
    found = {one.check: one.verdict for one in findings_of(report)}
    assert code == 0
    assert {check for check, verdict in found.items() if verdict != "good"} == {
        f"other_{parameter}"
        for parameter in PARAMETERS  # cookies are as those of C servers
    }
    assert found.keys() >= {"heals", "junk", "alive", "handshake"}


@contextmanager
def client_of(port: int) -> Iterator[tuple[socket.socket, Session]]:
    """A client of libgnutls that gives up after 3 seconds."""
    session = Session(
        "client", trusting(), verify_peer=False, retransmit_timeout=0.3, handshake_timeout=3.0
    )
    with udp_socket() as sock:
        sock.connect(("127.0.0.1", port))
        try:
            yield sock, session
        finally:
            session.close()
            for datagram in session.datagrams_to_send():
                sock.send(datagram)


def is_second_hello(datagram: bytes) -> bool:
    """A ClientHello with message_seq 1 (RFC 6347 4.2.2)."""
    return datagram[:1] == b"\x16" and datagram[13:14] == b"\x01" and datagram[17:19] == b"\0\1"


def completes_with_a_dead_cookie(port: int) -> bool:
    """Whether a real client whose first cookie is changed on the way completes its handshake.

    The cookie is changed in each retransmission of hello 2 (message_seq 1) as well, so that the
    server never accepts it. The cookie of hello 3 may be the same bytes: the server made it since.
    """
    cookie = dead = None
    with client_of(port) as (sock, session):
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                session.handle_timeout()
                if session.handshake():
                    return True
            except GnuTLSError:
                return False
            for datagram in session.datagrams_to_send():
                if cookie is not None and dead is not None and is_second_hello(datagram):
                    datagram = datagram.replace(cookie, dead)
                sock.send(datagram)
            if select.select([sock], [], [], 0.02)[0]:
                answer = sock.recv(65535)
                if cookie is None and answer[13:14] == b"\x03":
                    cookie = wire.HelloVerifyRequest.decode(answer).cookie
                    dead = cookie[:-1] + bytes([cookie[-1] ^ 0xFF])
                session.receive_datagram(answer)
    return False


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS_ASKED)
def test_heals_is_what_a_real_client_finds(name: str) -> None:
    """The verdict after three hellos is what libgnutls' client experiences with the server."""
    PEERS_ASKED[name].version()  # skips if it is not installed
    with serving(PEERS_ASKED[name]) as port:
        _, report = probe(port, "--harmless", "--only=dead-cookie")
    found = {one.check: one.verdict for one in findings_of(report)}
    with serving(PEERS_ASKED[name]) as port:
        assert completes_with_a_dead_cookie(port) == (found["heals"] == "good")


@pytest.mark.peer
@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS_ASKED)
def test_the_table_still_holds(name: str) -> None:
    """Each row of docs/peers.md is reproduced if the versions are those of the row."""
    made = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    (written,) = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in made.splitlines()
        if line.startswith(f"| {name} |")
    ]
    peer = PEERS_ASKED[name]
    library = peer.version()
    if library != written[1]:
        pytest.skip(f"{library} here, {written[1]} in the table")
    assert row(name, peer, asked(peer)) == written


def test_the_table_has_all() -> None:
    """docs/peers.md has a row for each server that is asked."""
    made = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    names = [line.split("|")[1].strip() for line in made.splitlines() if line.startswith("| ")]
    assert names[2:] == list(PEERS_ASKED)
