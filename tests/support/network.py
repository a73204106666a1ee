"""Hosts in network namespaces: a server's, a client's, and a router between them.

Everything is made for one object and goes with it. Without root, or where the kernel lets nobody
make namespaces, the test is skipped.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.common import ROOT, peer_required, running

SECONDS = 60.0  # a bound, never a measure
LINE = b"hello, cookie\n"
PORT = 5684

_numbers = itertools.count()  # of networks, for names of their own


class Network:
    """server --- router --- client, with IPv4 and IPv6. The server has two addresses of each.

    Attributes:
        server: the prefix of a command that runs at the server's host.
        client: the same for the client's.
        router: the same for the router's.
        link_local: an address of the server, as the router reaches it.
        on_link: the router's global address beside it.
        addresses: of the server, the first and the second of IPv4, then of IPv6.
    """

    addresses = ("10.98.1.1", "10.98.1.7", "fd98:1::1", "fd98:1::7")
    link_local, on_link = "fe80::98:1%to-server", "fd98:1::fe"

    def __init__(self) -> None:
        namespaces_required()
        name = f"net-{os.getpid()}-{next(_numbers)}-"
        self._names = [f"{name}server", f"{name}router", f"{name}client"]
        self.server, self.router, self.client = (
            ["ip", "netns", "exec", one] for one in self._names
        )
        self._made: list[str] = []
        try:
            self._wire()
        except BaseException:
            self.close()
            raise

    def black_hole(self, mtu: int) -> None:
        """What is larger gets lost between router and client, and the router tells nobody."""
        router, client = self._names[1:]
        ip("-n", router, "link", "set", "dev", "to-client", "mtu", str(mtu))
        ip("-n", client, "link", "set", "dev", "wan", "mtu", str(mtu))
        rules = (
            "table inet hole { chain out { type filter hook output priority 0; "
            "meta l4proto icmp drop; icmpv6 type packet-too-big drop; }; }"
        )
        nft = peer_required("nft", "apt install nftables")
        done = subprocess.run(
            [*self.router, nft, "-f", "-"], input=rules, capture_output=True, text=True
        )
        if done.returncode != 0:
            pytest.skip(f"this kernel's nftables cannot drop ICMP: {done.stderr.strip()}")

    @contextmanager
    def slowed(self, rate: str, prefix: Sequence[str]) -> Iterator[Callable[[], int]]:
        """A host's link takes no more than that, as tc(8) has it; what is more waits there.

        Args:
            rate: the link's.
            prefix: of commands at the host.

        Returns:
            How many packets it has taken since.
        """
        tc = peer_required("tc", "apt install iproute2")
        queue = [*prefix, tc, "-s", "-j", "qdisc"]
        shape = ["root", "tbf", "rate", rate, "burst", "16kb", "latency", "2s"]
        tried("no tbf in this kernel", [*queue, "add", "dev", "wan", *shape])

        def count() -> int:
            done = subprocess.run([*queue, "show", "dev", "wan"], capture_output=True, check=True)
            return int(json.loads(done.stdout)[0]["packets"])

        try:
            yield count
        finally:
            tried("it was made", [*queue, "del", "dev", "wan", "root"])

    def close(self) -> None:
        for namespace in self._made:
            ip("netns", "del", namespace)

    def _wire(self) -> None:
        server, router, client = self._names
        for namespace in self._names:
            ip("netns", "add", namespace)
            self._made.append(namespace)
            ip("-n", namespace, "link", "set", "dev", "lo", "up")
        legs = [(server, "to-server", 1), (client, "to-client", 2)]
        for namespace, leg, number in legs:
            ip("link", "add", "wan", "netns", namespace, "type", "veth",
               "peer", "name", leg, "netns", router)  # fmt: skip
            hosts = (1, 7) if number == 1 else (1,)
            there = [f"10.98.{number}.{host}/24" for host in hosts]
            there += [f"fd98:{number}::{host}/64" for host in hosts]
            for address in there:
                add_address(namespace, "wan", address)
            for address in (f"10.98.{number}.254/24", f"fd98:{number}::fe/64"):
                add_address(router, leg, address)
            ip("-n", router, "link", "set", "dev", leg, "up")
            ip("-n", namespace, "link", "set", "dev", "wan", "up")
            ip("-n", namespace, "route", "add", "default", "via", f"10.98.{number}.254")
            ip("-n", namespace, "-6", "route", "add", "default", "via", f"fd98:{number}::fe")
        add_address(server, "wan", f"{self.link_local.partition('%')[0]}/64")
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            ip("netns", "exec", router, "sh", "-c", f"echo 1 > /proc/sys/net/{path}")


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"


def add_address(namespace: str, device: str, address: str) -> None:
    """An IPv6 address without the second that its detection of duplicates takes."""
    more = ["nodad"] if ":" in address else []
    ip("-n", namespace, "address", "add", address, "dev", device, *more)


@contextmanager
def namespace_with_veth() -> Iterator[str]:
    """The name of a namespace to try things in; skip where this user may not make one.

    REQUIRE_PEERS=1 asks for programs; it cannot ask for another kernel.
    """
    if not sys.platform.startswith("linux"):
        pytest.skip("network namespaces are Linux's")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    peer_required("ip", "apt install iproute2")
    probe = f"probe-{os.getpid()}-{next(_numbers)}"
    added = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if added.returncode != 0:
        pytest.skip(f"no network namespaces here: {added.stderr.strip()}")
    try:
        tried("no veth devices here", ["ip", "-n", probe, *_VETH.split()])
        yield probe
    finally:
        ip("netns", "del", probe)


_VETH = "link add veth1 type veth peer name veth2"


def tried(reason: str, command: Sequence[str], stdin: str = "") -> None:
    """Run a command; skip where it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"{reason}: {done.stderr.strip()}")


def namespaces_required() -> None:
    """Skip where this user may not make network namespaces with veth devices and IPv6."""
    with namespace_with_veth() as probe:
        address = "address add fd98::1/64 dev veth1 nodad"
        tried("no IPv6 in namespaces here", ["ip", "-n", probe, *address.split()])


# --- programs in them -----------------------------------------------------------------------------


@contextmanager
def serving(prefix: Sequence[str], host: str, *options: str | Path) -> Iterator[None]:
    """`gnutls-cookie serve`, an echo on PORT."""
    command = [*prefix, sys.executable, "-m", "gnutls_cookie", "serve", "--host", host]
    command += ["--port", str(PORT), "--json", *map(str, options)]
    lines: list[str] = []
    child = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, text=True
    )
    try:
        assert child.stdout is not None
        while not (lines and lines[-1].startswith("{") and "serving" in json.loads(lines[-1])):
            line = child.stdout.readline()  # ends with the child
            assert line, "".join(lines)
            lines.append(line)
        yield
        child.terminate()
        lines += child.communicate(timeout=SECONDS)[0].splitlines(keepends=True)
        assert child.returncode == 0, "".join(lines)
    finally:
        if child.poll() is None:
            child.kill()
        child.communicate()


def hears_its_echo(
    command: Sequence[str | Path],
    seconds: float = SECONDS,
    meanwhile: Callable[[], object] = lambda: None,
) -> bytes:
    """Run a client that sends stdin and prints what comes back, until it prints LINE.

    Args:
        command: of the client.
        seconds: the bound.
        meanwhile: called again and again while it runs.

    Returns:
        What it printed.
    """
    said = bytearray()
    with running(command) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(LINE)
        child.stdin.flush()
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(child.stdout, selectors.EVENT_READ)
            while not re.search(rb"(?m)^(< )?hello, cookie\r?$", said):
                assert time.monotonic() < deadline, said.decode(errors="replace")
                meanwhile()
                if selector.select(0.02):
                    chunk = os.read(child.stdout.fileno(), 65536)
                    assert chunk, f"it ended:\n{said.decode(errors='replace')}"
                    said += chunk
    return bytes(said)


def our_connect(host: str, port: int, trust: str | Path, *options: str | Path) -> list[str | Path]:
    """The command of `gnutls-cookie connect`."""
    command: list[str | Path] = [sys.executable, "-m", "gnutls_cookie", "connect"]
    command += ["--x509cafile", trust, "--verify-hostname", "localhost", *options]
    return [*command, host, str(port)]
