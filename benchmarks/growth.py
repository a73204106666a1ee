"""Part e: what a session costs where there are many. `python -m benchmarks.growth CLIENTS
aio|protocol COUNT` is a server and its load generator, and prints its figures as JSON."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from gnutls_cookie import PSKCredentials, aio

from .server import Echo, bound_socket, echo
from .sessions import HEX_KEY, IDENTITY, KINDS, MTU, SPIN, WINDOW, resident

__all__ = ["MODES", "measure_session_growth"]

MODES = {"aio": "tasks", "protocol": "Protocol"}
FEW, MANY = 500, 19_000  # with the descriptors of the generator below 20,000
IDLE_SECONDS = 2.0


def measure_session_growth(clients: Path, rounds: int, quick: bool) -> dict[str, float]:
    """Medians over rounds; modes and numbers in a new order each round.

    Args:
        clients: peers/clients.c, compiled.
        rounds: how often each is measured.
        quick: few sessions: whether it runs, not how fast.
    """
    found: dict[str, list[float]] = defaultdict(list)
    counts = (20, 60) if quick else (FEW, MANY)
    for _ in range(rounds):
        order = [(mode, count) for mode in MODES for count in counts]
        random.shuffle(order)
        for mode, count in order:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.growth", clients, mode, str(count)],
                stdout=subprocess.PIPE,
                check=True,
                timeout=300,
            )
            for what, value in json.loads(done.stdout).items():
                found[f"{MODES[mode]}, {count} sessions: {what}"].append(value)
    return {what: statistics.median(found[what]) for what in sorted(found)}


class _Collections:
    """What the garbage collector takes, by gc.callbacks."""

    def __init__(self) -> None:
        self._begun = 0.0
        self.pauses = [0.0]

    def __call__(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._begun = time.process_time()
        else:
            self.pauses.append(time.process_time() - self._begun)


async def _grow(clients: str, mode: str, count: int) -> dict[str, float]:
    sock = bound_socket()
    priority = KINDS["PSK"][1]
    handlers: dict[str, Any] = (
        {"protocol_factory": Echo} if mode == "protocol" else {"handler": echo}
    )
    server = await aio.start_server(
        **handlers,
        sock=sock,
        credentials=PSKCredentials(IDENTITY, bytes.fromhex(HEX_KEY)),
        priority=priority,
        mtu=int(MTU),
        max_sessions=2 * count,
        max_sessions_per_address=2 * count,
        max_sessions_per_prefix=2 * count,
    )
    load = await asyncio.create_subprocess_exec(
        clients, str(server.address[1]), str(count), "1", str(WINDOW), "psk", IDENTITY, HEX_KEY,
        priority, MTU, SPIN, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert load.stdin is not None
    assert load.stdout is not None
    try:
        assert await load.stdout.readline() == b"ready\n"
        gc.collect()
        collections = _Collections()
        gc.callbacks.append(collections)
        memory, used = resident(os.getpid()), time.process_time()
        load.stdin.write(b"\n")
        assert (await load.stdout.readline()).split()[3] == b"0", "a handshake failed"
        used = time.process_time() - used
        gc.callbacks.remove(collections)
        load.stdin.write(b"\n")  # a message each
        await load.stdout.readline()
        memory = resident(os.getpid()) - memory
        idle = time.process_time()
        await asyncio.sleep(IDLE_SECONDS)
        idle = time.process_time() - idle
    finally:
        load.kill()
        await load.communicate()
        server.close()
        await server.wait_closed()
    return {
        "CPU us a handshake": used / count * 1e6,
        "% of it in the garbage collector": sum(collections.pauses) / used * 100,
        "longest pause of the collector, ms": max(collections.pauses) * 1e3,
        "KiB of memory a session": memory / count / 1024,
        "CPU ms a second, all idle": idle / IDLE_SECONDS * 1e3,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_grow(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
