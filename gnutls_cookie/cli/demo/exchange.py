"""The exchange step by step: a server that prints what it does, and its clients."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from gnutls_cookie import (
    Arrival,
    Challenge,
    CookieGate,
    Discarded,
    KeyRing,
    Prestate,
    PSKCredentials,
    Server,
    Verified,
    client_data,
)
from gnutls_cookie.blocking import connect
from gnutls_cookie.reference.wire import HelloVerifyRequest, WireError, decode_client_hello
from gnutls_cookie.server import CloseReason, Connected, MessageReady

from .screen import CYAN, GREEN, YELLOW, say

__all__ = [
    "HOST",
    "DemoError",
    "DemoServer",
    "Judge",
    "MissingError",
    "clients",
    "own_client",
    "serve",
    "show",
]

HOST = "127.0.0.1"
STEPS = ("challenged", "verified", "handshake", "echo", "closed")
_LINE = b"hello, cookie\n"
_CLIENT_SECONDS = 20.0  # a client that takes longer has failed
_ECHO_SECONDS = 0.5  # then a line was lost
_RECEIVE_SECONDS = 0.05  # wait for a datagram, before timers are served
_PACKAGES = {"openssl": "openssl", "gnutls-cli": "gnutls-bin"}  # of Debian and Ubuntu

# What becomes of a datagram of an unknown client: called with its client_data and itself.
Judge = Callable[[bytes, bytes], Challenge | Verified | Discarded]


class DemoError(Exception):
    """A step that did not happen."""


class MissingError(Exception):
    """A client that is not installed."""


def clients(identity: str, key: bytes) -> dict[str, Callable[[int], None]]:
    """The clients by name; each is called with the server's port, and has then had its echo."""
    return {
        "our own client": lambda port: own_client(port, PSKCredentials(identity, key)),
        "openssl s_client": lambda port: _run_program(
            "openssl", "s_client", "-dtls1_2", "-connect", f"{HOST}:{port}",
            "-psk_identity", identity, "-psk", key.hex(),
        ),
        "gnutls-cli": lambda port: _run_program(
            "gnutls-cli", "--udp", "--port", str(port), "--priority", "NORMAL:-KX-ALL:+PSK",
            "--pskusername", identity, "--pskkey", key.hex(), HOST,
        ),
    }  # fmt: skip


def show(client: Callable[[int], None], credentials: PSKCredentials) -> None:
    """Serve one client, and print each step.

    Raises:
        DemoError: a step did not happen.
        MissingError: the client is not installed.
    """
    gate = CookieGate(KeyRing.random())
    server = serve(client, credentials, lambda who, datagram: gate.receive(datagram, who))
    steps = tuple(dict.fromkeys(server.steps))  # a retransmission repeats a step
    if steps != STEPS:
        raise DemoError(f"the steps were {', '.join(steps)}; expected: {', '.join(STEPS)}")
    say("  served", GREEN)


def serve(client: Callable[[int], None], credentials: PSKCredentials, judge: Judge) -> DemoServer:
    """Serve until the client has ended.

    Raises:
        Exception: what the client raised.
    """
    done: Future[None] = Future()

    def run(port: int) -> None:
        try:
            client(port)
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((HOST, 0))
        sock.settimeout(_RECEIVE_SECONDS)
        server = DemoServer(sock, credentials, judge)
        # A daemon: Ctrl-C does not wait for a client that is stalled.
        threading.Thread(target=run, args=[sock.getsockname()[1]], daemon=True).start()
        server.serve_until_done(done)
        done.result()
    return server


class DemoServer:
    """An echo server that prints each step, and keeps their names in `steps`."""

    def __init__(self, sock: socket.socket, credentials: PSKCredentials, judge: Judge) -> None:
        self.steps: list[str] = []
        self._sock = sock
        self._judge = judge
        self._server = Server(credentials)

    def serve_until_done(self, client: Future[None]) -> None:
        """Serve until the client has ended and its last datagram is read."""
        while True:
            try:
                datagram, address = self._sock.recvfrom(65535)
            except TimeoutError:
                if client.done():
                    return
                self._server.handle_timeout(time.monotonic())
            else:
                has_session = address in self._server
                prestate = None if has_session else self._check_cookie(datagram, address)
                arrival = Arrival(address=address, datagram=datagram, prestate=prestate)
                self._server.receive(arrival, time.monotonic())
            self._settle()

    def _check_cookie(self, datagram: bytes, address: tuple[str, int]) -> Prestate | None:
        """Answer a ClientHello without a valid cookie; the prestate of a verified client."""
        verdict = self._judge(client_data.sockaddr(address), datagram)
        if isinstance(verdict, Discarded):
            return None
        try:
            _, handshake, hello = decode_client_hello(datagram)
            detail = f"message_seq {handshake.message_seq}, "
            detail += f"cookie {hello.cookie.hex()}" if hello.cookie else "no cookie"
        except WireError:
            detail = "its first fragment"
        say(f"  client -> server  ClientHello        {len(datagram):4} bytes  {detail}", CYAN)
        if not isinstance(verdict, Challenge):
            self._step("verified", f"cookie of {address[0]}:{address[1]}; {verdict.prestate}")
            return verdict.prestate
        reply = verdict.datagram
        self._sock.sendto(reply, address)
        self.steps.append("challenged")
        request = HelloVerifyRequest.decode(reply)
        detail = f"message_seq {request.message_seq}, cookie {request.cookie.hex()}"
        say(f"  client <- server  HelloVerifyRequest {len(reply):4} bytes  {detail}", YELLOW)
        return None

    def _settle(self) -> None:
        """Print events, echo messages, and send what the sessions have to send."""
        for event in self._server.events():
            connection = event.connection
            if isinstance(event, Connected):
                self._step("handshake", connection.session.description or "")
            elif isinstance(event, MessageReady):
                while (message := connection.receive()) is not None:
                    self._step("echo", repr(message))
                    self._server.send(connection, message, time.monotonic())
            elif event.reason is CloseReason.PEER:
                self._step("closed", "close_notify from the client, and ours in answer")
            else:
                raise DemoError(f"the connection ended: {event.error or event.reason.value}")
        for datagram, address in self._server.datagrams_to_send():
            self._sock.sendto(datagram, address)

    def _step(self, name: str, detail: str) -> None:
        self.steps.append(name)
        say(f"  {name:<16}  {detail}")


def own_client(port: int, credentials: PSKCredentials, seconds: float = _CLIENT_SECONDS) -> None:
    """Connect, and have one line echoed; said again where it is lost, as any UDP datagram may be.

    Args:
        seconds: of the handshake.

    Raises:
        GnuTLSError: TimedOutError, for instance.
    """
    with connect(HOST, port, credentials=credentials, handshake_timeout=seconds) as connection:
        end = time.monotonic() + _CLIENT_SECONDS
        while time.monotonic() < end:
            connection.send(_LINE)
            with contextlib.suppress(TimeoutError):
                if connection.receive(_ECHO_SECONDS) == _LINE:
                    return
        raise DemoError("our own client got no echo")


def _run_program(*command: str) -> None:
    """Run a client, send a line, wait for the echo, end its input; it must then exit by itself."""
    if shutil.which(command[0]) is None:
        raise MissingError(f"{command[0]} is not installed: apt install {_PACKAGES[command[0]]}")
    output = b""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        watchdog = threading.Timer(_CLIENT_SECONDS, process.kill)
        watchdog.start()
        try:
            with contextlib.suppress(BrokenPipeError):  # it has exited; its output says why
                process.stdin.write(_LINE)
                process.stdin.flush()
            while not output.endswith(_LINE) and (line := process.stdout.readline()):
                output += line
            output += process.communicate()[0]
        finally:
            watchdog.cancel()
            process.kill()
    if _LINE not in output or process.returncode != 0:
        last_lines = "\n".join(output.decode("utf-8", "replace").splitlines()[-8:])
        raise DemoError(f"{command[0]} failed, exit code {process.returncode}:\n{last_lines}")
