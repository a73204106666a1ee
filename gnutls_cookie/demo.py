"""The cookie exchange step by step on loopback: challenged, verified, handed over, served.

A server of some lines stands on the thin functions; its clients are this package's own session,
`openssl s_client` and `gnutls-cli`.
"""

from __future__ import annotations

import os
import secrets
import selectors
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from .address import client_data
from .cookie import Prestate, cookie_send, cookie_verify, generate_key, library_version
from .credentials import CertificateCredentials, PSKCredentials
from .errors import BadCookieError, GnuTLSError
from .reference.wire import HelloVerifyRequest, WireError, decode_client_hello
from .session import TICK, Credentials, Session

__all__ = ["run"]

_HOST = "127.0.0.1"
_LINE = b"hello, cookie\n"
_SECONDS = 20.0  # for one client
_IDENTITY = "demo"

Client = Callable[[int, "_Secrets", threading.Event], None]


class DemoError(Exception):
    """A step that did not happen."""


def run(out: TextIO = sys.stdout) -> int:
    """Show the exchange with each client; 0 only if every step of every client happened."""
    show = _Show(out)
    show.title(f"The DTLS cookie exchange, libgnutls {library_version()}")
    failed = []
    with _made_secrets() as made:
        for name, client, credentials in (
            ("our own client session (PSK)", _own_client, made.psk),
            ("openssl s_client (X.509)", _openssl, made.certificate),
            ("gnutls-cli (X.509)", _gnutls_cli, made.certificate),
        ):
            show.title(f"\nClient: {name}")
            try:
                _serve_one(show, made, client, credentials)
            except (DemoError, GnuTLSError, OSError) as error:
                show.failure(str(error))
                failed.append(name)
    if failed:
        show.failure(f"\nNot served: {', '.join(failed)}")
        return 1
    show.success("\nAll three clients were challenged, verified and served.")
    return 0


# --- the server -----------------------------------------------------------------------------------


def _serve_one(
    show: _Show, made: _Secrets, client: Client, credentials: Credentials | None
) -> None:
    """Serve one client from its first datagram to its goodbye, and say each step."""
    if credentials is None:
        raise DemoError("openssl, which makes the certificate, is not installed")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((_HOST, 0))
        port = sock.getsockname()[1]
        thread = _ClientThread(client, port, made)
        thread.start()
        try:
            deadline = time.monotonic() + _SECONDS
            datagram, address, prestate = _exchange(show, sock, thread, deadline)
            _session(show, sock, thread, deadline, datagram, address, prestate, credentials)
        finally:
            thread.finish()


def _exchange(
    show: _Show, sock: socket.socket, thread: _ClientThread, deadline: float
) -> tuple[bytes, tuple[str, int], Prestate]:
    """Challenge clients until one comes back with its cookie (RFC 6347 4.2.1)."""
    key = generate_key()
    challenged = False
    while True:
        datagram, address = _receive(sock, thread, deadline)
        try:
            record, handshake, hello = decode_client_hello(datagram)
        except WireError:
            continue  # silence for whatever is no ClientHello
        cookie = f"cookie {hello.cookie.hex()}" if hello.cookie else "no cookie"
        show.received("ClientHello", datagram, f"message_seq {handshake.message_seq}, {cookie}")
        who = client_data.sockaddr(address)
        try:
            prestate = cookie_verify(key, who, datagram)
        except BadCookieError:
            reply: list[bytes] = []
            prestate = Prestate(record.record_seq & 0xFFFFFFFF, 0, handshake.message_seq)
            cookie_send(key, who, prestate, reply, _keep)
            sock.sendto(reply[0], address)
            made = HelloVerifyRequest.decode(reply[0])
            show.sent("HelloVerifyRequest", reply[0], f"cookie {made.cookie.hex()}")
            challenged = True
            continue
        if not challenged:
            raise DemoError("the client was verified before it was challenged")
        show.step("verified", f"cookie of {address[0]}:{address[1]}; {prestate}")
        return datagram, address, prestate


def _session(
    show: _Show,
    sock: socket.socket,
    thread: _ClientThread,
    deadline: float,
    datagram: bytes,
    address: tuple[str, int],
    prestate: Prestate,
    credentials: Credentials,
) -> None:
    """The handshake, an echo and the goodbye with a verified client."""
    session = Session("server", credentials, prestate=prestate)
    session.receive_datagram(datagram)
    shaken = echoed = False
    while not session.peer_closed:
        if not shaken and session.handshake():
            shaken = True
            show.step("handshake", session.description or "")
        message = session.receive() if shaken else None
        if message is not None:
            session.send(message)
            echoed = True
            show.step("echo", f"{message!r}")
        for outgoing in session.datagrams_to_send():
            sock.sendto(outgoing, address)
        if message is None and not session.peer_closed:
            received, sender = _receive(sock, thread, deadline, session)
            if received and sender == address:
                session.receive_datagram(received)
    if not echoed:
        raise DemoError("the client closed before its line was echoed")
    show.step("closed", "close_notify from the client, and ours in answer")
    thread.join(max(0.1, deadline - time.monotonic()))
    if thread.is_alive():
        raise DemoError("the client did not end")
    if thread.error is not None:
        raise DemoError(f"the client failed: {thread.error}")
    show.success("served")


def _receive(
    sock: socket.socket, thread: _ClientThread, deadline: float, session: Session | None = None
) -> tuple[bytes, tuple[str, int]]:
    """The next datagram; (b"", ...) where the session's timer was served instead."""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise DemoError(f"nothing happened for {_SECONDS:.0f} s")
        if thread.error is not None:
            raise DemoError(f"the client failed: {thread.error}")
        timer = session.timeout() if session is not None else None
        sock.settimeout(max(TICK, min(left, 0.2, 0.2 if timer is None else timer)))
        try:
            return sock.recvfrom(65535)
        except TimeoutError:
            if session is not None and session.timeout() == 0:
                session.handle_timeout()
                return b"", ("", 0)


def _keep(transport: list[bytes], data: bytes) -> None:
    transport.append(data)


# --- the clients ----------------------------------------------------------------------------------


class _ClientThread(threading.Thread):
    """Runs a client beside the server; `error` is what it failed with."""

    def __init__(self, client: Client, port: int, made: _Secrets) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._port = port
        self._made = made
        self._stop_asked = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._client(self._port, self._made, self._stop_asked)
        except (DemoError, GnuTLSError, OSError) as error:
            self.error = error

    def finish(self) -> None:
        """End the client, where it has not ended."""
        self._stop_asked.set()
        self.join()


def _own_client(port: int, made: _Secrets, stop: threading.Event) -> None:
    session = Session("client", made.psk)
    deadline = time.monotonic() + _SECONDS
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((_HOST, port))
        sent = False
        while not session.peer_closed:
            if session.handshake() and not sent:
                session.send(_LINE)
                sent = True
            message = session.receive() if sent else None
            if message == _LINE:
                session.close()
            for datagram in session.datagrams_to_send():
                sock.send(datagram)
            if stop.is_set() or time.monotonic() > deadline:
                raise DemoError("no echo came")
            timer = session.timeout()
            sock.settimeout(max(TICK, 0.2 if timer is None else min(timer, 0.2)))
            try:
                session.receive_datagram(sock.recv(65535))
            except TimeoutError:
                session.handle_timeout()


def _openssl(port: int, made: _Secrets, stop: threading.Event) -> None:
    _run_program(
        stop, "openssl", "s_client", "-dtls1_2", "-connect", f"{_HOST}:{port}",
        "-CAfile", str(made.certificate_file), "-verify_return_error", "-servername", "localhost",
    )  # fmt: skip


def _gnutls_cli(port: int, made: _Secrets, stop: threading.Event) -> None:
    _run_program(
        stop, "gnutls-cli", "--udp", "--port", str(port),
        "--x509cafile", str(made.certificate_file),
        "--sni-hostname", "localhost", "--verify-hostname", "localhost", _HOST,
    )  # fmt: skip


def _run_program(stop: threading.Event, program: str, *arguments: str) -> None:
    """Run a client, give it a line, wait for the echo, end its input; it must then end itself."""
    if shutil.which(program) is None:
        raise DemoError(f"{program} is not installed")
    process = subprocess.Popen(
        [program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    output = b""
    try:
        process.stdin.write(_LINE)
        process.stdin.flush()
        deadline = time.monotonic() + _SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while _LINE not in output:
                if stop.is_set() or time.monotonic() > deadline:
                    raise DemoError(f"{program} showed no echo:\n{_tail(output)}")
                if not selector.select(0.2):
                    continue
                chunk = os.read(process.stdout.fileno(), 65536)
                if not chunk:
                    raise DemoError(f"{program} ended without an echo:\n{_tail(output)}")
                output += chunk
        process.stdin.close()
        code = process.wait(max(0.1, deadline - time.monotonic()))
        if code != 0:
            raise DemoError(f"{program} ended with exit code {code}:\n{_tail(output)}")
    except subprocess.TimeoutExpired:
        raise DemoError(f"{program} did not end") from None
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def _tail(output: bytes) -> str:
    return "\n".join(output.decode("utf-8", "replace").splitlines()[-8:])


# --- secrets of one run ---------------------------------------------------------------------------


class _Secrets:
    """A pre-shared key, and a certificate for localhost where openssl is there to make it."""

    def __init__(self, folder: Path) -> None:
        self.psk_key = secrets.token_bytes(32)
        self.psk = PSKCredentials(_IDENTITY, self.psk_key)
        self.certificate_file = folder / "certificate.pem"
        key_file = folder / "key.pem"
        self.certificate: CertificateCredentials | None = None
        if shutil.which("openssl") is not None:
            command = [
                "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
                "-nodes", "-days", "2", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                "-keyout", str(key_file), "-out", str(self.certificate_file),
            ]  # fmt: skip
            subprocess.run(command, check=True, capture_output=True)
            self.certificate = CertificateCredentials.from_files(self.certificate_file, key_file)


@contextmanager
def _made_secrets() -> Iterator[_Secrets]:
    with tempfile.TemporaryDirectory(prefix="gnutls-cookie-demo-") as folder:
        yield _Secrets(Path(folder))


# --- what is shown --------------------------------------------------------------------------------


class _Show:
    """Lines of text; in colour on a terminal only."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colour = out.isatty() and "NO_COLOR" not in os.environ

    def title(self, text: str) -> None:
        self._line(text, "1")

    def received(self, what: str, datagram: bytes, detail: str) -> None:
        self._line(f"  client -> server  {what:<19}{len(datagram):4} bytes  {detail}", "36")

    def sent(self, what: str, datagram: bytes, detail: str) -> None:
        self._line(f"  client <- server  {what:<19}{len(datagram):4} bytes  {detail}", "33")

    def step(self, what: str, detail: str) -> None:
        self._line(f"  {what:<16}  {detail}", "0")

    def success(self, text: str) -> None:
        self._line(f"  {text}" if not text.startswith("\n") else text, "32")

    def failure(self, text: str) -> None:
        self._line(f"  {text}" if not text.startswith("\n") else text, "31")

    def _line(self, text: str, colour: str) -> None:
        print(f"\033[{colour}m{text}\033[0m" if self._colour else text, file=self._out, flush=True)
