"""The scenarios of GnuTLS' own cookie tests: two sessions of libgnutls over a socketpair.

Both sessions are made outside of this package, through ctypes, so that this shows the hand-over to
any gnutls_session_t as well. A relay between the two keeps every datagram.
"""

from __future__ import annotations

import ctypes
import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from gnutls_cookie import (
    BadCookieError,
    GnuTLSError,
    Prestate,
    cookie_send,
    cookie_verify,
    generate_key,
    prestate_set,
)
from gnutls_cookie._ffi import ffi
from gnutls_cookie.reference import wire
from tests.support.common import libgnutls

# gnutls/gnutls.h: flags of gnutls_init, and the kind of credentials.
SERVER, CLIENT, DATAGRAM = 1, 2, 4
CRD_ANON = 2
PRIORITY = b"NONE:+VERS-DTLS1.2:+CIPHER-ALL:+MAC-ALL:+SIGN-ALL:+COMP-ALL:+ANON-ECDH:+GROUP-ALL"
CLIENT_DATA = b"test"

# What GnuTLS' tests put into the prestate before they send: of each only the low byte goes out.
LARGE_RECORD_SEQ = 105791312  # ...0x50
LARGE_MESSAGE_SEQ = 67166359  # ...0x97


class Side:
    """One anonymous DTLS session of libgnutls on a socket, blocking, made with ctypes alone."""

    def __init__(self, role: int, sock: socket.socket, seconds: int = 20) -> None:
        lib = libgnutls()
        kind = "server" if role == SERVER else "client"
        self.pointer = ctypes.c_void_p()
        self.credentials = ctypes.c_void_p()
        assert lib.gnutls_init(ctypes.byref(self.pointer), role | DATAGRAM) == 0
        allocate = getattr(lib, f"gnutls_anon_allocate_{kind}_credentials")
        assert allocate(ctypes.byref(self.credentials)) == 0
        assert lib.gnutls_priority_set_direct(self.pointer, PRIORITY, None) == 0
        assert lib.gnutls_credentials_set(self.pointer, CRD_ANON, self.credentials) == 0
        sock.setblocking(True)
        lib.gnutls_transport_set_int2(self.pointer, sock.fileno(), sock.fileno())
        lib.gnutls_dtls_set_mtu(self.pointer, 1500)
        lib.gnutls_handshake_set_timeout(self.pointer, seconds * 1000)
        lib.gnutls_record_set_timeout(self.pointer, seconds * 1000)
        self._free = getattr(lib, f"gnutls_anon_free_{kind}_credentials")

    def handshake(self) -> int:
        """0, or the fatal code that ended it."""
        while True:
            code = int(libgnutls().gnutls_handshake(self.pointer))
            if code == 0 or libgnutls().gnutls_error_is_fatal(code):
                return code

    def send(self, data: bytes) -> int:
        return int(libgnutls().gnutls_record_send(self.pointer, data, len(data)))

    def receive(self) -> bytes:
        buffer = ctypes.create_string_buffer(1500)
        size = int(libgnutls().gnutls_record_recv(self.pointer, buffer, len(buffer)))
        return buffer.raw[: max(size, 0)]

    def close(self) -> None:
        libgnutls().gnutls_deinit(self.pointer)
        self._free(self.credentials)


class Scene:
    """A client in a thread, and a socket that hears it through the relay.

    Attributes:
        socket: the server's end.
        to_client: every datagram that the server's end has sent, in order.
        code: what the client's handshake came to; None while it is under way.
        heard: what the client received as application data.
    """

    def __init__(self, client_seconds: int) -> None:
        self.to_client: list[bytes] = []
        self.code: int | None = None
        self.heard = b""
        pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket, self._relay_server = pair
        self._relay_client, self._client_socket = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_DGRAM
        )
        self._done = threading.Event()
        self._seconds = client_seconds
        self.threads = [threading.Thread(target=self._client), threading.Thread(target=self._relay)]

    def _client(self) -> None:
        client = Side(CLIENT, self._client_socket, self._seconds)
        self.code = client.handshake()
        if self.code == 0:
            client.send(b"ping")
            self.heard = client.receive()
        client.close()
        self._done.set()

    def _relay(self) -> None:
        ends = {self._relay_server: self._relay_client, self._relay_client: self._relay_server}
        while not self._done.is_set():
            for end in select.select(list(ends), [], [], 0.05)[0]:
                datagram = end.recv(65535)
                if end is self._relay_server:
                    self.to_client.append(datagram)
                ends[end].send(datagram)

    def close(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()
        for end in (self.socket, self._relay_server, self._relay_client, self._client_socket):
            end.close()


@contextmanager
def scene(client_seconds: int = 20) -> Iterator[Scene]:
    """A client that has started; closed when it has ended."""
    with ExitStack() as stack:
        made = Scene(client_seconds)
        stack.callback(made.close)
        for thread in made.threads:
            thread.start()
        yield made


def exchange(sock: socket.socket, key: bytes, before: Prestate) -> tuple[Prestate, int]:
    """Peek, verify, else send and discard, as GnuTLS' tests do; the prestate and the challenges."""
    sock.settimeout(20)
    for challenges in range(3):
        datagram = sock.recv(2048, socket.MSG_PEEK)
        prestate = Prestate(before.record_seq, before.hsk_read_seq, before.hsk_write_seq)
        try:
            return cookie_verify(key, CLIENT_DATA, datagram, prestate), challenges
        except BadCookieError:
            assert prestate == before
            assert cookie_send(key, CLIENT_DATA, prestate, sock, socket.socket.send) == 44
            sock.recv(2048)
    raise AssertionError("too many cookies sent")


def as_ctypes(side: Side) -> Any:
    return side.pointer


def as_typed_ctypes(side: Side) -> Any:
    return ctypes.cast(side.pointer, ctypes.POINTER(ctypes.c_char))


def as_address(side: Side) -> Any:
    return side.pointer.value


def as_cffi(side: Side) -> Any:
    return ffi.cast("void *", side.pointer.value)


def as_typed_cffi(side: Side) -> Any:
    return ffi.cast("gnutls_session_t", side.pointer.value)


@pytest.mark.parametrize("form", [as_ctypes, as_typed_ctypes, as_address, as_cffi, as_typed_cffi])
def test_client_is_challenged_verified_and_served(form: Callable[[Side], Any]) -> None:
    """One challenge, then the session takes over and data goes both ways."""
    with scene() as played:
        prestate, challenges = exchange(played.socket, generate_key(), Prestate())
        server = Side(SERVER, played.socket)
        prestate_set(form(server), prestate)
        assert server.handshake() == 0
        assert server.receive() == b"ping"
        assert server.send(b"pong") == 4
        played.close()
        server.close()
    assert challenges == 1
    assert prestate == Prestate(1, 1, 0)
    assert (played.code, played.heard) == (0, b"pong")
    # Without the hand-over it would start at message 0, which the client has seen (RFC 6347 4.2.2).
    server_hello = played.to_client[1]
    assert wire.HandshakeHeader.decode(server_hello[13:]).message_seq == 1
    assert wire.RecordHeader.decode(server_hello).record_seq == 1


def test_large_numbers_go_out_as_their_low_bytes_and_the_client_does_not_go_on() -> None:
    """GnuTLS' test of a wrong HelloVerifyRequest: its client waits for message 0 and times out."""
    with scene(client_seconds=3) as played:
        before = Prestate(record_seq=LARGE_RECORD_SEQ, hsk_write_seq=LARGE_MESSAGE_SEQ)
        played.socket.settimeout(20)
        hello = played.socket.recv(2048)
        key = generate_key()
        with pytest.raises(BadCookieError):
            cookie_verify(key, CLIENT_DATA, hello, before)
        assert cookie_send(key, CLIENT_DATA, before, played.socket, socket.socket.send) == 44
        assert before == Prestate(LARGE_RECORD_SEQ, 0, LARGE_MESSAGE_SEQ)
        for thread in played.threads:
            thread.join(60)
        played.socket.setblocking(False)
        for datagram in waiting(played.socket):  # the client's own repetitions
            with pytest.raises(GnuTLSError):
                cookie_verify(key, CLIENT_DATA, datagram)
    assert played.code == -319  # GNUTLS_E_TIMEDOUT
    (request,) = played.to_client
    assert wire.HelloVerifyRequest.decode(request).record_seq == LARGE_RECORD_SEQ & 0xFF
    assert wire.HelloVerifyRequest.decode(request).message_seq == LARGE_MESSAGE_SEQ & 0xFF


def test_large_record_sequence_is_handed_over_whole() -> None:
    """Large numbers before send; verify overwrites them; the session goes on with all 32 bits."""
    with scene() as played:
        before = Prestate(record_seq=LARGE_RECORD_SEQ, hsk_read_seq=LARGE_MESSAGE_SEQ)
        prestate, challenges = exchange(played.socket, generate_key(), before)
        assert (prestate, challenges) == (Prestate(1, 1, 0), 1)
        # The client has seen record 0x50 and its replay window ends 64 before it (RFC 6347
        # 4.1.2.6): a session that started at 1 would not be heard.
        prestate.record_seq = LARGE_RECORD_SEQ
        server = Side(SERVER, played.socket)
        prestate_set(server.pointer, prestate)
        assert server.handshake() == 0
        assert server.receive() == b"ping"
        assert server.send(b"pong") == 4
        played.close()
        server.close()
    assert (played.code, played.heard) == (0, b"pong")
    assert wire.RecordHeader.decode(played.to_client[0]).record_seq == LARGE_RECORD_SEQ & 0xFF
    assert wire.RecordHeader.decode(played.to_client[1]).record_seq == LARGE_RECORD_SEQ


def waiting(sock: socket.socket) -> Iterator[bytes]:
    """Every datagram that is there already."""
    while True:
        try:
            yield sock.recv(2048)
        except BlockingIOError:
            return
