"""A small program of a user, which uses every public name: for type checkers, and it runs.

To add a name: import it below and use it in the function of its room (or a new one, called by
main()) as a user would, with the types that he sees written out. test_typing.py holds the list
against gnutls_cookie.__all__.
"""

from __future__ import annotations

import socket

from gnutls_cookie import (
    COOKIE_KEY_SIZE,
    COOKIE_SIZE,
    HELLO_VERIFY_REQUEST_SIZE,
    AnonymousCredentials,
    Arrival,
    BadCookieError,
    CertificateCredentials,
    CertificateNames,
    CertificateVerificationError,
    Challenge,
    Client,
    Closed,
    CloseReason,
    Connected,
    ConnectionClosedError,
    CookieGate,
    CookieListener,
    Discarded,
    DiscardReason,
    FatalAlertError,
    GnuTLSError,
    HandleTable,
    HandshakeFailure,
    InvalidRequestError,
    KeyRing,
    LargePacketError,
    MessageReady,
    Prestate,
    PSKCredentials,
    PushError,
    RefusalReason,
    Server,
    ServerCounters,
    Session,
    TicketKey,
    TimedOutError,
    UnexpectedPacketLengthError,
    Verified,
    __version__,
    client_data,
    cookie_reply,
    cookie_send,
    cookie_verify,
    debug_log,
    generate_key,
    library_version,
    prestate_set,
)
from gnutls_cookie.reference.wire import client_hello


def main() -> None:
    """Use everything once."""
    versions()
    thin_wrapper()
    errors()
    handles()
    layouts()
    gate()
    listener()
    sessions()
    serving()
    connecting()
    what_is_raised()
    print("every public name was used")


def versions() -> None:
    """__version__, library_version."""
    texts: tuple[str, str] = (__version__, library_version())
    debug_log(0)
    assert all(texts)


def thin_wrapper() -> None:
    """The exchange by hand: generate_key, cookie_send, cookie_verify, Prestate, the sizes."""
    key: bytes = generate_key()
    assert len(key) == COOKIE_KEY_SIZE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        address: tuple[str, int] = sock.getsockname()
        who = client_data.sockaddr(address)

        def push(transport: tuple[socket.socket, tuple[str, int]], data: bytes) -> int:
            there, peer = transport
            return there.sendto(data, peer)

        sent: int = cookie_send(key, who, Prestate(record_seq=1), (sock, address), push)
        assert sent == HELLO_VERIFY_REQUEST_SIZE
        reply = sock.recv(100)
    cookie = reply[-COOKIE_SIZE:]
    hello = client_hello(cookie=cookie, record_seq=1, message_seq=1)
    prestate: Prestate = cookie_verify(bytearray(key), memoryview(who), hello)
    numbers: tuple[int, int, int] = (
        prestate.record_seq,
        prestate.hsk_read_seq,
        prestate.hsk_write_seq,
    )
    assert numbers == (1, 1, 0)
    collected: list[bytes] = []
    cookie_send(key, None, prestate, collected, lambda to, data: to.append(data))
    assert cookie_verify(key, who, hello, prestate) is prestate


def errors() -> None:
    """GnuTLSError and its kinds."""
    outcomes: list[str] = []
    for key, message in ((b"key", b""), (b"key", bytes(100)), (b"", b"")):
        try:
            cookie_verify(key, b"client", message)
        except BadCookieError as bad:
            outcomes.append(bad.name)
        except UnexpectedPacketLengthError as short:
            outcomes.append(short.name)
        except InvalidRequestError as invalid:
            outcomes.append(invalid.name)
    assert len(set(outcomes)) == 3
    try:
        cookie_send(b"key", b"", Prestate(), None, lambda transport, data: -1)
    except PushError as error:
        failed: OSError = error
        general: GnuTLSError = error
        code: int = general.code
        assert code == -53
        assert "push" in str(failed)


def handles() -> None:
    """HandleTable."""
    table = HandleTable()
    handle: int = table.lend("an object")
    assert table.get(handle) == "an object"
    table.reclaim(handle)
    with table.lent("another"):
        count: int = len(table)
    assert (count, len(table)) == (1, 0)


def layouts() -> None:
    """client_data."""
    made: list[bytes] = [
        client_data.sockaddr(("192.0.2.7", 5684)),
        client_data.sockaddr(("2001:db8::7", 5684, 0, 0), socket.AF_INET6),
        client_data.sockaddr_storage(("192.0.2.7", 5684)),
        client_data.text(("192.0.2.7", 5684)),
    ]
    assert [len(data) for data in made] == [16, 28, 128, 14]


def answer(judge: CookieGate, datagram: bytes, who: bytes) -> str:
    """What a server does with a datagram; a type checker sees that nothing is left out."""
    match judge.receive(datagram, who):
        case Challenge(datagram=reply, presented_cookie=presented):
            return f"send {len(reply)} bytes, cookie presented: {presented}"
        case Verified(prestate=prestate, key_age=age):
            return f"serve from {prestate.record_seq}, key age {age}"
        case Discarded(reason=reason):
            return f"ignore: {reason.name}"


def gate() -> None:
    """CookieGate, KeyRing and the three answers."""
    ring = KeyRing(generate_key(), previous=generate_key())
    for keys in (ring, KeyRing.random(), KeyRing.from_secret(b"s" * 32, period=60.0)):
        judge = CookieGate(keys)
        assert answer(judge, client_hello(), b"client") == "send 44 bytes, cookie presented: False"
        verdict = judge.receive(client_hello(), b"client")
        assert isinstance(verdict, Challenge)
        hello = client_hello(cookie=verdict.datagram[-COOKIE_SIZE:], message_seq=1)
        assert answer(judge, hello, b"client") == "serve from 0, key age 0"
        junk = judge.receive(b"", b"client")
        assert isinstance(junk, Discarded)
        reason: DiscardReason = junk.reason
        assert reason is DiscardReason.RECORD_HEADER
        counted: int = judge.counters.challenged
        assert counted == 2
    ring.rotate()


def listener() -> None:
    """CookieListener and Arrival."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        sock.bind(("127.0.0.1", 0))
        client.connect(sock.getsockname())
        with CookieListener(sock, CookieGate(KeyRing.random()), batch=8) as served:
            client.send(client_hello())
            assert served.poll(timeout=0.0) == []
            cookie = client.recv(100)[-COOKIE_SIZE:]
            client.send(client_hello(cookie=cookie, message_seq=1))
            arrivals: list[Arrival] = served.poll()
            served.admit(arrivals[0].address)
            client.send(b"for the session")
            (later,) = served.poll(1.0, limit=1)
            prestates: tuple[Prestate | None, ...] = (arrivals[0].prestate, later.prestate)
            assert prestates == (Prestate(hsk_read_seq=1), None)
            assert later.datagram == b"for the session"
            served.forget(later.address)
            numbers: tuple[int, int] = (served.peers, served.counters.replies)
            assert numbers == (0, 1)


def sessions() -> None:
    """Session, prestate_set, and each kind of credentials."""
    secret = PSKCredentials("sensor-1", b"0123456789abcdef")
    client = Session("client", [secret, CertificateCredentials()], verify_peer=False)
    server = Session("server", [secret, AnonymousCredentials()])
    judge = CookieGate(KeyRing.random())
    client.handshake()
    (hello,) = client.datagrams_to_send()
    challenge = judge.receive(hello, None)
    assert isinstance(challenge, Challenge)
    client.receive_datagram(challenge.datagram)
    client.handshake()
    (again,) = client.datagrams_to_send()
    verified = judge.receive(again, None)
    assert isinstance(verified, Verified)
    prestate_set(server, verified.prestate)
    server.receive_datagram(again)
    for _ in range(10):
        for one, other in ((server, client), (client, server)):
            one.handshake()
            for datagram in one.datagrams_to_send():
                other.receive_datagram(datagram)
    established: bool = client.established and server.established
    assert established
    client.send(b"ping")
    for datagram in client.datagrams_to_send():
        server.receive_datagram(datagram)
    message: bytes | None = server.receive()
    version: str | None = client.version
    assert (message, version) == (b"ping", "DTLS1.2")


def serving() -> None:
    """Server: sans-IO, with a clock that is an argument."""
    secret = PSKCredentials("sensor-1", b"0123456789abcdef")
    client, served = Session("client", secret), Server(secret, max_sessions=10)
    judge, address, now = CookieGate(KeyRing.random()), ("192.0.2.1", 5684), 0.0
    while not client.handshake():
        for datagram in client.datagrams_to_send():
            verdict = judge.receive(datagram, client_data.sockaddr(address))
            if isinstance(verdict, Challenge):
                client.receive_datagram(verdict.datagram)
                continue
            prestate = verdict.prestate if isinstance(verdict, Verified) else None
            served.receive(Arrival(address, datagram, prestate), now)
        for datagram, to in served.datagrams_to_send():
            assert to == address
            client.receive_datagram(datagram)
    connected = [event.connection for event in served.events() if isinstance(event, Connected)]
    assert len(served) == 1
    assert served.timeout(now) is not None
    sent: int = served.send(connected[0], b"hello", now)
    assert (sent, served.counters.messages_sent) == (5, 1)
    tickets: TicketKey = TicketKey.from_secret(b"another secret of a fleet")
    served.set_credentials(secret, tickets)
    kept: bytes | None = client.session_data
    names: CertificateNames | None = client.peer_names
    assert names is None
    client = Session("client", secret, resume=kept)
    assert (client.resumed, served.counters.resumed) == (False, 0)


def connecting() -> None:
    """Client: the same for the other side; its events are those of a Server."""
    client, now = (
        Client(PSKCredentials("sensor-1", b"0123456789abcdef"), handshake_timeout=5.0),
        0.0,
    )
    client.connect(now)
    datagrams: list[bytes] = client.datagrams_to_send()
    assert (len(datagrams), client.timeout(now)) == (1, 1.0)
    client.handle_timeout(now + 5.0)
    for event in client.events():
        if isinstance(event, Closed):
            reason: CloseReason = event.reason
            assert (reason, type(event.error)) == (CloseReason.TIMED_OUT, TimedOutError)
        else:
            happened: Connected | MessageReady = event
            raise AssertionError(happened)
    server = Server(PSKCredentials("sensor-1", b"0123456789abcdef"))
    counters: ServerCounters = server.counters
    refused: int = counters.refused_by[RefusalReason.ADDRESS]
    assert refused == counters.refused
    failures: list[HandshakeFailure] = server.failures()
    assert (counters.connected, failures) == (0, [])
    reply: bytes = cookie_reply(b"k" * 16, b"client", Prestate())
    assert len(reply) == HELLO_VERIFY_REQUEST_SIZE


def what_is_raised() -> None:
    """Each kind of error is also one of Python's own."""
    kinds: list[tuple[type[GnuTLSError], type[Exception]]] = [
        (CertificateVerificationError, ValueError),
        (ConnectionClosedError, ConnectionResetError),
        (FatalAlertError, ConnectionError),
        (LargePacketError, ValueError),
        (TimedOutError, TimeoutError),
    ]
    assert all(issubclass(one, other) for one, other in kinds)


if __name__ == "__main__":
    main()
