"""Part d: sessions of our servers beside those of a C server over libgnutls (peers/echo.c).

The server has one core, the load generator (peers/clients.c) the other. Where the generator is the
bottleneck the rates of all servers are its own, so the server's CPU time is measured as well. It
never sleeps, if there is a core for it: to wake it up would cost the server that it waits for, and
not the one that keeps it busy. In ping-pong it does, as clients do.

A run counts only where other processes left the machine alone (DISTURBED), whatever it gave.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from importlib.util import find_spec
from pathlib import Path

__all__ = ["BASE", "OURS", "measure_ping_pong", "measure_sessions"]

BASE = "C server over libgnutls"
OURS = {  # what each is called, and its mode of server.py
    "aio.start_server": "aio",
    "aio.Protocol": "protocol",
    "aio.start_server, uvloop": "aio-uvloop",
    "aio.Protocol, uvloop": "protocol-uvloop",
    "blocking.serve": "blocking",
}

CERTS = Path(__file__).resolve().parent.parent / "tests" / "certs"
IDENTITY, HEX_KEY = "sensor-1", "000102030405060708090a0b0c0d0e0f"
MTU = "1400"
DISTURBED = 0.05  # of the machine's CPU time that others took: such a run is made again
TRIES = 10  # then it counts all the same, and the figures say how much it was
IDLE = 1000  # connections that say nothing, beside one client
SPIN = "spin" if len(os.sched_getaffinity(0)) > 1 else "sleep"  # of the generator: see above
WINDOW = 64  # handshakes at once: with all of them the socket's buffer would be what is measured

# What the handshake is: credentials as peers/echo.c takes them, and GnuTLS' priority string.
KINDS = {
    "X.509": (
        ["x509", str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")],
        "NORMAL",
    ),
    "ECDHE-PSK": (["psk", IDENTITY, HEX_KEY], "NORMAL:-KX-ALL:+ECDHE-PSK"),
    "PSK": (["psk", IDENTITY, HEX_KEY], "NORMAL:-KX-ALL:+PSK"),
}

OTHERS = "others' share of the machine"

Measures = dict[str, dict[str, list[float]]]


def measure_sessions(echo: Path, clients: Path, rounds: int, quick: bool) -> Measures:
    """Figures by measure and by server, servers and kinds in a new order each round.

    Args:
        echo: peers/echo.c, compiled.
        clients: peers/clients.c, compiled.
        rounds: how often each is measured.
        quick: few sessions and messages: whether it runs, not how fast.
    """
    servers = commands(echo)
    count, echoes = (50, 5) if quick else (1000, 100)
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        order = [(server, kind) for server in servers for kind in KINDS]
        random.shuffle(order)
        for server, kind in order:
            left_out = 0
            run = one_run(servers[server], clients, kind, count, echoes)
            while run[OTHERS] > DISTURBED and left_out < TRIES and not quick:
                left_out += 1
                run = one_run(servers[server], clients, kind, count, echoes)
            run["disturbed runs before it, left out"] = left_out
            for measure, value in run.items():
                found[f"{kind}: {measure}"][server].append(value)
    names = sorted(found, key=lambda name: list(KINDS).index(name.split(":")[0]))
    return {name: {server: found[name][server] for server in servers} for name in names}


def commands(echo: Path) -> dict[str, list[str]]:
    """The servers, by what they are called."""
    servers = {BASE: [str(echo)]}
    for name, mode in OURS.items():
        if "uvloop" not in mode or find_spec("uvloop") is not None:
            servers[name] = [sys.executable, "-m", "benchmarks.server", mode]
    return servers


def measure_ping_pong(echo: Path, clients: Path, rounds: int, quick: bool) -> Measures:
    """One client that waits for each echo: what a turn costs in which there is one datagram. Alone,
    and beside connections that say nothing. Arguments as of measure_sessions()."""
    servers = commands(echo)
    wanted = ("messages a second", "server's CPU us a message")
    many = 20 if quick else IDLE
    named = {0: "one client, PSK", many: f"one client beside {many} idle ones, PSK"}
    found: Measures = {
        f"{name}: {what}": defaultdict(list) for name in named.values() for what in wanted
    }
    for _ in range(rounds):
        order = [(server, idle) for server in servers for idle in named]
        random.shuffle(order)
        for server, idle in order:
            run = one_run(servers[server], clients, "PSK", 1, 20 if quick else 4000, idle, "sleep")
            for what in wanted:
                found[f"{named[idle]}: {what}"][server].append(run[what])
    return {what: {server: found[what][server] for server in servers} for what in found}


def one_run(
    server: list[str],
    clients: Path,
    kind: str,
    count: int,
    echoes: int,
    idle: int = 0,
    patience: str = SPIN,
) -> dict[str, float]:
    """One server in a fresh process: `count` handshakes, then `echoes` messages in each session,
    beside `idle` other connections."""
    credentials, priority = KINDS[kind]
    held = None
    child = started([*server, *credentials, priority, MTU], 0)
    try:
        assert child.stdout is not None
        port = child.stdout.readline().strip()
        if idle > 0:
            held = generator(clients, port, idle, 1, kind, "sleep")
            assert held.stdin is not None
            assert held.stdout is not None
            held.stdin.write("\n")
            held.stdin.flush()
            assert [held.stdout.readline() for _ in range(2)][1].split()[3] == "0"
        load = generator(clients, port, count, echoes, kind, patience)
        try:
            return phases(child.pid, load, count, echoes)
        finally:
            load.kill()
            load.communicate()
    finally:
        if held is not None:
            held.kill()
            held.communicate()
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        finally:
            child.kill()
            child.communicate()


def generator(
    clients: Path, port: str, count: int, echoes: int, kind: str, patience: str
) -> subprocess.Popen[str]:
    """peers/clients.c, for a server at this port."""
    credentials, priority = KINDS[kind]
    return started(
        [str(clients), port, str(count), str(echoes), str(WINDOW), credentials[0], IDENTITY,
         HEX_KEY, priority, MTU, patience],
        1,
    )  # fmt: skip


def phases(server: int, load: subprocess.Popen[str], count: int, echoes: int) -> dict[str, float]:
    """Let the generator go through its phases, and look at the server before and after each."""
    assert load.stdin is not None
    assert load.stdout is not None
    assert load.stdout.readline() == "ready\n"
    begun, busy_before = time.monotonic(), busy_seconds()
    before, empty = cpu_seconds(server), resident(server)
    used_before = before + cpu_seconds(load.pid)
    load.stdin.write("\n")
    load.stdin.flush()
    _, wall, busy, failed, _ = load.stdout.readline().split()
    after = cpu_seconds(server)
    assert failed == "0", f"{failed} of {count} handshakes failed"
    found = {
        "handshakes a second": count / float(wall),
        "server's CPU us a handshake": (after - before) / count * 1e6,
        "clients' core in use, handshakes": float(busy) / float(wall),
    }
    load.stdin.write("\n")
    load.stdin.flush()
    _, wall, busy, resent, lost = load.stdout.readline().split()
    messages = count * echoes
    assert lost == "0", f"{lost} of {messages} echoes never came"
    found |= {
        "messages a second": messages / float(wall),
        "server's CPU us a message": (cpu_seconds(server) - after) / messages * 1e6,
        "clients' core in use, messages": float(busy) / float(wall),
        "messages sent again": float(resent),
        "KiB of memory a session": (resident(server) - empty) / count / 1024,
    }
    used = cpu_seconds(server) + cpu_seconds(load.pid) - used_before
    machine = (time.monotonic() - begun) * (os.cpu_count() or 1)
    found[OTHERS] = max(0.0, busy_seconds() - busy_before - used) / machine
    load.stdin.write("\n")
    load.stdin.flush()
    assert load.stdout.readline() == f"closed {count}\n", "not every goodbye was answered"
    return found


def started(command: list[str], core: int) -> subprocess.Popen[str]:
    """A process on one core of those that there are."""
    cores = sorted(os.sched_getaffinity(0))
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(child.pid, {cores[core % len(cores)]})
    return child


def cpu_seconds(pid: int) -> float:
    """CPU time of a process: clock_getcpuclockid(3), as Linux makes it of a pid."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def busy_seconds() -> float:
    """What all processors have worked so far (proc(5): the first line of /proc/stat), other guests
    of the same host included (steal)."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields)
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")


def resident(pid: int) -> int:
    """Bytes of resident memory of a process."""
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
