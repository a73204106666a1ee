"""gnutls-cookie demo: the cookie exchange step by step on loopback.

The server is CookieGate and Server on one socket, and prints what it does. Its clients are the
package's own, `openssl s_client` and `gnutls-cli`, one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from gnutls_cookie import (
    Arrival,
    Challenge,
    CookieGate,
    Discarded,
    GnuTLSError,
    KeyRing,
    Prestate,
    PSKCredentials,
    Server,
    client_data,
    library_version,
)
from gnutls_cookie.blocking import connect
from gnutls_cookie.reference.wire import HelloVerifyRequest, WireError, decode_client_hello
from gnutls_cookie.server import CloseReason, Connected, MessageReady

__all__ = ["add_arguments", "run"]

_HOST = "127.0.0.1"
_LINE = b"hello, cookie\n"
_CLIENT_SECONDS = 20.0  # a client that takes longer has failed
_RECEIVE_SECONDS = 0.05  # wait for a datagram, before timers are served
_STEPS = ("challenged", "verified", "handshake", "echo", "closed")

_BOLD, _RED, _GREEN, _YELLOW, _CYAN = 1, 31, 32, 33, 36  # SGR parameters, ECMA-48 8.3.117


class DemoError(Exception):
    """A step that did not happen."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def run(options: argparse.Namespace) -> int:
    """Show the exchange with each client.

    Returns:
        The exit code: 0 if every step of every client happened, otherwise 1.
    """
    identity, key = "demo", secrets.token_bytes(32)
    credentials = PSKCredentials(identity, key)
    clients: dict[str, Callable[[int], None]] = {
        "our own client": lambda port: _run_own_client(port, credentials),
        "openssl s_client": lambda port: _run_program(
            "openssl", "s_client", "-dtls1_2", "-connect", f"{_HOST}:{port}",
            "-psk_identity", identity, "-psk", key.hex(),
        ),
        "gnutls-cli": lambda port: _run_program(
            "gnutls-cli", "--udp", "--port", str(port), "--priority", "NORMAL:-KX-ALL:+PSK",
            "--pskusername", identity, "--pskkey", key.hex(), _HOST,
        ),
    }  # fmt: skip
    failed = []
    _say(f"The DTLS cookie exchange, libgnutls {library_version()}", _BOLD)
    for name, client in clients.items():
        _say(f"\nClient: {name}", _BOLD)
        try:
            _serve_client(client, credentials)
            _say("  served", _GREEN)
        except (DemoError, GnuTLSError, OSError) as error:
            _say(f"  {error}", _RED)
            failed.append(name)
    if failed:
        _say(f"\nNot served: {', '.join(failed)}", _RED)
        return 1
    _say("\nAll three clients were challenged, verified and served.", _GREEN)
    return 0


def _serve_client(client: Callable[[int], None], credentials: PSKCredentials) -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        ThreadPoolExecutor(1) as executor,
    ):
        sock.bind((_HOST, 0))
        sock.settimeout(_RECEIVE_SECONDS)
        server = _DemoServer(sock, credentials)
        future = executor.submit(client, sock.getsockname()[1])
        server.serve_until_done(future)
        future.result()
    steps = tuple(dict.fromkeys(server.steps))  # a retransmission repeats a step
    if steps != _STEPS:
        raise DemoError(f"the steps were {', '.join(steps)}; expected: {', '.join(_STEPS)}")


class _DemoServer:
    """An echo server that prints each step, and keeps their names in `steps`."""

    def __init__(self, sock: socket.socket, credentials: PSKCredentials) -> None:
        self.steps: list[str] = []
        self._sock = sock
        self._gate = CookieGate(KeyRing.random())
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
        verdict = self._gate.receive(datagram, client_data.sockaddr(address))
        if isinstance(verdict, Discarded):
            return None
        try:
            _, handshake, hello = decode_client_hello(datagram)
            detail = f"message_seq {handshake.message_seq}, "
            detail += f"cookie {hello.cookie.hex()}" if hello.cookie else "no cookie"
        except WireError:
            detail = "its first fragment"
        _say(f"  client -> server  ClientHello        {len(datagram):4} bytes  {detail}", _CYAN)
        if not isinstance(verdict, Challenge):
            self._step("verified", f"cookie of {address[0]}:{address[1]}; {verdict.prestate}")
            return verdict.prestate
        reply = verdict.datagram
        self._sock.sendto(reply, address)
        self.steps.append("challenged")
        detail = f"{len(reply):4} bytes  cookie {HelloVerifyRequest.decode(reply).cookie.hex()}"
        _say(f"  client <- server  HelloVerifyRequest {detail}", _YELLOW)
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
        _say(f"  {name:<16}  {detail}")


def _run_own_client(port: int, credentials: PSKCredentials) -> None:
    timeout = _CLIENT_SECONDS
    with connect(_HOST, port, credentials=credentials, handshake_timeout=timeout) as connection:
        connection.send(_LINE)
        if connection.receive(timeout) != _LINE:
            raise DemoError("our own client got no echo")


def _run_program(*command: str) -> None:
    """Run a client, send a line, wait for the echo, end its input; it must then exit by itself."""
    if shutil.which(command[0]) is None:
        raise DemoError(f"{command[0]} is not installed")
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


def _say(text: str, colour: int = 0) -> None:
    """Print a line; in colour if stdout is a terminal."""
    if sys.stdout is None:  # closed
        return
    if sys.stdout.isatty() and "NO_COLOR" not in os.environ:
        text = f"\033[{colour}m{text}\033[0m"
    print(text, flush=True)
