"""python -m benchmarks: builds the peers in C, measures all in turn, prints tables and an SVG."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from build_ffi import find_libgnutls
from gnutls_cookie import (
    BadCookieError,
    Challenge,
    CookieGate,
    CookieListener,
    KeyRing,
    Prestate,
    cookie_send,
    cookie_verify,
    library_version,
)
from gnutls_cookie.reference import cookie as reference
from gnutls_cookie.reference import wire

from .growth import measure_session_growth
from .sessions import BASE, measure_ping_pong, measure_sessions
from .xdp import XDP_BASE, measure_xdp

PEERS = Path(__file__).resolve().parent / "peers"
PYTHON_SERVER = [sys.executable, "-m", "benchmarks.server"]
KEY, WHO = bytes(16), bytes(16)

Figures = dict[str, list[float]]


def build(folder: Path, name: str) -> Path:
    """Compile a peer with -O2."""
    cflags, libs = find_libgnutls()
    program = folder / name
    subprocess.run(
        [os.environ.get("CC", "cc"), "-std=gnu11", "-O2", "-Wall", "-Wextra", "-o", str(program),
         str(PEERS / f"{name}.c"), *cflags, *libs],
        check=True,
    )  # fmt: skip
    return program


# --- a: a call, in process ------------------------------------------------------------------------


def timed(call: Callable[[], object], count: int) -> float:
    """Nanoseconds of a call."""
    start = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - start) / count


def timed_in_trio(call: Callable[[], object], count: int) -> float:
    """The same inside of trio, whose clock its cookies ask."""
    import trio

    async def run() -> float:
        return timed(call, count)

    return float(trio.run(run))


def python_calls() -> dict[str, Callable[[], object]]:
    """What is measured in process, by name."""
    hello = wire.client_hello()
    wrong = wire.client_hello(cookie=bytes(16), record_seq=1, message_seq=1)
    good = wire.client_hello(cookie=reference.cookie(KEY, WHO), record_seq=1, message_seq=1)
    gate = CookieGate(KEY)
    prestate = Prestate()

    def push(transport: object, data: bytes) -> None:
        pass

    def rejected(datagram: bytes) -> Callable[[], object]:
        def call() -> None:
            try:  # noqa: SIM105 - contextlib.suppress would be measured as well
                cookie_verify(KEY, WHO, datagram, prestate)
            except BadCookieError:
                pass

        return call

    calls: dict[str, Callable[[], object]] = {
        "cookie_verify, no cookie": rejected(hello),
        "cookie_verify, wrong cookie": rejected(wrong),
        "cookie_verify, good cookie": lambda: cookie_verify(KEY, WHO, good, prestate),
        "cookie_send, Python push": lambda: cookie_send(KEY, WHO, prestate, None, push),
        "CookieGate.receive, no cookie": lambda: gate.receive(hello, WHO),
        "CookieGate.receive, wrong cookie": lambda: gate.receive(wrong, WHO),
        "CookieGate.receive, good cookie": lambda: gate.receive(good, WHO),
    }
    calls.update(pyopenssl_call(hello))
    calls.update(trio_call(hello))
    calls.update(mbedtls_call())
    calls.update(pyside6_calls(gate, hello))
    return calls


def pyopenssl_call(hello: bytes) -> dict[str, Callable[[], object]]:
    """pyOpenSSL's DTLSv1_listen over memory, where it is installed."""
    try:
        from OpenSSL import SSL
    except ImportError:
        return {}
    context = SSL.Context(SSL.DTLS_SERVER_METHOD)
    context.set_cookie_generate_callback(lambda connection: reference.cookie(KEY, WHO))
    context.set_cookie_verify_callback(lambda connection, cookie: False)
    connection = SSL.Connection(context, None)

    def call() -> bytes:
        connection.bio_write(hello)
        with contextlib.suppress(SSL.WantReadError):
            connection.DTLSv1_listen()
        return bytes(connection.bio_read(4096))

    assert wire.HelloVerifyRequest.decode(call()).cookie
    return {"pyOpenSSL DTLSv1_listen, no cookie": call}


def mbedtls_call() -> dict[str, Callable[[], object]]:
    """Mbed TLS' server through python-mbedtls, where it is installed: a new session for each hello,
    as it wants it after a HelloVerifyRequest."""
    try:
        from mbedtls import tls
    except ImportError:
        return {}
    server = tls.ServerContext(tls.DTLSConfiguration(pre_shared_key_store={"client": KEY}))
    hello = wire.client_hello(cipher_suites=(0x00A8,))  # TLS_PSK_WITH_AES_128_GCM_SHA256, RFC 5487

    def call() -> bytes:
        buffer = server.wrap_buffers()
        buffer.setcookieparam(WHO)
        buffer.receive_from_network(hello)
        with contextlib.suppress(tls.WantWriteError):
            for _ in range(4):
                buffer.do_handshake()
        return bytes(buffer.peek_outgoing(4096))

    assert wire.HelloVerifyRequest.decode(call()).cookie
    return {"python-mbedtls, no cookie": call}


def pyside6_calls(gate: CookieGate, hello: bytes) -> dict[str, Callable[[], object]]:
    """Qt's verifier, where PySide6 is installed: it sends its answer itself, so the gate's is sent
    here as well, by a socket of Python."""
    try:
        from PySide6.QtCore import QByteArray, QCryptographicHash
        from PySide6.QtNetwork import QDtlsClientVerifier, QHostAddress, QUdpSocket
    except ImportError:
        return {}
    verifier, from_qt = QDtlsClientVerifier(), QUdpSocket()
    here = QHostAddress(QHostAddress.SpecialAddress.LocalHost)
    from_qt.bind(here, 0)
    verifier.setCookieGeneratorParameters(
        QDtlsClientVerifier.GeneratorParameters(QCryptographicHash.Algorithm.Sha1, KEY)
    )
    client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    from_python = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.bind(("127.0.0.1", 0))
    client.settimeout(10)
    there, datagram = client.getsockname(), QByteArray(hello)

    def qt() -> object:
        return verifier.verifyClient(from_qt, datagram, here, there[1])

    def ours() -> object:
        verdict = gate.receive(hello, WHO)
        assert isinstance(verdict, Challenge)
        return from_python.sendto(verdict.datagram, there)

    qt()
    assert wire.HelloVerifyRequest.decode(client.recv(4096)).cookie
    return {
        "CookieGate.receive and sendto, no cookie": ours,
        "PySide6's QDtlsClientVerifier, which sends, no cookie": qt,
    }


def trio_call(hello: bytes) -> dict[str, Callable[[], object]]:
    """What trio's DTLS server does with a hello without cookie, where it is installed."""
    try:
        from trio import _dtls
    except ImportError:
        return {}

    key = bytes(_dtls.KEY_BYTES)

    def call() -> bytes:
        epoch_seqno, cookie, bits = _dtls.decode_client_hello_untrusted(hello)
        if _dtls.valid_cookie(key, cookie, ("127.0.0.1", 1), bits):
            raise AssertionError("no cookie was given")
        return bytes(_dtls.challenge_for(key, ("127.0.0.1", 1), epoch_seqno, bits))

    return {"trio's challenge, no cookie": call}


def measure_calls(folder: Path, rounds: int, quick: bool) -> Figures:
    """ns a call: C, then each call in Python, in a new order each round."""
    program = build(folder, "calls")
    count = 2_000 if quick else 50_000
    calls = python_calls()
    figures: Figures = defaultdict(list)
    for _ in range(rounds):
        names = ["C", *calls]
        random.shuffle(names)
        for name in names:
            if name == "C":
                said = subprocess.run(
                    [program, str(count)], capture_output=True, text=True, check=True
                ).stdout
                for line in said.splitlines():
                    what, value = line.split()
                    figures[f"C {what}"].append(float(value))
            else:
                slow = 1 if name.startswith(("cookie_", "CookieGate")) else 10
                timer = timed_in_trio if "trio" in name else timed
                figures[name].append(timer(calls[name], count // slow))
    return dict(figures)


# --- b: over UDP ----------------------------------------------------------------------------------


def pinned(command: list[str], core: int) -> subprocess.Popen[str]:
    cores = sorted(os.sched_getaffinity(0))
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(child.pid, {cores[core % len(cores)]})
    return child


def flood_once(
    server: list[str], flood: Path, milliseconds: int, sources: int, wrong: bool
) -> tuple[float, float]:
    """Microseconds of CPU a challenge, and challenges a second, of one server for one flood."""
    child = pinned(server, 0)
    assert child.stdout is not None
    try:
        port = child.stdout.readline().strip()
        start = time.monotonic()
        flooder = pinned([str(flood), port, str(milliseconds), str(sources), str(int(wrong))], 1)
        flooder.communicate(timeout=60 + milliseconds / 1000)
        elapsed = milliseconds / 1000
        assert time.monotonic() - start < 60 + elapsed
        child.send_signal(signal.SIGTERM)
        answers, used = child.communicate(timeout=20)[0].split()
    finally:
        child.kill()
        child.wait()
    return int(used) / 1000 / int(answers), int(answers) / elapsed


def measure_udp(folder: Path, rounds: int, quick: bool) -> tuple[Figures, Figures]:
    """CPU us a challenge, and challenges a second; servers in a new order each round."""
    servers, flood = build(folder, "servers"), build(folder, "flood")
    python = PYTHON_SERVER
    commands = {
        "reflector (recvmmsg, 44 fixed bytes)": [str(servers), "reflect"],
        "CookieListener": [*python, "listener"],
        "C loop of GnuTLS' manual": [str(servers), "loop"],
        "Python loop over CookieGate": [*python, "loop"],
    }
    cpu: Figures = defaultdict(list)
    rate: Figures = defaultdict(list)
    for _ in range(rounds):
        for wrong in (False, True):
            names = list(commands)
            random.shuffle(names)
            for name in names:
                label = f"{name}, {'wrong cookie' if wrong else 'no cookie'}"
                used, served = flood_once(commands[name], flood, 200 if quick else 1000, 500, wrong)
                cpu[label].append(used)
                rate[label].append(served)
    return dict(cpu), dict(rate)


# --- c: as it grows -------------------------------------------------------------------------------


def resident() -> int:
    """Bytes of resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_growth(folder: Path, rounds: int, quick: bool) -> dict[str, float]:
    """Cost by distinct sources and by admitted peers."""
    found: dict[str, float] = {}
    gate, hello = CookieGate(KeyRing.random()), wire.client_hello()
    gate.receive(hello, WHO)
    for sources in (1, 1000, 10_000 if quick else 1_000_000):
        count = max(sources, 10_000)
        before = resident()
        start = time.perf_counter_ns()
        for number in range(count):
            gate.receive(hello, (number % sources).to_bytes(16, "big"))
        found[f"gate: ns a hello, {sources} sources"] = (time.perf_counter_ns() - start) / count
        found[f"gate: bytes a source, {sources} sources"] = (resident() - before) / sources
    peers = 1000 if quick else 100_000
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with CookieListener(sock, gate) as listener:
            before = resident()
            for number in range(peers):
                listener.admit((f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 5684))
            found["listener: bytes an admitted peer"] = (resident() - before) / peers
    flood = build(folder, "flood")
    for admitted in (0, peers):
        used = [
            flood_once(
                [sys.executable, "-m", "benchmarks.server", "listener", str(admitted)],
                flood, 200 if quick else 1000, 500, False,
            )[0]
            for _ in range(rounds)
        ]  # fmt: skip
        found[f"listener: CPU us a challenge, {admitted} admitted"] = statistics.median(used)
    return found


# --- what is shown --------------------------------------------------------------------------------


def table(title: str, figures: Figures, unit: str, base: str) -> str:
    """Median, spread and ratio to the base, a line each."""
    lines = [f"\n{title} ({unit}; ratio to: {base})".replace("(; ", "(")]
    reference_value = statistics.median(figures[base])
    for name, values in figures.items():
        median = statistics.median(values)
        lines.append(
            f"  {name:<52}{median:12.2f}  {min(values):10.2f} ..{max(values):10.2f}"
            f"  x{median / (reference_value or 1):.2f}"
        )
    return "\n".join(lines)


def svg(figures: Figures, what: str = "challenge") -> str:
    """Bars of medians with their spread; readable on light and dark pages."""
    most = max(max(values) for values in figures.values())
    rows = []
    for number, (name, values) in enumerate(figures.items()):
        y, median = 34 + number * 26, statistics.median(values)
        scale = 330 / most
        rows.append(
            f'<text x="8" y="{y + 13}">{name.replace("&", "&amp;")}</text>'
            f'<rect x="330" y="{y}" width="{median * scale:.1f}" height="18" fill="#4c8eda"/>'
            f'<line x1="{330 + min(values) * scale:.1f}" x2="{330 + max(values) * scale:.1f}" '
            f'y1="{y + 9}" y2="{y + 9}" stroke="#888" stroke-width="2"/>'
            f'<text x="{336 + max(values) * scale:.1f}" y="{y + 13}">{median:.2f}</text>'
        )
    height = 44 + len(figures) * 26
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" '
        'font-family="sans-serif" font-size="12" fill="#888">'
        f'<text x="8" y="20">CPU time of the server, microseconds a {what} (median; line: '
        "spread)</text>" + "".join(rows) + "</svg>\n"
    )


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument(
        "--only",
        default="a,b,c,d,e,f",
        help="a: calls, b: UDP, c: growth, d: sessions, e: growth of sessions, f: XDP",
    )
    parser.add_argument("--quick", action="store_true", help="short runs, of no worth as figures")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path, help="a picture of part b")
    parser.add_argument("--sessions-svg", type=Path, help="a picture of part d")
    options = parser.parse_args()
    wanted = options.only.split(",")
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, CPython {platform.python_version()}, "
        f"libgnutls {library_version()}, {options.rounds} rounds"
    )
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="gnutls-cookie-bench-") as name:
        folder = Path(name)
        if "a" in wanted:
            calls = results["a"] = measure_calls(folder, options.rounds, options.quick)
            print(table("A call, in process", calls, "ns", "C send"))
        if "b" in wanted:
            cpu, rate = measure_udp(folder, options.rounds, options.quick)
            results["b"] = {"cpu": cpu, "rate": rate}
            for kind in ("no cookie", "wrong cookie"):
                own = {name: cpu[name] for name in cpu if name.endswith(kind)}
                base = f"C loop of GnuTLS' manual, {kind}"
                print(table("CPU of the server a challenge", own, "us", base))
                own = {name: rate[name] for name in rate if name.endswith(kind)}
                print(table("Challenges a second", own, "1/s", base))
            if options.svg:
                options.svg.write_text(svg(cpu), encoding="utf-8")
        if "c" in wanted:
            growth = results["c"] = measure_growth(folder, options.rounds, options.quick)
            print("\nAs it grows")
            for what, value in growth.items():
                print(f"  {what:<52}{value:12.2f}")
        if "d" in wanted:
            echo, clients = build(folder, "echo"), build(folder, "clients")
            sessions = measure_sessions(echo, clients, options.rounds, options.quick)
            results["d"] = sessions
            sessions |= measure_ping_pong(echo, clients, options.rounds, options.quick)
            for measure, figures in sessions.items():
                print(table(f"Sessions, {measure}", figures, "", BASE))
            if options.sessions_svg:
                drawn = {
                    f"{server}, {kind}": sessions[f"{kind}: server's CPU us a message"][server]
                    for kind in ("PSK", "X.509")
                    for server in sessions["PSK: server's CPU us a message"]
                }
                options.sessions_svg.write_text(svg(drawn, "message"), encoding="utf-8")
        if "e" in wanted:
            clients = build(folder, "clients")
            growth = results["e"] = measure_session_growth(clients, options.rounds, options.quick)
            print("\nAs sessions grow")
            for what, value in growth.items():
                print(f"  {what:<70}{value:12.2f}")
        if "f" in wanted:
            flood, listener = build(folder, "flood"), [*PYTHON_SERVER, "listener"]
            milliseconds, calls_in_a_round = (200, 2_000) if options.quick else (1000, 50_000)
            xdp = results["f"] = measure_xdp(
                lambda: 1000 * flood_once(listener, flood, milliseconds, 500, False)[0],
                lambda call: timed(call, calls_in_a_round),
                options.rounds,
                options.quick,
            )
            if xdp:
                print(table("Under the socket, a hello", xdp, "ns", XDP_BASE))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
