"""gnutls-cookie serve: a DTLS echo server with the option names of `gnutls-serv --udp`.

One process, or several on one port (SO_REUSEPORT) under one that watches them. All of them have the
same cookie keys, so that it does not matter which one a client comes back to.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .aio import Connection, DTLSServer, start_server
from .credentials import CertificateCredentials, PSKCredentials
from .endpoint import bound
from .errors import GnuTLSError
from .keys import KeyRing
from .secret import secret_file
from .server import Server
from .session import Credentials

__all__ = ["add_arguments", "psk_file", "run", "secret_file"]

_log = logging.getLogger("gnutls_cookie")

_PORT = 5556  # gnutls-serv's
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
_MAX_WORKERS = 1024
_QUICK_DEATHS, _QUICK = 5, 1.0  # so many workers dead within so many seconds: it makes no sense
_LISTEN_FDS_START = 3  # sd_listen_fds(3)


class _Unusable(Exception):
    """What was asked for cannot be done; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("-p", "--port", type=_port, default=_PORT, help=f"UDP port; 0: any ({_PORT})")
    add("--host", default="127.0.0.1", help='address to serve on; "::" for all (127.0.0.1)')
    add("--x509certfile", metavar="FILE", type=Path, help="certificate chain, PEM or DER")
    add("--x509keyfile", metavar="FILE", type=Path, help="its private key, PEM or DER")
    add("--x509cafile", metavar="FILE", type=Path, help="authorities of clients' certificates")
    add("-r", "--require-client-cert", action="store_true", help="and such a one is demanded")
    add("--pskpasswd", metavar="FILE", type=Path, help="pre-shared keys, a line identity:hex each")
    add("--pskhint", metavar="TEXT", help="identity hint to send")
    add("--priority", metavar="TEXT", help="GnuTLS priority string")
    add("--mtu", metavar="BYTES", type=int, help="largest datagram to send (1200)")
    add("--cookie-secret-file", metavar="FILE", type=Path, help="cookie keys of a fleet")
    add(
        "--rotate", metavar="SECONDS", type=float, default=3600.0, help="a cookie key's life (3600)"
    )
    add("--workers", metavar="N", type=_workers, default=1, help="processes on the port (1)")
    add("--max-sessions", metavar="N", type=int, default=10_000, help="of a process (10000)")
    add("--handshake-timeout", metavar="SECONDS", type=float, default=30.0, help="(30)")
    add("--idle-timeout", metavar="SECONDS", type=float, default=300.0, help="(300)")
    add("--stats", metavar="SECONDS", type=float, help="print a line of counters so often")
    add("--json", action="store_true", help="what is printed is JSON, an object a line")
    add("-q", "--quiet", action="store_true", help="log warnings only")
    add("-d", "--debug", metavar="LEVEL", type=int, default=0, help="above 0: log more")
    # What gnutls-serv has besides, and is so here anyway.
    for name in ("--echo", "--nodb", "--noticket", "--x509fmtder"):
        add(name, action="store_true", help=argparse.SUPPRESS)
    add("-u", "--udp", action="store_true", help=argparse.SUPPRESS)
    add("-a", "--disable-client-cert", action="store_true", help=argparse.SUPPRESS)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reads secret, certificate and keys anew.

    Returns:
        The exit code: 0 after a signal, 1 where it could not be served, 2 for unusable options.
    """
    level = logging.WARNING if options.quiet else logging.DEBUG if options.debug else logging.INFO
    logging.basicConfig(level=level, format="%(levelname)s %(message)s", stream=sys.stderr)
    try:
        service = _Service(options)
        sockets = _sockets(options)
    except _Unusable as error:
        print(f"gnutls-cookie serve: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        where = f"{options.host} port {options.port}"
        print(f"gnutls-cookie serve: cannot serve on {where}: {error}", file=sys.stderr)
        return 1
    if len(sockets) == 1:
        asyncio.run(service.serve(sockets[0]))
        return 0
    return _Workers(service, sockets).run()


def psk_file(path: Path) -> dict[str, bytes]:
    """Identities and keys of a file as psktool writes it: lines `identity:hex`.

    An identity that starts with # is in hex itself.

    Raises:
        ValueError: a line is of another form; the text has the line's number and nothing secret.
        OSError: the file cannot be read.
    """
    keys: dict[str, bytes] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        name, colon, key = line.strip().rpartition(b":")
        try:
            if not colon:
                raise ValueError
            if name.startswith(b"#"):
                name = bytes.fromhex(name[1:].decode("ascii"))
            keys[name.decode("utf-8", "surrogateescape")] = bytes.fromhex(key.decode("ascii"))
        except ValueError:
            raise ValueError(f"{path}, line {number}: not identity:hexadecimal key") from None
    if not keys:
        raise ValueError(f"{path}: no keys in it")
    return keys


class _Service:
    """What is served: credentials, cookie keys, limits."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._made_psk: tuple[str, bytes] | None = None
        if not (options.x509certfile or options.x509keyfile or options.pskpasswd):
            self._made_psk = (f"guest-{secrets.token_hex(3)}", secrets.token_bytes(16))
        self._own_secret = secrets.token_bytes(32)  # made before any worker: the same in all
        self.credentials = self._credentials()
        self.keys = self._keys()
        self._limits: dict[str, Any] = {
            "priority": options.priority,
            "mtu": options.mtu,
            "verify_peer": options.require_client_cert,
            "max_sessions": options.max_sessions,
            "handshake_timeout": options.handshake_timeout,
            "idle_timeout": options.idle_timeout,
        }
        if options.stats is not None and not options.stats > 0:
            raise _Unusable("--stats must be above 0")
        try:
            Server(self.credentials, **self._limits)
        except (ValueError, TypeError, GnuTLSError) as error:
            raise _Unusable(str(error)) from None

    def announce(self, sock: socket.socket) -> None:
        """Say where it is served, and how a client gets in where the key was made here."""
        host, port = sock.getsockname()[:2]
        said: dict[str, Any] = {"serving": host, "port": port}
        lines = [f"serving on {host} port {port}"]
        if self._made_psk is not None:
            identity, key = self._made_psk[0], self._made_psk[1].hex()
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            psk = f"-psk_identity {identity} -psk {key}"
            kx = "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK:+PSK"
            said |= {"identity": identity, "key": key}
            lines += [
                f"PSK identity {identity}, key {key}; clients:",
                f"  gnutls-cookie connect --pskusername {identity} --pskkey {key} {host} {port}",
                f"  openssl s_client -dtls1_2 -connect {target} {psk}",
                f"  gnutls-cli --udp --port {port} --priority {kx} "
                f"--pskusername {identity} --pskkey {key} {host}",
            ]
        self._print(said, lines)

    async def serve(self, sock: socket.socket, worker: int = 0, lifeline: int = -1) -> None:
        """Serve a socket until a signal comes, or the other end of `lifeline` is closed."""
        server = await start_server(
            self._echo, sock=sock, credentials=self.credentials, keys=self.keys, **self._limits
        )
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, server.close)
        loop.add_signal_handler(signal.SIGHUP, self._reload, server)
        if lifeline < 0:
            self.announce(sock)
        else:
            loop.add_reader(lifeline, _orphaned, loop, lifeline, server)
        stats = loop.create_task(self._stats(server, worker)) if self.options.stats else None
        try:
            await server.serve_forever()
        finally:
            if stats is not None:
                stats.cancel()
                self._print_stats(server, worker)

    @staticmethod
    async def _echo(connection: Connection) -> None:
        _log.info("%s port %d: %s", *connection.address[:2], connection.session.description)
        async for message in connection:
            if message:
                await connection.send(message)
        _log.info("%s port %d: ended", *connection.address[:2])

    def _reload(self, server: DTLSServer) -> None:
        """Read everything anew. What cannot be read stays as it was."""
        try:
            credentials, keys = self._credentials(), self._keys()
            server.set_credentials(credentials)
        except (_Unusable, ValueError, TypeError, GnuTLSError) as error:
            _log.error("not read anew: %s", error)
            return
        self.credentials, self.keys = credentials, keys
        server.keys = keys
        _log.info("read anew")

    def _credentials(self) -> list[Credentials]:
        options = self.options
        if (options.x509certfile is None) != (options.x509keyfile is None):
            raise _Unusable("--x509certfile and --x509keyfile go together")
        if options.require_client_cert and options.x509cafile is None:
            raise _Unusable("--require-client-cert needs --x509cafile")
        found: list[Credentials] = []
        try:
            if options.x509certfile is not None:
                found.append(
                    CertificateCredentials.from_files(
                        options.x509certfile, options.x509keyfile, trust=options.x509cafile
                    )
                )
            if options.pskpasswd is not None:
                keys = psk_file(options.pskpasswd)
                found.append(PSKCredentials(lookup=keys, hint=options.pskhint))
        except (OSError, ValueError, GnuTLSError) as error:
            raise _Unusable(f"credentials: {error}") from None
        if self._made_psk is not None:
            found.append(PSKCredentials(*self._made_psk, hint=options.pskhint))
        return found

    def _keys(self) -> KeyRing:
        path = self.options.cookie_secret_file
        try:
            secret = self._own_secret if path is None else secret_file(path)
            return KeyRing.from_secret(secret, self.options.rotate)
        except (OSError, ValueError) as error:
            raise _Unusable(f"cookie keys: {error}") from None

    async def _stats(self, server: DTLSServer, worker: int) -> None:
        while True:
            await asyncio.sleep(self.options.stats)
            self._print_stats(server, worker)

    def _print_stats(self, server: DTLSServer, worker: int) -> None:
        counters = server.counters.as_dict()
        gate, sessions = counters["gate"], counters["server"]
        line = (
            f"worker {worker}: {sessions['sessions']} sessions, {sessions['handshaking']} in their "
            f"handshake, {sessions['connected']} completed; {gate['challenged']} challenged, "
            f"{gate['verified'] + gate['verified_previous']} verified, "
            f"{sum(gate['discarded'].values())} discarded; {sessions['messages_received']} messages"
            f" in, {sessions['messages_sent']} out"
        )
        self._print({"time": time.time(), "worker": worker, **counters}, [line])

    def _print(self, said: dict[str, Any], lines: Iterable[str]) -> None:
        text = json.dumps(said) if self.options.json else "\n".join(lines)
        # One write for all of it: workers share the file.
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


class _Workers:
    """Processes that serve one port, each its own socket, and are started anew where they die."""

    def __init__(self, service: _Service, sockets: list[socket.socket]) -> None:
        self._service = service
        self._sockets = sockets
        self._pids: dict[int, int] = {}  # of a worker: its number
        self._deaths: list[float] = []
        # The workers hold the reading end. Nobody writes: it ends with this process, whatever ended
        # that, and then they end too.
        self._lifeline, self._held = os.pipe()

    def run(self) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        for number in range(len(self._sockets)):
            self._start(number)
        self._service.announce(self._sockets[0])
        ending, code = False, 0
        while self._pids:
            got = signal.sigwait(_SIGNALS)
            if got == signal.SIGCHLD:
                for number, status in self._dead():
                    if ending:
                        continue
                    _log.warning("worker %d ended (%s), and is started anew", number, status)
                    if self._dies_at_once():
                        _log.error("workers die as soon as they are started")
                        ending, code = True, 1
                        self._tell(signal.SIGTERM)
                    else:
                        self._start(number)
            elif got == signal.SIGHUP:
                self._tell(signal.SIGHUP)
            else:
                ending = True
                self._tell(signal.SIGTERM)
        return code

    def _start(self, number: int) -> None:
        pid = os.fork()
        if pid != 0:
            self._pids[pid] = number
            return
        code = 1
        try:
            os.close(self._held)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            for other, sock in enumerate(self._sockets):
                if other != number:
                    sock.close()
            asyncio.run(self._service.serve(self._sockets[number], number, self._lifeline))
            code = 0
        except Exception:
            _log.exception("worker %d", number)
        finally:
            sys.stdout.flush()
            os._exit(code)

    def _dead(self) -> list[tuple[int, str]]:
        """Numbers of the workers that have ended, and how."""
        dead: list[tuple[int, str]] = []
        while self._pids:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            code = os.waitstatus_to_exitcode(status)
            how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
            dead.append((self._pids.pop(pid), how))
        return dead

    def _dies_at_once(self) -> bool:
        self._deaths = [*self._deaths, time.monotonic()][-_QUICK_DEATHS:]
        return len(self._deaths) == _QUICK_DEATHS and self._deaths[-1] - self._deaths[0] < _QUICK

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._pids:
            os.kill(pid, number)


def _sockets(options: argparse.Namespace) -> list[socket.socket]:
    """A socket for each worker: from systemd, or bound here."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()):
        if options.workers != 1 or os.environ.get("LISTEN_FDS") != "1":
            raise _Unusable("socket activation goes with one socket and --workers 1")
        return [socket.socket(fileno=_LISTEN_FDS_START)]
    flags = socket.AI_PASSIVE
    found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_DGRAM, flags=flags)
    sockets: list[socket.socket] = []
    for _ in range(options.workers):
        family, kind, protocol, name, address = found[0]
        if sockets:
            address = sockets[0].getsockname()
        sockets += bound([(family, kind, protocol, name, address)], options.workers > 1)
    return sockets


def _orphaned(loop: asyncio.AbstractEventLoop, lifeline: int, server: DTLSServer) -> None:
    loop.remove_reader(lifeline)
    server.close()


def _number(name: str, least: int, most: int, text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"{name} must be in {least}..{most}, not {text!r}")
    return number


_port: Callable[[str], int] = functools.partial(_number, "a port", 0, 65535)
_workers: Callable[[str], int] = functools.partial(_number, "workers", 1, _MAX_WORKERS)
