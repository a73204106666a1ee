"""gnutls-cookie learn HOST PORT: the cookie stage of a server as a state machine.

Exit codes: 0 where it is that of the reference, 1 where not, 2 where it cannot be learned.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gnutls_cookie.differential.machine import LETTERS, Difference, Machine, differences

from .console import complain, reason

__all__ = ["add_arguments", "run"]

_PROGRAM = "gnutls-cookie learn"
_DATAGRAM_SIZE_MAX = 65536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("host", metavar="HOST", help="name or address")
    add("port", metavar="PORT", type=int, help="of UDP")
    add("--wait", metavar="SECONDS", type=float, default=0.2,
        help="after which no answer is none (0.2)")  # fmt: skip
    add("--walks", metavar="N", type=int, default=25, help="random sequences at the end (25)")
    add("--dot", metavar="FILE", type=Path, help="write the machine for Graphviz")
    add("--json", action="store_true", help="print machine and differences as JSON")


def run(options: argparse.Namespace) -> int:
    """Learn, print and compare.

    Returns:
        0 where nothing differs, 1 where something does, 2 where it cannot be learned.
    """
    if importlib.util.find_spec("aalpy") is None:
        complain(_PROGRAM, 'needs AALpy: pip install "gnutls-cookie[learn]"')
        return 2
    from gnutls_cookie.differential.learn import Silent, Unsteady, learn, reference_machine

    if not 0 < options.wait <= 10 or not 0 < options.port < 65536 or options.walks < 0:
        complain(_PROGRAM, "--wait is 0 to 10 seconds, PORT 1 to 65535, --walks 0 or more")
        return 2
    started = time.monotonic()
    network = _Network(options.wait)
    try:
        network.find(options.host, options.port)
        reference = reference_machine()
        machine = learn(network.client, options.walks, reference=reference)
        if options.dot is not None:
            options.dot.write_text(machine.dot() + "\n", encoding="utf-8")
    except (Silent, Unsteady, OSError) as error:
        complain(_PROGRAM, reason(error) if isinstance(error, OSError) else str(error))
        return 2
    finally:
        network.close()
    found = differences(reference, machine)
    where = f"{options.host} {options.port}"
    if options.json:
        print(json.dumps(_as_dict(machine, found)))
    else:
        print(machine.table())
        for one in found:
            print(f"differs {one}")
        seconds = time.monotonic() - started
        count = f"{len(found) or 'no'} difference{'' if len(found) == 1 else 's'}"
        print(
            f"{where}: {len(machine.steps)} states, {count}; "
            f"{network.sent} datagrams in {seconds:.0f} s"
        )
    return 1 if found else 0


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
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        self._family, _, _, _, self._address = found[0]

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
