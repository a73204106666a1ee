"""The command: options, sockets, questions to the user and the report."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import re
import secrets
import selectors
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gnutls_cookie import CertificateCredentials, GnuTLSError, PSKCredentials
from gnutls_cookie.address import SocketAddress
from gnutls_cookie.blocking import connect
from gnutls_cookie.cli.console import complain, print_out, reason
from gnutls_cookie.cli.credentials import psk_credentials
from gnutls_cookie.cli.options import add_psk_arguments, number_in, real
from gnutls_cookie.errors import naming
from gnutls_cookie.reference.wire import RANDOM_SIZE

from .judging import Finding, Verdict, assess
from .reading import Exchange
from .script import (
    GROUPS,
    LATE_SHARE,
    Plan,
    Script,
    Step,
    every_bit,
    greeting,
    harmless,
    hurtful,
)

__all__ = ["MAX_DATAGRAMS", "add_arguments", "run"]

#: Datagrams that a probe sends at most, not counting the handshake that credentials are given for,
#: nor --every-bit.
MAX_DATAGRAMS = 80

_MAX_BITS = 8 * 255 + 20  # datagrams of --every-bit, with a cookie of 255 bytes

_NOTHING_BAD, _SOMETHING_BAD, _UNUSABLE = 0, 1, 2  # exit codes

_MAX_ANSWERS = 100  # datagrams taken in one step
_ELSEWHERE = "127.77.77.77"  # all of 127.0.0.0/8 is this host on Linux
_CPU_SECONDS = 1.0  # for which a process is watched
_SPINNING_SHARE = 0.1  # of a core; a process that waits uses next to nothing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("host", metavar="HOST")
    add("port", metavar="PORT", type=number_in("a port", 1, 65535))
    add("--rate", metavar="N", type=real, default=20.0, help="datagrams a second, at most (20)")
    add("--timeout", metavar="SECONDS", type=real, default=1.0, help="for each answer (1)")
    add("--hurtful", action="store_true", help="send junk as well; it kills some servers")
    add("--harmless", action="store_true", help="send no junk, and do not ask")
    add("--alive", action="store_true", help="send one hello: is it answered? For health checks")
    add("--every-bit", action="store_true", help="also send a cookie with each bit changed")
    add("--only", metavar="GROUP", choices=GROUPS, action="append", help=", ".join(GROUPS))
    add("--yes", "-y", action="store_true", help="yes to every question")
    add_psk_arguments(parser)
    add("--insecure", action="store_true", help="make a whole handshake, accept any certificate")
    add("--json", action="store_true", help="print the report as JSON, with all datagrams")


def run(options: argparse.Namespace) -> int:
    """Ask the server, and print what was found.

    Returns:
        The exit code: 0 if nothing bad was found, 1 if something was, 2 if there was no answer, the
        options are unusable, or the user said no. With --alive 0 or 2.
    """
    try:
        credentials = _credentials(options)
        _check(options)
        target = _resolve(options.host, options.port)
        if not target.is_loopback and not options.alive:
            _ask_to_probe(options, target)
        with_junk = not (options.harmless or options.alive) and _ask_for_junk(options, target)
    except (OSError, ValueError, OverflowError, GnuTLSError) as error:
        return _unusable(reason(error))
    plan = Plan(
        secrets.token_bytes(RANDOM_SIZE),
        server_name=None if _is_address(options.host) else options.host,
        elsewhere=target.is_loopback and target.family == socket.AF_INET,
        groups=frozenset(options.only or GROUPS),
    )
    if options.alive:
        return _alive(options, target, plan)
    others: list[Finding] = []
    try:
        with _Prober(target, options.rate, options.timeout) as prober:
            prober.follow(harmless(plan))
            if prober.is_answered and credentials is not None:
                others.append(_handshake(options, credentials))
            if prober.is_answered and options.every_bit:
                prober.limit += _MAX_BITS
                prober.follow(every_bit(plan))
                prober.is_answered = True  # whoever is silent on wrong cookies is no less alive
            if prober.is_answered and with_junk:
                prober.follow(hurtful(plan))
    except OSError as error:
        return _unusable(f"{target}: {error}")
    if not prober.is_answered and target.is_loopback:
        others += _process(options.port)
    if prober.is_spent:
        seen = f"{prober.limit} datagrams are spent: not everything was asked"
        others.append(Finding("end", "unknown", seen, ""))
    findings = [*assess(prober.exchanges), *others]
    answered = any(one.received for one in prober.exchanges)
    if options.json:
        print_out(json.dumps(_as_dict(prober, findings)))
    elif answered:
        print_out(_as_text(prober, findings))
    if not answered:
        return _unusable(f"{target}: no answer")
    return _SOMETHING_BAD if any(one.verdict == "bad" for one in findings) else _NOTHING_BAD


def _alive(options: argparse.Namespace, target: _Target, plan: Plan) -> int:
    """Send one hello; whatever the server makes of it, it lives if it answers."""
    try:
        with _Prober(target, options.rate, options.timeout, at_once=True) as prober:
            began = time.monotonic()
            prober.follow(greeting(plan))
            seconds = prober.answered_at - began
    except OSError as error:
        return _unusable(f"{target}: {error}")
    hello = prober.exchanges[0]
    if not hello.received:
        return _unusable(f"{target}: {hello.describe()}")
    if options.json:
        print(json.dumps(_as_dict(prober, [])))
    else:
        print(f"{target}: alive, {_printable(hello.describe())} after {seconds * 1000:.1f} ms")
    return _NOTHING_BAD


def _unusable(why: str) -> int:
    complain("gnutls-cookie probe", why)
    return _UNUSABLE


# --- options --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Target:
    """The server's address, resolved."""

    family: int
    address: SocketAddress

    @property
    def is_loopback(self) -> bool:
        return ipaddress.ip_address(self.address[0].partition("%")[0]).is_loopback

    def __str__(self) -> str:
        return f"{self.address[0]} port {self.address[1]}"


def _resolve(host: str, port: int) -> _Target:
    with naming(host):
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    assert isinstance(address[0], str)  # else a Python without IPv6
    return _Target(family, address)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True


def _credentials(options: argparse.Namespace) -> PSKCredentials | CertificateCredentials | None:
    psk = psk_credentials(options)
    return CertificateCredentials() if psk is None and options.insecure else psk


def _check(options: argparse.Namespace) -> None:
    if not 0.01 <= options.rate <= 1000:
        raise ValueError("--rate must be in 0.01..1000")
    if not 0.01 <= options.timeout <= 60:
        raise ValueError("--timeout must be in 0.01..60")
    if options.hurtful and options.harmless:
        raise ValueError("either --hurtful or --harmless")
    asks = options.hurtful or options.harmless or options.only or options.every_bit
    if options.alive and (asks or options.insecure or options.pskusername):
        raise ValueError("--alive asks for nothing else")


def _ask_to_probe(options: argparse.Namespace, target: _Target) -> None:
    if options.yes:
        return
    if not sys.stdin.isatty():
        raise ValueError("not an address of this machine: --yes is needed without a terminal")
    if not _agreed(f"Send up to {MAX_DATAGRAMS} datagrams to {target}?"):
        raise ValueError("not probed")


def _ask_for_junk(options: argparse.Namespace, target: _Target) -> bool:
    if options.only and "junk" not in options.only:
        return False
    if options.yes or options.hurtful:
        return True
    question = f"Send junk as well? It kills some servers; is {target} yours to lose?"
    return sys.stdin.isatty() and _agreed(question)


def _agreed(question: str) -> bool:
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


# --- sockets --------------------------------------------------------------------------------------


class _Prober:
    """Follows scripts over UDP sockets, with a limit on the rate and on the number of datagrams.

    Args:
        at_once: take the first answer, and do not wait for what may follow it.

    Attributes:
        target: the server.
        limit: datagrams to be sent at most.
        exchanges: what was sent and received so far.
        is_answered: whether the server answered when it was last asked.
        answered_at: when the last datagram came, by time.monotonic().
        is_spent: whether a script was cut off, `limit` datagrams being sent.
        sent: datagrams sent so far.
    """

    def __init__(
        self, target: _Target, rate: float, timeout: float, *, at_once: bool = False
    ) -> None:
        self.target = target
        self.limit = MAX_DATAGRAMS
        self.answered_at = 0.0
        self._late_share = 0.0 if at_once else LATE_SHARE
        self.exchanges: list[Exchange] = []
        self.is_answered = True
        self.is_spent = False
        self.sent = 0
        self._pause_seconds = 1 / rate
        self._timeout = timeout
        self._next_send = 0.0
        self._sockets: dict[str, socket.socket] = {}

    def __enter__(self) -> _Prober:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._sockets.values():
            sock.close()

    def follow(self, script: Script) -> None:
        """Do what a script asks for, and keep its exchanges."""
        try:
            step = next(script)
            while self.sent + len(step.datagrams) <= self.limit:
                exchange = self._exchange(step)
                self.exchanges.append(exchange)
                if step.wait_share == 1.0:
                    self.is_answered = bool(exchange.received)
                step = script.send(exchange)
            self.is_spent = True
        except StopIteration:
            return
        finally:
            script.close()

    def _exchange(self, step: Step) -> Exchange:
        sock = self._socket(step.source)
        if sock is None:
            return Exchange(step.name)
        refused = False
        for datagram in step.datagrams:
            refused = self._send(sock, datagram) or refused
        received: list[bytes] = []
        deadline = time.monotonic() + self._timeout * step.wait_share
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline - time.monotonic())):
                try:
                    received.append(sock.recv(65535))
                except ConnectionRefusedError:
                    refused = True
                    break
                self.answered_at = time.monotonic()
                # The rest of a flight follows its first datagram soon.
                deadline = min(deadline, self.answered_at + self._timeout * self._late_share)
                if len(received) >= _MAX_ANSWERS:
                    break
        return Exchange(step.name, step.datagrams, tuple(received), refused and not received)

    def _send(self, sock: socket.socket, datagram: bytes) -> bool:
        """Send a datagram when the rate allows; True if an earlier one met a closed port."""
        time.sleep(max(0.0, self._next_send - time.monotonic()))
        self._next_send = time.monotonic() + self._pause_seconds
        self.sent += 1
        refused = False
        # Linux reports a pending ICMP error at the next call, and sends nothing in that call.
        for _ in range(2):
            try:
                sock.send(datagram)
                break
            except ConnectionRefusedError:
                refused = True
        return refused

    def _socket(self, source: str) -> socket.socket | None:
        """The socket of that name; None if the system has no other address to send from."""
        if source not in self._sockets:
            sock = socket.socket(self.target.family, socket.SOCK_DGRAM)
            try:
                if source == "elsewhere":
                    sock.bind((_ELSEWHERE, 0))
                sock.connect(self.target.address)
            except OSError:
                sock.close()
                if source == "elsewhere":
                    return None
                raise
            self._sockets[source] = sock
        return self._sockets[source]


# --- other findings -------------------------------------------------------------------------------


def _handshake(
    options: argparse.Namespace, credentials: PSKCredentials | CertificateCredentials
) -> Finding:
    try:
        with connect(
            options.host,
            options.port,
            credentials=credentials,
            verify_peer=False,
            handshake_timeout=max(5.0, 5 * options.timeout),
        ) as connection:
            seen = f"complete: {connection.session.description}"
            return Finding("handshake", "good", seen, "RFC 6347 4.2.4")
    except (OSError, GnuTLSError) as error:
        return Finding("handshake", "bad", f"not complete: {error}", "RFC 6347 4.2.4")


def _process(port: int) -> list[Finding]:
    """What the process that has a port of this machine is busy with, if /proc tells."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for pid in _owners(port):
            name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
            begun, before = time.monotonic(), _busy_seconds(pid)
            time.sleep(_CPU_SECONDS)
            share = (_busy_seconds(pid) - before) / (time.monotonic() - begun)
            spins = share > _SPINNING_SHARE
            how = "it spins" if spins else "it waits"
            seen = f"{name} ({pid}) wants {share:.0%} of a core with nothing to do: {how}"
            return [Finding("process", "bad" if spins else "info", seen, "")]
    return []


def _owners(port: int) -> Iterator[int]:
    """Processes with an unconnected UDP socket on a port, see proc(5)."""
    inodes = set()
    for table in "udp", "udp6":
        for line in Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[2].endswith(":0000"):
                inodes.add(f"socket:[{fields[9]}]")
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(link) in inodes:
                yield int(link.parts[2])


def _busy_seconds(pid: int) -> float:
    """For how long its threads have run, or waited for a processor: on a busy machine one that
    spins does little else."""
    found = [*Path(f"/proc/{pid}/task").glob("*/schedstat")]
    if found:
        times = [path.read_text(encoding="ascii").split() for path in found]
        return sum(int(ran) + int(waited) for ran, waited, _ in times) / 1e9
    # A kernel without CONFIG_SCHED_INFO
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- the report -----------------------------------------------------------------------------------


def _as_dict(prober: _Prober, findings: Sequence[Finding]) -> dict[str, object]:
    return {
        "address": prober.target.address[0],
        "port": prober.target.address[1],
        "datagrams_sent": prober.sent,
        "findings": [asdict(one) for one in findings],
        "exchanges": [
            {
                "step": one.step,
                "sent": [datagram.hex() for datagram in one.sent],
                "received": [datagram.hex() for datagram in one.received],
                "refused": one.refused,
            }
            for one in prober.exchanges
        ],
    }


def _as_text(prober: _Prober, findings: Sequence[Finding]) -> str:
    verdicts = [one.verdict for one in findings]
    order: tuple[Verdict, ...] = ("bad", "unknown", "info", "good")
    counts = ", ".join(f"{verdicts.count(one)} {one}" for one in order if one in verdicts)
    lines = [f"{prober.target}: {counts}; {prober.sent} datagrams sent"]
    for one in findings:
        section = ", ".join(name for name in (one.section, one.also) if name)
        section = f"  [{section}]" * bool(section)
        lines.append(f"{one.verdict:<8}{one.check:<18}{_printable(one.seen)}{section}")
    return "\n".join(lines)


def _printable(text: str) -> str:
    """Without what a server's texts could do to a terminal."""
    return re.sub(r"[^\x20-\x7e]", "?", text)
