"""The server is killed and restarted while clients shake hands with it, or told to end.

The socket is held here and passed on to each server, as systemd does by socket activation: what
clients send while no server runs waits in the socket, and nothing is lost between two processes.
The clients' timers of 1 s are set to 150 s, more than a test may take: who needs one fails.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from gnutls_cookie import GnuTLSError, Session
from gnutls_cookie.errors import TimedOutError
from tests.support.common import Address, seeded, udp_socket
from tests.support.peers import CERTS, trusting

CLIENTS = 200
AT_ONCE = 40  # handshakes under way where the moment is a matter of chance
SECONDS = 120.0  # a bound, never a measure; below TIMER
TIMER = 150.0  # seconds until a client would send again
PATIENCE = 300.0  # seconds until a client would give up

CLIENT_HELLO, SERVER_HELLO, HELLO_VERIFY_REQUEST = 1, 2, 3  # RFC 6347 4.3.2
SERVERS_FLIGHT = frozenset({SERVER_HELLO, 11, 12, 13, 14})  # up to ServerHelloDone (RFC 5246 7.4)

# Becomes `serve` with the socket as its descriptor 3, as sd_listen_fds(3) wants it.
BECOME = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "gnutls_cookie", "serve", *sys.argv[2:]])
"""


@contextmanager
def serving(sock: socket.socket, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    """`gnutls-cookie serve` on a socket that stays open here; killed at the end."""
    command = [sys.executable, "-c", BECOME, str(sock.fileno()), "--quiet"]
    command += ["--x509certfile", str(CERTS / "localhost.pem")]
    command += ["--x509keyfile", str(CERTS / "localhost.key"), *options]
    child = subprocess.Popen(command, pass_fds=[sock.fileno()], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"serving on ")
        yield child
    finally:
        child.kill()
        child.communicate()


def kill(child: subprocess.Popen[bytes]) -> None:
    """kill -9, and wait until it is dead."""
    child.send_signal(signal.SIGKILL)
    assert child.wait(SECONDS) == -signal.SIGKILL


class Client:
    """A client session on a socket of its own, which counts what it sees and sends.

    Attributes:
        stops_at: types of handshake messages; from the first of these on what arrives is held back.
        holding: what arrives is held back.
        challenges: HelloVerifyRequests that arrived.
        passed: whether anything of the server's ServerHello flight arrived.
        error: what ended the handshake.
        late: seconds by which its clock is ahead.
    """

    def __init__(self, server: Address) -> None:
        self.server = server
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.connect(server)
        self.stops_at: frozenset[int] = frozenset()
        self.holding = False
        self.received: list[bytes] = []
        self._held: list[bytes] = []
        self.reset()

    def reset(self, timer: float = TIMER) -> None:
        """Start again from the same port, past what the former server repeated before it died: the
        new session would take its ServerHello for an answer, and find the signature wrong."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.sock.recv(65535)
        self.session = Session(
            "client",
            trusting(),
            server_name="localhost",
            retransmit_timeout=timer,
            handshake_timeout=PATIENCE,
        )
        self.late = 0.0
        self.challenges = 0
        self.passed = False
        self.error: GnuTLSError | None = None
        self._flights: Counter[tuple[int, int]] = Counter()

    @property
    def sent_again(self) -> int:
        """Handshake messages that were sent once more, with the message_seq that they had."""
        return sum(self._flights.values()) - len(self._flights)

    @property
    def now(self) -> float:
        return time.monotonic() + self.late

    @property
    def established(self) -> bool:
        return self.session.established

    def readable(self) -> None:
        """Take what the socket has."""
        while True:
            try:
                datagram = self.sock.recv(65535)
            except BlockingIOError:
                break
            for kind, _ in clear_messages(datagram):
                self.challenges += kind == HELLO_VERIFY_REQUEST
                self.passed |= kind in SERVERS_FLIGHT
                self.holding |= kind in self.stops_at
            self._held.append(datagram)
        if not self.holding:
            self._deliver()

    def release(self) -> None:
        """Give the session all that was held back, and let it go on."""
        self.stops_at, self.holding = frozenset(), False
        self._deliver()

    def _deliver(self) -> None:
        for datagram in self._held:
            self.session.receive_datagram(datagram)
        self._held.clear()
        self.go_on()

    def go_on(self) -> None:
        """Whatever the session can do at present; sends what it has to send."""
        if self.error is None:
            try:
                if self.session.handshake(self.now):
                    while (message := self.session.receive()) is not None:
                        self.received.append(message)
            except GnuTLSError as error:
                self.error = error
        self.flush()

    def send(self, message: bytes) -> None:
        """Send a message."""
        self.session.send(message)
        self.flush()

    def flush(self) -> None:
        for datagram in self.session.datagrams_to_send():
            self._flights.update(clear_messages(datagram))
            self.sock.send(datagram)


def clear_messages(datagram: bytes) -> Iterator[tuple[int, int]]:
    """Type and message_seq of the handshake messages of epoch 0 in a datagram (RFC 6347 4.2.2)."""
    while len(datagram) >= 13:
        size = 13 + int.from_bytes(datagram[11:13], "big")
        if datagram[0] == 22 and datagram[3:5] == bytes(2) and size >= 25:
            yield datagram[13], int.from_bytes(datagram[17:19], "big")
        datagram = datagram[size:]


def drive(clients: Sequence[Client], done: Callable[[Client], bool]) -> None:
    """Give one client after the other what arrives, until `done` holds for all; bounded."""
    deadline = time.monotonic() + SECONDS
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.sock, selectors.EVENT_READ, client)
        while not all(done(client) for client in clients):
            left = [client.session for client in clients if not done(client)]
            assert time.monotonic() < deadline, f"{len(left)} are not done, one is {left[0]!r}"
            for key, _ in selector.select(0.05):
                key.data.readable()
                if all(done(client) for client in clients):
                    break
            for client in clients:
                if (
                    not (client.established or client.holding)
                    and client.session.timeout(client.now) == 0
                ):
                    client.go_on()


def begin(clients: Sequence[Client]) -> None:
    for client in clients:
        client.go_on()


def all_echo(clients: Sequence[Client]) -> None:
    """A message goes to the server and back, for each client."""
    for number, client in enumerate(clients):
        client.received.clear()
        client.send(b"%d" % number)
    drive(clients, lambda client: bool(client.received))
    assert [client.received for client in clients] == [[b"%d" % at] for at in range(len(clients))]


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """The server's socket."""
    with udp_socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        yield sock


@pytest.fixture
def clients(listening: socket.socket) -> Iterator[list[Client]]:
    """Clients of the server, which have sent nothing yet."""
    made = [Client(listening.getsockname()) for _ in range(CLIENTS)]
    yield made
    for client in made:
        client.sock.close()


@pytest.fixture
def secret(tmp_path: Path) -> str:
    """A file with the secret of the cookie keys."""
    path = tmp_path / "secret"
    path.write_bytes(os.urandom(32))
    path.chmod(0o600)
    return str(path)


@pytest.mark.parametrize("keys", ["one secret", "random"])
def test_clients_before_server_hello_complete_after_kill_and_restart(
    keys: str, clients: list[Client], listening: socket.socket, secret: str
) -> None:
    """Wherever before ServerHello they were, and without any timer. One extra round trip where the
    cookie in hand was of a key that died with the process, none where both keys are of one secret.
    """
    options = ["--cookie-secret-file", secret] if keys == "one secret" else []
    fifth = CLIENTS // 5
    silent, asked, answered, queued, past = (
        clients[fifth * number : fifth * (number + 1)] for number in range(5)
    )
    with serving(listening, *options) as first:
        for client in asked + answered:
            client.stops_at = frozenset({HELLO_VERIFY_REQUEST})
        for client in past:
            client.stops_at = SERVERS_FLIGHT
        begin(asked + answered + past)
        drive(asked + answered + past, lambda client: client.holding)
        kill(first)
    for client in answered:
        client.release()  # the hello with its cookie waits in the socket
    begin(queued)  # the hello without one too
    with serving(listening, *options):
        begin(silent)  # nothing was sent before
        for client in asked:
            client.release()  # the cookie was in hand all the time
        served = silent + asked + answered + queued
        drive(served, lambda client: client.established)
        assert [client.sent_again for client in served] == [0] * len(served)
        extra = 0 if keys == "one secret" else 1
        assert {client.challenges for client in silent + queued} == {1}
        assert {client.challenges for client in asked + answered} == {1 + extra}
        all_echo(served)

        # Past ServerHello the session was in the dead process: its end is a matter of patience.
        for client in past:
            client.release()
        assert not any(client.established for client in past)
        for client in past:
            client.session.close()
            client.reset()
        begin(past)
        drive(past, lambda client: client.established)
        all_echo(past)


def test_client_past_server_hello_times_out_and_is_served_from_the_same_port(
    clients: list[Client], listening: socket.socket
) -> None:
    """What the new process knows nothing of meets silence, not an error of it."""
    few = clients[:10]
    with serving(listening) as first:
        for client in few:
            client.reset(timer=0.1)
            client.stops_at = SERVERS_FLIGHT
        begin(few)
        drive(few, lambda client: client.holding)
        kill(first)
    with serving(listening):
        for client in few:
            client.release()
        drive(few, lambda client: client.sent_again > 1)
        assert [client.error for client in few] == [None] * len(few)
        for client in few:
            client.late = PATIENCE
            client.go_on()
        assert {type(client.error) for client in few} == {TimedOutError}
        for client in few:
            client.reset()
        begin(few)
        drive(few, lambda client: client.established)
        all_echo(few)


@pytest.mark.parametrize("keys", ["one secret", "random"])
def test_kill_at_any_moment_of_200_handshakes(
    keys: str, clients: list[Client], listening: socket.socket, secret: str
) -> None:
    """All that had not seen ServerHello complete. Here what the dead process had read and not
    answered is lost, so that those clients need their timer: it is short."""
    options = ["--cookie-secret-file", secret] if keys == "one secret" else []
    chance = seeded()
    for client in clients:
        client.reset(timer=0.2)
    moment = chance.randrange(CLIENTS - 2 * AT_ONCE)
    waiting = list(clients)

    def is_time(_: Client) -> bool:
        passed = sum(client.passed for client in clients)
        while waiting and CLIENTS - len(waiting) < passed + AT_ONCE:
            waiting.pop().go_on()
        return passed > moment

    with serving(listening, *options) as first:
        drive(clients, is_time)
        kill(first)
    for client in clients:
        client.readable()  # what had been sent by then
    early = [client for client in clients if not (client.passed or client.established)]
    print(f"killed at {moment}: {len(clients) - len(early)} were past ServerHello")
    assert early
    begin(waiting)
    with serving(listening, *options):
        drive(early, lambda client: client.established)
        all_echo(early)


def test_every_client_sees_the_goodbye_of_a_server_that_is_told_to_end(
    clients: list[Client], listening: socket.socket
) -> None:
    """SIGTERM: close_notify to all that are connected, and exit code 0."""
    with serving(listening) as server:
        begin(clients)
        drive(clients, lambda client: client.established)
        all_echo(clients)
        server.terminate()
        drive(clients, lambda client: client.session.peer_closed)
        assert [client.error for client in clients] == [None] * CLIENTS
        assert server.wait(SECONDS) == 0
