"""The program in the kernel beside the gate and the listener: nanoseconds a hello.

The program is run by BPF_PROG_TEST_RUN: what the network card and the driver cost is not in it. The
listener is measured as a process, with its system calls.
"""

from __future__ import annotations

import random
import socket
import statistics
import struct
from collections import defaultdict
from collections.abc import Callable

from gnutls_cookie import CookieGate, KeyRing, client_data
from gnutls_cookie.reference import cookie as reference
from gnutls_cookie.reference import wire
from gnutls_cookie.xdp import XdpError, XdpGate

__all__ = ["XDP_BASE", "measure_xdp"]

XDP_BASE = "CookieListener, a challenge"

_KEY, _FORMER = bytes(16), bytes(range(16))
_CLIENT, _SERVER = ("10.1.2.3", 40000), ("10.9.9.9", 5684)


def frame(datagram: bytes, port: int = _SERVER[1]) -> bytes:
    """A datagram of the client, over IPv4 and Ethernet; of checksums the program asks nothing."""
    size = 8 + len(datagram)
    ends = [socket.inet_aton(ip) for ip, _ in (_CLIENT, _SERVER)]
    ip = struct.pack("!BBHIBBH4s4s", 0x45, 0, 20 + size, 0, 64, socket.IPPROTO_UDP, 0, *ends)
    return bytes(12) + b"\x08\0" + ip + struct.pack("!HHHH", _CLIENT[1], port, size, 0) + datagram


def measure_xdp(
    challenge_ns: Callable[[], float],
    gate_ns: Callable[[Callable[[], object]], float],
    rounds: int,
    quick: bool,
) -> dict[str, list[float]]:
    """Each in a new order each round; nothing where the program cannot be loaded.

    Args:
        challenge_ns: measures the listener, ns of CPU a challenge.
        gate_ns: measures a call, ns.
        rounds: how often.
        quick: short runs.
    """
    try:
        gate = XdpGate([_SERVER[1]])
    except XdpError as error:
        print(f"\nno XDP here: {error}")
        return {}
    who = client_data.sockaddr(_CLIENT)
    hellos = {
        name: wire.client_hello(cookie=cookie, record_seq=1, message_seq=1)
        for name, cookie in (
            ("no cookie", b""),
            ("wrong cookie", bytes(16)),
            ("good cookie", reference.cookie(_KEY, who)),
            ("good cookie of the former key", reference.cookie(_FORMER, who)),
        )
    }
    in_process = CookieGate(KeyRing(_KEY, _FORMER))
    of_a_session = frame(b"\x17\xfe\xfd\0\1" + bytes(6) + b"\0\x80" + bytes(128))
    elsewhere = frame(hellos["no cookie"], 53)
    singles, repeats = (500, 2000) if quick else (20_000, 200_000)

    def once(sent: bytes) -> Callable[[], float]:
        # A challenge changes the frame, and cannot be repeated with it.
        return lambda: statistics.median(gate.run(sent)[2] for _ in range(singles))

    def repeated(sent: bytes) -> Callable[[], float]:
        return lambda: gate.run(sent, repeats)[2]

    def of_the_gate(hello: bytes) -> Callable[[], float]:
        return lambda: gate_ns(lambda: in_process.receive(hello, who))

    measures: dict[str, Callable[[], float]] = {XDP_BASE: challenge_ns}
    for name, hello in hellos.items():
        measure = repeated if name.startswith("good") else once
        measures[f"XDP, {name}, two keys"] = measure(frame(hello))
    measures["XDP, a record of a session"] = repeated(of_a_session)
    measures["XDP, another port"] = repeated(elsewhere)
    for name, hello in hellos.items():
        measures[f"CookieGate.receive, {name}, two keys"] = of_the_gate(hello)
    figures: dict[str, list[float]] = defaultdict(list)
    with gate:
        gate.set_keys(_KEY, _FORMER, 3600 * 24)
        for _ in range(rounds):
            names = list(measures)
            random.shuffle(names)
            for name in names:
                figures[name].append(measures[name]())
    return {name: figures[name] for name in measures}
