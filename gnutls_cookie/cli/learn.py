"""gnutls-cookie learn HOST PORT: the cookie stage of a server as a state machine.

Exit codes: 0 where it is that of the reference, 1 where not, 2 where it cannot be learned.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import select
import shlex
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from typing import BinaryIO

from gnutls_cookie.differential.machine import (
    LETTERS,
    Client,
    Difference,
    Machine,
    differences,
    is_server_hello,
)
from gnutls_cookie.differential.outcomes import Unusable
from gnutls_cookie.differential.processes import Warden, program_warden
from gnutls_cookie.errors import naming

from .console import complain, is_stream, one_line, print_out, reason
from .options import file_path, number_in, real

__all__ = ["add_arguments", "run"]

_PROGRAM = "gnutls-cookie learn"
_DATAGRAM_SIZE_MAX = 65536
_START_SECONDS = 20.0  # for a server to answer its first hello
_AGAIN_SECONDS = 0.05  # between two hellos to one that starts
_WAIT_MAX_SECONDS = 10
_WALKS_MAX = 1_000_000
_SERVERS_MAX = 4  # that are asked side by side
_SAID_MAX = 2000  # bytes of what it printed, where it does not start


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("host", metavar="HOST", help="name or address")
    add("port", metavar="PORT", type=number_in("a port", 1, 65535), help="of UDP")
    walks = number_in("walks", 0, _WALKS_MAX)
    add("--start", metavar="COMMAND",
        help="starts the server, and again each time that it answers no hello")  # fmt: skip
    add("--wait", metavar="SECONDS", type=real, default=0.2,
        help="after which no answer is none (0.2)")  # fmt: skip
    add("--walks", metavar="N", type=walks, default=25, help="random sequences at the end (25)")
    add("--dot", metavar="FILE", type=file_path, help="write the machine for Graphviz")
    add("--json", action="store_true", help="print machine and differences as JSON")


def run(options: argparse.Namespace) -> int:
    """Learn, print and compare.

    Returns:
        0 where nothing differs, 1 where something does, 2 where it cannot be learned.
    """
    if not 0 < options.wait <= _WAIT_MAX_SECONDS:
        limits = f"above 0 and at most {_WAIT_MAX_SECONDS} seconds"
        complain(_PROGRAM, f"--wait must be {limits}, not {options.wait:g}")
        return 2
    if importlib.util.find_spec("aalpy") is None:
        complain(_PROGRAM, "needs AALpy: pip install aalpy")
        return 2
    from gnutls_cookie.differential.learn import (
        FellSilent,
        Silent,
        Unsteady,
        learn,
        reference_machine,
    )

    started = time.monotonic()
    networks = [_Network(options.wait)]
    servers: list[_Server] = []
    try:
        if options.dot is not None and not is_stream(options.dot):
            options.dot.open("ab").close()  # where it cannot be written, that is said at once
        networks[0].find(options.host, options.port)
        reference = reference_machine()
        if options.start is None:
            machine = learn(networks[0].client, options.walks, reference=reference)
        else:
            servers.append(_Server(options.start, options.host, options.port, networks[0]))
            servers[0].client()  # first: where there can be one alone, it is this one
            if "{port}" in options.start:  # then it can be started on other ports too
                servers += _servers_beside(options, networks)
            first, *others = [one.client for one in servers]
            machine = learn(first, options.walks, reference=reference, others=others)
    except (Silent, Unsteady, Unusable, OSError, UnicodeError) as error:
        said = reason(error) if isinstance(error, (OSError, UnicodeError)) else str(error)
        if isinstance(error, FellSilent) and options.start is None:
            said += "; --start COMMAND starts such a server again each time"
        complain(_PROGRAM, said)
        return 2
    finally:
        for network in networks:
            network.close()
        for server in servers:
            server.close()
    found = differences(reference, machine)
    code = 1 if found else 0
    if options.dot is not None:
        try:
            with naming(options.dot):
                options.dot.write_text(machine.dot() + "\n", encoding="utf-8")
        except OSError as error:
            complain(_PROGRAM, f"--dot: {reason(error)}")
            code = code or 2
    where = f"{options.host} {options.port}"
    if options.json:
        print_out(json.dumps(_as_dict(machine, found)))
    else:
        print_out(machine.table())
        for one in found:
            print_out(f"differs {one}")
        seconds = time.monotonic() - started
        count = f"{len(found) or 'no'} difference{'' if len(found) == 1 else 's'}"
        starts = f", {sum(one.starts for one in servers)} starts of the server" if servers else ""
        print_out(
            f"{where}: {len(machine.steps)} states, {count}; "
            f"{sum(one.sent for one in networks)} datagrams in {seconds:.0f} s{starts}"
        )
    return code


def _as_dict(machine: Machine, found: list[Difference]) -> dict[str, object]:
    return {
        "letters": LETTERS,
        "states": [
            {letter: {"output": output, "next": after} for letter, (output, after) in row.items()}
            for row in machine.steps
        ],
        "differences": [
            {"letters": one.letters, "expected": one.expected, "output": one.output}
            for one in found
        ],
    }


def _servers_beside(options: argparse.Namespace, networks: list[_Network]) -> list[_Server]:
    """More servers of the same kind, each on a free port, as far as they start.

    Their networks are added to the list.
    """
    found: list[_Server] = []
    for _ in range(_SERVERS_MAX - 1):
        network = _Network(options.wait)
        port = network.find_free(options.host)
        if port is None:
            break
        server = _Server(options.start, options.host, port, network)
        networks.append(network)
        try:
            server.client()
        except Unusable:  # one is enough
            server.close()
            break
        except BaseException:
            server.close()
            raise
        found.append(server)
    return found


class _Network:
    """Clients of a server, one after the other, each on a port of its own."""

    def __init__(self, wait: float) -> None:
        self._wait = wait
        self._family = socket.AF_INET
        self._address: tuple[object, ...] = ()
        self._socket: socket.socket | None = None
        self.sent = 0

    def find(self, host: str, port: int) -> None:
        """Look the server up.

        Raises:
            OSError: there is no such host.
        """
        with naming(host):
            found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        self._family, _, _, _, self._address = found[0]

    def find_free(self, host: str) -> int | None:
        """A port of the host on which a server can be started; None: it is not this machine."""
        self.find(host, 0)
        with socket.socket(self._family, socket.SOCK_DGRAM) as bound:
            try:
                bound.bind(self._address)
            except OSError:
                return None
            port: int = bound.getsockname()[1]
        self.find(host, port)
        return port

    def client(self) -> Callable[[bytes, int | None], list[bytes]]:
        """A new client; the one before is gone."""
        self.close()
        made = self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
        made.connect(self._address)
        made.setblocking(False)
        return self._exchange

    def close(self) -> None:
        """End the present client."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def answers_hello(self) -> bool:
        """Whether the server says anything to the first hello of a client of its own."""
        with socket.socket(self._family, socket.SOCK_DGRAM) as made:
            poll = select.poll()
            poll.register(made, select.POLLIN)
            try:
                made.connect(self._address)
                made.send(Client().datagram("hello"))
                return bool(poll.poll(self._wait * 1000)) and made.recv(1) != b""
            except ConnectionRefusedError:
                return False

    def _exchange(self, datagram: bytes, expected: int | None) -> list[bytes]:
        assert self._socket is not None
        found: list[bytes] = []
        with suppress(ConnectionRefusedError):
            self._socket.send(datagram)
        self.sent += 1
        if expected == 0:
            return []
        # What is known to come may take its time on a busy machine.
        deadline = time.monotonic() + self._wait * (1 if expected is None else 5)
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and poll.poll(left * 1000):
            try:
                found.append(self._socket.recv(_DATAGRAM_SIZE_MAX))
            except (ConnectionRefusedError, BlockingIOError):
                continue
            if len(found) == expected:
                break
            # More may follow at once: the rest of a flight, or a second answer.
            if expected is None or expected < 0:
                deadline = min(deadline, time.monotonic() + self._wait / 4)
        return found


class _Server:
    """A server that is started by a command, and again whenever it answers nobody else any more.

    Some serve one client and end, or wait for it; others end or hang at what a client sends.

    Raises:
        Unusable: the command cannot be run, or somebody answers there already.
    """

    def __init__(self, command: str, host: str, port: int, network: _Network) -> None:
        self.starts = 0
        self._network = network
        self._had_session = False  # in the present run
        self._ends_with_session = False  # seen before: then there is no need to ask
        try:
            words = shlex.split(command.replace("{port}", str(port)).replace("{host}", host))
        except ValueError as error:
            raise Unusable(f"--start: {error}") from None
        if not words or "\0" in command:
            raise Unusable("--start: no command")
        if network.answers_hello():
            raise Unusable("--start: a server answers there already")
        self._said: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - until close()
        self._warden: Warden | None = None
        self._words = ["sh", "-c", 'exec "$@" 2>&1', "sh", *words]
        self._open = os.pipe()  # its stdin: at the end of it some servers end

    def client(self) -> Callable[[bytes, int | None], list[bytes]]:
        """A new client, of a server that serves it."""
        known_gone = self._had_session and self._ends_with_session
        if known_gone or not self.starts or not self._network.answers_hello():
            self._ends_with_session |= self._had_session
            self._start()
        self._had_session = False
        exchange = self._network.client()

        def noting(datagram: bytes, expected: int | None) -> list[bytes]:
            found = exchange(datagram, expected)
            self._had_session |= any(map(is_server_hello, found))
            return found

        return noting

    def close(self) -> None:
        """End the server, and all that it has started."""
        if self._warden is not None:
            self._warden.close()
        self._said.close()
        for one in self._open:
            os.close(one)

    def _start(self) -> None:
        if self._warden is None:
            self._warden = program_warden(self._words, 0)
        os.ftruncate(self._said.fileno(), 0)
        self._said.seek(0)
        number = self._warden.start(self._open[0], self._said.fileno())
        if number:
            raise Unusable(f"--start: {os.strerror(number)}")
        self.starts += 1
        deadline = time.monotonic() + _START_SECONDS
        while not self._network.answers_hello():
            how = self._warden.ended(_AGAIN_SECONDS)
            if how or time.monotonic() > deadline:
                how = how or f"no answer to a hello in {_START_SECONDS:g} s"
                raise Unusable(f"--start: {how}{self._last_words()}")

    def _last_words(self) -> str:
        said = self._said.fileno()
        size = os.fstat(said).st_size
        lines = os.pread(said, _SAID_MAX, max(0, size - _SAID_MAX)).decode(errors="replace")
        return f"; it printed: {one_line(lines.strip())}" if lines.strip() else ""
