"""Workers that are replaced lose nothing that waits in their sockets: these outlive them."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.common import hello_with
from tests.support.serve import CERT, SECONDS, Served, client, echoes, serving, workers_of

_BATCH = 64  # datagrams that a worker takes out of its socket at once


class Strangers:
    """Clients that send one hello each, from a port of their own, and wait for the challenge."""

    def __init__(self, port: int, count: int) -> None:
        self._socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
        self._poll = select.poll()
        self._waiting: dict[int, socket.socket] = {}
        self.challenged = 0
        for sock in self._socks:
            sock.connect(("127.0.0.1", port))
            self._waiting[sock.fileno()] = sock
            self._poll.register(sock, select.POLLIN)

    def __len__(self) -> int:
        return len(self._socks)

    def say_hello(self, number: int) -> None:
        """The hello of one of them."""
        self._socks[number].send(hello_with())

    def repeat(self) -> None:
        """Those that wait say it again."""
        for sock in self._waiting.values():
            sock.send(hello_with())

    def listen(self, seconds: float) -> None:
        """Take the challenges of so many seconds, or until all are there."""
        deadline = time.monotonic() + seconds
        while self._waiting and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in self._poll.poll(left * 1000):
                if descriptor not in self._waiting:
                    continue
                assert len(self._waiting.pop(descriptor).recv(65535)) == 44
                self._poll.unregister(descriptor)
                self.challenged += 1

    def close(self) -> None:
        for sock in self._socks:
            sock.close()


@contextmanager
def strangers(port: int, count: int) -> Iterator[Strangers]:
    made = Strangers(port, count)
    try:
        yield made
    finally:
        made.close()


def serves(served: Served, count: int = 6) -> bool:
    """Whether as many new clients get their echo."""
    for _ in range(count):
        with client(served.port) as connection:
            if not echoes(connection):
                return False
    return True


@pytest.mark.parametrize("workers", [2, 5])
def test_hellos_that_come_while_no_worker_lives_are_answered(workers: int) -> None:
    """All are killed, and their parent is held back: 150 hellos wait, and the next workers answer
    each of them."""
    with (
        serving("--workers", str(workers), *CERT) as served,
        strangers(served.port, 150) as clients,
    ):
        victims = workers_of(served)
        served.child.send_signal(signal.SIGSTOP)
        try:
            for pid in victims:
                os.kill(pid, signal.SIGKILL)
                _wait_for_end(pid)
            for number in range(len(clients)):
                clients.say_hello(number)
            clients.listen(0.3)
            assert clients.challenged == 0
        finally:
            served.child.send_signal(signal.SIGCONT)
        clients.listen(SECONDS)
        assert clients.challenged == len(clients)
        assert serves(served)
        assert served.end() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_hellos_that_come_while_workers_are_replaced_are_answered(number: signal.Signals) -> None:
    """A worker that is told to end leaves nothing unanswered; one that is killed takes along what
    it had in its hands, at most a batch, which clients send again."""
    ends = 4
    with serving("--workers", "2", *CERT) as served, strangers(served.port, 400) as clients:
        for at in range(len(clients)):
            if at % (len(clients) // ends) == 20:
                pids = workers_of(served)
                if pids:
                    os.kill(pids[at % len(pids)], number)
            clients.say_hello(at)
            clients.listen(0.002)
        clients.listen(3 if number == signal.SIGKILL else SECONDS)
        lost = len(clients) - clients.challenged
        print(f"{lost} of {len(clients)} lost by {ends} times {number.name}")
        assert lost <= (ends * _BATCH if number == signal.SIGKILL else 0)
        clients.repeat()
        clients.listen(SECONDS)
        assert clients.challenged == len(clients)
        assert serves(served)
        assert served.end() == 0


def _wait_for_end(pid: int) -> None:
    """Until a process is a zombie: its parent is stopped, and does not collect it."""
    deadline = time.monotonic() + SECONDS
    while True:
        with open(f"/proc/{pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "Z":
                return
        assert time.monotonic() < deadline
        time.sleep(0.01)
