"""gnutls-cookie serve: a DTLS echo server with option names of `gnutls-serv --udp`.

One process, or several on one port (SO_REUSEPORT) under one that watches them. All of them have the
same cookie keys, so that it does not matter which one a client comes back to.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import os
import re
import secrets
import signal
import stat
import sys
import time
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from gnutls_cookie.aio import Connection, DTLSServer, start_server
from gnutls_cookie.credentials import PSKCredentials
from gnutls_cookie.errors import GnuTLSError
from gnutls_cookie.keys import KeyRing
from gnutls_cookie.server import Server
from gnutls_cookie.tickets import TicketKey, tickets_are_safe

from .board import Board
from .console import (
    Output,
    complain,
    debug_logging,
    default_sigint,
    log_to,
    open_standard_files,
    reason,
)
from .credentials import (
    Credentials,
    anonymous,
    secret_file,
    server_credentials,
    warn_of_readers,
    warn_of_times,
)
from .exporter import Exporter, exporter_at
from .listening import Listening, listening_at, listening_everywhere
from .options import key_material
from .serve_options import Unusable, add_arguments, check_numbers, server_options
from .systemd import Notifier, activated, activated_count
from .tally import Tally
from .workers import Companion, Reporter, Signals, Worker, Workers

__all__ = ["add_arguments", "run"]

_log = logging.getLogger("gnutls_cookie")

_PROGRAM = "gnutls-cookie serve"
_HOST = "127.0.0.1"
_BEATS = 4  # signs of life of a worker in the seconds of the service manager's watchdog
_COUNT_SECONDS = 1.0  # between two times that a worker tells what it has counted


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; SIGHUP reads secret, certificates and keys again.

    Returns:
        The exit code: 0 after a signal, 1 where it could not be served (any longer), 2 for unusable
        options.
    """
    open_standard_files()
    out = Output(None if sys.stdout is None else 1)
    err = Output(None if sys.stderr is None else 2)
    level = logging.WARNING if options.quiet else logging.DEBUG if options.debug else logging.INFO
    err.as_json = options.json
    log_to(err, level, tracebacks=options.debug > 0)
    # Until there is somebody to say goodbye to, SIGINT ends this process at once, a look-up of a
    # name in C included. SIGHUP would end it too, and waits until it can be handled.
    former = default_sigint()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    sockets: list[Listening] = []
    notifier = Notifier(os.environ)
    code = 2
    try:
        service = _Service(options, out, err, notifier)
        sockets = _sockets(options)
        service.warn()  # now: who fails says why in one line
        if len(sockets) == 1 and options.metrics is None:
            return service.serve_alone(sockets[0])
        return service.serve_by_workers(sockets)
    except Unusable as error:
        code = error.code
        complain(_PROGRAM, str(error))
    except OSError as error:
        code = 1
        where = f"{_host(options) or 'all addresses'} port {options.port}"
        complain(_PROGRAM, f"cannot serve on {where}: {reason(error)}")
    except Exception as error:
        code = 1
        complain(_PROGRAM, f"{type(error).__name__}: {reason(error)}")
    finally:
        for one in sockets:
            one.close()
        notifier.close()
        err.close()
        out.close()
    signal.signal(signal.SIGINT, former)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    return code


# --- what is served -------------------------------------------------------------------------------


class _Service:
    """What is served: credentials, cookie keys, limits."""

    def __init__(
        self, options: argparse.Namespace, out: Output, err: Output, notifier: Notifier
    ) -> None:
        self.options = options
        self._out = out
        self._err = err
        self._is_worker = False
        self._tally: Tally | None = None
        self._expiries: dict[str, int] = {}  # of certificates, by file
        self._notifier = notifier
        self._told = False  # that what is printed cannot be written
        self._made_psk: tuple[str, bytes] | None = None
        given = options.x509certfile, options.x509keyfile, options.rawpkkeyfile, options.pskpasswd
        if not any(given) and not anonymous(options):
            self._made_psk = (f"guest-{secrets.token_hex(3)}", secrets.token_bytes(16))
        self._own_secret = secrets.token_bytes(32)  # made before any worker: the same in all
        check_numbers(options)
        self.credentials = self._credentials()
        self.keys = self._keys()
        self._limits = server_options(options)
        # As the secret; a process that serves alone has a new one each day.
        alone = options.workers == 1 and options.metrics is None
        self._own_tickets = True if alone else TicketKey.random()
        self.tickets = self._tickets(self.keys)
        judged = dict(self._limits)
        if options.sni_hostname is not None:  # also where a client that asks for another is served
            judged["server_names"] = [options.sni_hostname]
        try:
            Server(self.credentials, tickets=self.tickets, **judged)
        except (ValueError, TypeError, GnuTLSError) as error:
            raise Unusable(str(error)) from None

    def serve_alone(self, sock: Listening) -> int:
        """Serve sockets in this process; returns the exit code."""
        with closing(Signals({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})) as signals:
            return asyncio.run(self._serve(sock, signals, self._notifier))

    def serve_by_workers(self, sockets: list[Listening]) -> int:
        """Serve the sockets of each in a process of its own; returns the exit code."""
        companions: list[Companion] = []
        board = Board(len(sockets))
        url = None
        if self.options.metrics is not None:
            self._tally = tally = Tally(len(sockets), lambda: self._expiries)
            exporter = _exporter(self.options.metrics, tally)
            companions, board, url = [tally, exporter], tally.board, exporter.url
        workers = Workers(
            sockets,
            self._be_worker,
            self._read_again,
            lambda: self._announce(sockets[0], url),
            self._notifier,
            board,
            companions,
        )
        for output in self._out, self._err:
            output.watch_with(workers.watch_writer, workers.unwatch_writer)
        return workers.run()

    def _be_worker(self, worker: Worker, lifeline: int, reporter: Reporter) -> int:
        signals = Signals({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        self._is_worker = True
        for output in self._out, self._err:
            output.forget()  # the parent prints it
        try:
            serving = self._serve(worker.socket, signals, reporter, worker.number, lifeline)
            return asyncio.run(serving)
        except Exception as error:
            _log.error("worker %d: %s: %s", worker.number, type(error).__name__, reason(error))
            return 1
        finally:
            for output in self._out, self._err:
                output.close()

    async def _serve(
        self,
        sock: Listening,
        signals: Signals,
        notifier: Notifier | Reporter,
        worker: int = 0,
        lifeline: int = -1,
    ) -> int:
        """Serve sockets until a signal comes, or the other end of `lifeline` is closed."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_log_trouble)
        for output in self._out, self._err:
            output.watch_with(loop.add_writer, loop.remove_writer)
        server = await start_server(
            self._echo,
            sock=sock.sockets,
            credentials=self.credentials,
            keys=self.keys,
            tickets=self.tickets,
            **self._limits,
        )
        asked = False
        status = f"serving on {sock.description}"

        def on_signals() -> None:
            nonlocal asked
            came = signals.take()
            if came & {signal.SIGTERM, signal.SIGINT}:
                asked = True
                notifier.stopping()
                server.close()
            elif signal.SIGHUP in came:
                notifier.reloading()
                if self._read_again():
                    server.set_credentials(self.credentials, self.tickets)
                    server.keys = self.keys
                    _log.info("read anew" if lifeline < 0 else f"worker {worker}: read anew")
                notifier.ready(status)

        def on_orphaned() -> None:
            loop.remove_reader(lifeline)
            server.close()

        loop.add_reader(signals.fileno(), on_signals)
        if lifeline >= 0:
            loop.add_reader(lifeline, on_orphaned)
        if lifeline < 0:
            self._announce(sock)
        notifier.ready(status)
        beats = loop.create_task(self._beat(server, notifier, worker))
        stats = loop.create_task(self._stats(server, worker)) if self.options.stats else None
        try:
            with debug_logging(self.options.debug, self._err, loop.call_soon_threadsafe):
                await server.serve_forever()
        finally:
            beats.cancel()
            if self._tally is not None:
                self._tally.write(worker, server.counters)
            if stats is not None:
                stats.cancel()
                self._print_stats(server, worker)
        return 0 if asked else 1

    async def _beat(self, server: DTLSServer, notifier: Notifier | Reporter, worker: int) -> None:
        """Show that this loop turns, and what it has counted, to those who want to know."""
        wanted = notifier.watchdog_seconds
        seconds = math.inf if wanted is None else wanted / _BEATS
        if self._tally is not None:
            seconds = min(seconds, _COUNT_SECONDS)
        while seconds < math.inf:
            notifier.watchdog()
            if self._tally is not None:
                self._tally.write(worker, server.counters)
            await asyncio.sleep(seconds)

    async def _echo(self, connection: Connection) -> None:
        session = connection.session
        resumed = "resumed" if session.resumed else None
        agreed = [session.description, session.alpn, session.srtp_profile, resumed]
        agreed.append(key_material(self.options, session))
        what = ", ".join(one for one in agreed if one)
        _log.info("%s port %d: %s", *connection.address[:2], what)
        served, asked = self.options.sni_hostname, session.server_name
        if served and asked and served.lower() != asked.lower():
            _log.warning("%s port %d: asks for %r", *connection.address[:2], asked)
        async for message in connection:
            most = connection.data_mtu  # what one datagram carries
            for start in range(0, len(message), most):
                await connection.send(message[start : start + most])
        _log.info("%s port %d: ended", *connection.address[:2])

    # --- what is read -----------------------------------------------------------------------------

    def _read_again(self) -> bool:
        """Read everything again. What cannot be read stays as it was."""
        if self._is_worker:
            logging.disable(logging.WARNING)  # the parent has warned
        try:
            for path in self._files():
                if stat.S_ISFIFO(os.stat(path).st_mode):
                    raise Unusable(f"{path}: a pipe can be read once, at the start")
            credentials, keys = self._credentials(), self._keys()
            tickets = self._tickets(keys)
            Server(credentials, tickets=tickets, **self._limits)
            self.warn()
        except Exception as error:
            _log.error("not read anew: %s: what was read before stays in use", reason(error))
            return False
        finally:
            logging.disable(logging.NOTSET)
        self.credentials, self.keys, self.tickets = credentials, keys, tickets
        return True

    def warn(self) -> None:
        """Warn of what is right and may be a mistake all the same."""
        options = self.options
        files = [path for path in options.x509certfile or () if isinstance(path, Path)]
        ends = {str(path): warn_of_times(path) for path in files}
        self._expiries = {file: end for file, end in ends.items() if end is not None}
        if self._limits["client_certificate"] == "require" and not self._limits["verify_peer"]:
            _log.warning("clients' certificates are not verified: see --verify-client-cert")
        for one in self.credentials if len(self.credentials) > 1 else ():
            try:
                Server(one, priority=options.priority, verify_peer=False)
            except ValueError as error:  # no key exchange for it
                is_key = isinstance(one, PSKCredentials)
                given = "--pskpasswd" if is_key else "--x509certfile"
                _log.warning("%s is not used: %s", given, reason(error))
        for path in [*(options.x509keyfile or ()), options.rawpkkeyfile, options.pskpasswd]:
            if isinstance(path, Path):
                warn_of_readers(path, os.stat(path))

    def _files(self) -> list[Path]:
        """All that are read."""
        options = self.options
        several = [*(options.x509certfile or ()), *(options.x509keyfile or ())]
        several += options.ocsp_response
        one_each = [
            options.x509cafile,
            options.x509crlfile,
            options.rawpkkeyfile,
            options.pskpasswd,
            options.cookie_secret_file,
            options.ticket_secret_file,
        ]
        return [path for path in several + one_each if isinstance(path, Path)]

    def _credentials(self) -> list[Credentials]:
        options = self.options
        certificates, keys = options.x509certfile or [], options.x509keyfile or []
        if len(certificates) != len(keys):
            raise Unusable(
                "--x509certfile and --x509keyfile go together: "
                f"{len(certificates)} and {len(keys)} are given"
            )
        if options.require_client_cert and options.x509cafile is None and not options.udp:
            raise Unusable("--require-client-cert needs --x509cafile")
        if options.require_client_cert and anonymous(options):
            raise Unusable("--require-client-cert excludes anonymous key exchange in --priority")
        if options.verify_client_cert and options.x509cafile is None:
            raise Unusable("--verify-client-cert needs --x509cafile")
        if options.x509crlfile is not None and options.x509cafile is None:
            raise Unusable("--x509crlfile needs --x509cafile")
        if options.x509cafile is not None and not (certificates or options.rawpkkeyfile):
            raise Unusable("--x509cafile needs --x509certfile")
        if options.require_client_cert and not (certificates or options.rawpkkeyfile):
            raise Unusable("--require-client-cert needs --x509certfile")
        if len(options.ocsp_response) > len(certificates):
            raise Unusable("--ocsp-response needs --x509certfile, one for each")
        if options.pskhint is not None and options.pskpasswd is None and self._made_psk is None:
            raise Unusable("--pskhint needs --pskpasswd")
        try:
            found = server_credentials(options)
        except (OSError, ValueError, GnuTLSError) as error:
            raise Unusable(f"credentials: {reason(error)}") from None
        if self._made_psk is not None:
            found.append(PSKCredentials(*self._made_psk, hint=options.pskhint))
        return found

    def _keys(self) -> KeyRing:
        path = self.options.cookie_secret_file
        try:
            secret = self._own_secret if path is None else secret_file(path)
            return KeyRing.from_secret(secret, self.options.rotate)
        except (OSError, ValueError) as error:
            raise Unusable(f"cookie keys: {reason(error)}") from None

    def _tickets(self, keys: KeyRing) -> bool | TicketKey:
        """What clients resume by. gnutls-serv gives tickets to all; without -u those that a key or
        a certificate has admitted get none, unless they are asked for."""
        options = self.options
        path = options.ticket_secret_file
        if path is not None:
            if options.noticket:
                raise Unusable("--noticket and --ticket-secret-file exclude each other")
            try:
                key = TicketKey.from_secret(secret_file(path, "ticket"))
            except (OSError, ValueError) as error:
                raise Unusable(f"ticket key: {reason(error)}") from None
            if key.is_of(keys.prints):
                raise Unusable(f"{path}: the ticket secret must not be the cookie secret")
            return key
        if options.noticket or not tickets_are_safe():
            return False
        has_keys = options.pskpasswd is not None or self._made_psk is not None
        are_alike = not has_keys and not self._limits["verify_peer"]
        return self._own_tickets if options.udp or are_alike else False

    # --- what is printed --------------------------------------------------------------------------

    def _announce(self, sock: Listening, metrics: str | None = None) -> None:
        """Say where it is served, and how a client gets in where the key was made here."""
        for number, (host, port) in enumerate(sock.addresses):
            self._announce_one(host, port, with_hints=number == 0)
        if metrics is not None:
            self._print({"metrics": metrics}, [f"metrics at {metrics}"])

    def _announce_one(self, host: str, port: int, with_hints: bool) -> None:
        said: dict[str, Any] = {"serving": host, "port": port}
        lines = [f"serving on {host} port {port}"]
        if self._made_psk is not None and with_hints:
            identity, key = self._made_psk[0], self._made_psk[1].hex()
            host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
            target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            psk = f"-psk_identity {identity} -psk {key}"
            kx = "NORMAL:-KX-ALL:+PSK"  # with the others gnutls-cli 3.7.9 crashes
            said |= {"identity": identity, "key": key}
            lines += [
                f"PSK identity {identity}, key {key}; clients:",
                f"  gnutls-cookie connect --pskusername {identity} --pskkey {key} {host} {port}",
                f"  openssl s_client -dtls1_2 -connect {target} {psk}",
                f"  gnutls-cli --udp --port {port} --priority {kx} "
                f"--pskusername {identity} --pskkey {key} {host}",
            ]
        self._print(said, lines)

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
        self._out.write(text + "\n")
        if self._out.failed is not None and not self._told:
            self._told = True
            _log.warning("stdout: %s: serving goes on without it", reason(self._out.failed))


def _log_trouble(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    _log.error("%s", context["message"], exc_info=context.get("exception"))


def _exporter(where: str, tally: Tally) -> Exporter:
    """Listens for Prometheus."""
    try:
        return exporter_at(where, tally.page)
    except ValueError as error:  # a name that cannot be one, too
        raise Unusable(f"--metrics: {reason(error)}") from None
    except OSError as error:
        raise Unusable(f"cannot serve metrics on {where}: {reason(error)}", 1) from None


# --- sockets --------------------------------------------------------------------------------------


def _host(options: argparse.Namespace) -> str | None:
    """What to bind to; None: all addresses."""
    host: str | None = options.host
    return host if host is not None or options.udp else _HOST


def _sockets(options: argparse.Namespace) -> list[Listening]:
    """The sockets of each worker: from systemd, or bound here."""
    count = activated_count(os.environ)
    if count is not None:
        return _activated(options, count)
    host = _host(options)
    if host is None:
        return listening_everywhere(options.port, options.workers)
    try:
        if not host.strip():
            raise UnicodeError
        return listening_at(host, options.port, options.workers)
    except UnicodeError:  # no name has such a form (RFC 1035)
        raise Unusable(f"--host must be a name or an address, not {host!r}") from None


def _activated(options: argparse.Namespace, count: str) -> list[Listening]:
    """The sockets that systemd has bound, one of each address for each worker."""
    number = int(count) if re.fullmatch("[1-9][0-9]{0,4}", count) else 0
    if number == 0 or number % options.workers:
        raise Unusable(
            "socket activation wants a socket for each worker, "
            f"not LISTEN_FDS={count!r} and --workers {options.workers}"
        )
    try:
        return [Listening(own) for own in activated(number, options.workers)]
    except ValueError as error:
        raise Unusable(f"socket activation: {error}") from None
