"""What the tests of a fleet share: nodes (`serve` processes), balancers in front of them, clients.

A balancer here is made to be bad: it sends the second hello of a client to another node than the
first. One is a thread on loopback, for every machine; one is the kernel's (nftables), between
network namespaces; and there is nginx.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import re
import selectors
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from gnutls_cookie import Session
from gnutls_cookie.reference import wire
from tests.support.common import (
    ROOT,
    Address,
    free_udp_port,
    missing,
    openssl,
    peer_required,
    running,
)
from tests.support.network import PORT, hears_its_echo, ip, namespace_with_veth, tried
from tests.support.peers import CERTS, SocketClient, drive, trusting

SECONDS = 60.0  # a bound, never a measure
LINE = b"hello, cookie\n"
SECRETS = (b"the one secret of this fleet", b"a secret that only one node has")
VIP = "192.0.2.1"  # where clients find the fleet, in namespaces (RFC 5737 3)
NODES = ("10.77.1.2", "10.77.2.2")
CLIENT = "10.77.0.2"


_numbers = itertools.count()  # of networks, for names of their own


# --- nodes ----------------------------------------------------------------------------------------


class Node:
    """A `serve` process with a secret of its own file. Its counters come from what it prints."""

    def __init__(
        self, folder: Path, secret: bytes, host: str, port: int, prefix: Sequence[str] = ()
    ) -> None:
        folder.mkdir()
        self._secret = folder / "secret"
        self._said = folder / "said"
        self.put(secret)
        command = [sys.executable, "-m", "gnutls_cookie", "serve", "--host", host]
        command += ["--port", str(port), "--stats", "0.05", "--json"]
        command += ["--x509certfile", str(CERTS / "localhost.pem")]
        command += ["--x509keyfile", str(CERTS / "localhost.key")]
        command += ["--cookie-secret-file", str(self._secret)]
        with self._said.open("wb") as said:
            self._child = subprocess.Popen(
                [*prefix, *command], stdout=said, stderr=subprocess.STDOUT, cwd=ROOT
            )
        try:
            first = self.wait_for(lambda: self._lines("serving"), "serving")[0]
        except BaseException:
            self.kill()
            raise
        self.address: tuple[str, int] = (host, first["port"])

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._child.pid

    @property
    def counters(self) -> dict[str, Any]:
        """The last counters that it printed."""
        lines = self._lines("gate")
        return lines[-1] if lines else {"gate": {"challenged": 0, "verified": 0, "presented": 0}}

    @property
    def gate(self) -> tuple[int, int]:
        """How many hellos it challenged, and how many it verified."""
        gate = self.counters["gate"]
        return gate["challenged"], gate["verified"]

    def wait_for(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait until a condition of it holds; bounded."""
        deadline = time.monotonic() + SECONDS
        while not (found := condition()):
            said = self._said.read_text(errors="replace")[-2000:]
            assert self._child.poll() is None, f"it ended before {what}:\n{said}"
            assert time.monotonic() < deadline, f"not {what}:\n{said}"
            time.sleep(0.02)
        return found

    def put(self, secret: bytes) -> None:
        """Write its secret file, whole or not at all, as a secret store should."""
        fresh = self._secret.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_bytes(secret)
        fresh.replace(self._secret)

    def reload(self) -> None:
        """SIGHUP; returns when it has read its files."""

        def count() -> int:
            return self._said.read_bytes().count(b'"message": "read anew"')

        before = count()
        self._child.send_signal(signal.SIGHUP)
        self.wait_for(lambda: count() > before, "read anew")

    def kill(self) -> None:
        """SIGKILL: it says nothing to anybody."""
        self._child.kill()
        self._child.wait()

    def end(self) -> None:
        """SIGTERM; afterwards its counters are final."""
        if self._child.poll() is None:
            self._child.terminate()
            assert self._child.wait(SECONDS) == 0, self._said.read_text(errors="replace")

    def _lines(self, key: str) -> list[dict[str, Any]]:
        found = []
        for line in self._said.read_bytes().splitlines(keepends=True):
            if line.startswith(b"{") and line.endswith(b"\n"):
                said = json.loads(line)
                if key in said:
                    found.append(said)
        return found


# --- balancers ------------------------------------------------------------------------------------


class Balancer(ABC):
    """What stands between clients and nodes, and where clients and nodes stand.

    Policies: "settling" sends a hello without cookie to one node and the first hello with a cookie
    to the other, where the client then stays. "restless" sends each hello to the next node, and
    what is not a hello to where the last hello went. "hashed" is what docs/fleet.md shows: a node
    for each client's address and port.

    Attributes:
        address: where clients find the fleet.
        prefix: of the command of a client program.
    """

    address: tuple[str, int]
    prefix: Sequence[str] = ()

    @abstractmethod
    def start(self, policy: str) -> None:
        """Forget all clients, and balance so from now on."""

    def lose(self, number: int) -> None:  # noqa: B027 - for those that do not find out by themselves
        """A health check has found a node dead: the other one gets its clients."""

    @abstractmethod
    def node(self, number: int, folder: Path, secret: bytes) -> Node:
        """Start a node where the balancer looks for it."""

    @abstractmethod
    def unbound(self) -> socket.socket:
        """A UDP socket where clients are."""

    def connected(self) -> socket.socket:
        """A client's UDP socket, connected to the fleet; waits are bounded."""
        sock = self.unbound()
        sock.settimeout(SECONDS)
        sock.connect(self.address)
        return sock

    @abstractmethod
    def close(self) -> None:
        """Take everything down."""


class LoopbackBalancer(Balancer):
    """A thread that forwards datagrams, each client's from a port of its own.

    So to the nodes each client has one address for as long as the balancer lives, as it has behind
    one that keeps addresses.
    """

    def __init__(self) -> None:
        self._front = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._front.bind(("127.0.0.1", 0))
        self.address = self._front.getsockname()
        self._nodes: list[Address] = [("", 0), ("", 0)]
        self._policy = ""
        self._turn = itertools.cycle((0, 1))
        self._sockets: dict[Address, socket.socket] = {}
        self._first: dict[Address, int] = {}
        self._settled: dict[Address, int] = {}
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def start(self, policy: str) -> None:
        self._policy = policy
        self._turn = itertools.cycle((0, 1))
        self._first.clear()
        self._settled.clear()

    def lose(self, number: int) -> None:
        self._nodes[number] = self._nodes[1 - number]

    def node(self, number: int, folder: Path, secret: bytes) -> Node:
        node = Node(folder, secret, "127.0.0.1", 0)
        self.place(number, node.address)
        return node

    def place(self, number: int, address: tuple[str, int]) -> None:
        """Say where a node is that was started elsewhere."""
        self._nodes[number] = address

    def unbound(self) -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def close(self) -> None:
        self._wake.close()
        self._thread.join()
        for sock in (self._front, self._woken, *self._sockets.values()):
            sock.close()

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(self._front, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    if key.data is not None:  # of a node
                        try:
                            self._front.sendto(key.data[0].recv(65535), key.data[1])
                        except ConnectionRefusedError:
                            continue  # a client that has gone
                        continue
                    try:
                        datagram, client = self._front.recvfrom(65535)
                    except ConnectionRefusedError:
                        continue
                    sock = self._sockets.get(client)
                    if sock is None:
                        sock = self._sockets[client] = socket.socket(
                            socket.AF_INET, socket.SOCK_DGRAM
                        )
                        sock.bind(("127.0.0.1", 0))
                        selector.register(sock, selectors.EVENT_READ, (sock, client))
                    sock.sendto(datagram, self._nodes[self._choose(datagram, client)])

    def _choose(self, datagram: bytes, client: Address) -> int:
        # A plaintext ClientHello; its session id is empty, so that the cookie's length is at 60.
        hello = datagram[0] == 22 and datagram[3:5] == bytes(2) and datagram[13] == 1
        if self._policy == "restless":
            if hello:
                self._settled[client] = next(self._turn)
        elif client not in self._settled:
            if client not in self._first:
                self._first[client] = next(self._turn)
            if datagram[60] == 0:
                return self._first[client]
            self._settled[client] = 1 - self._first[client]
        return self._settled[client]


class NftBalancer(Balancer):
    """The kernel's: nftables changes the destination of each packet, and remembers no connection.

    Four namespaces: a client's, the balancer's, two of nodes. The nodes see the client's own
    address.
    """

    def __init__(self) -> None:
        _namespaces_required()
        name = f"fleet-{os.getpid()}-{next(_numbers)}-"
        self._at_client, self._at_balancer = f"{name}client", f"{name}balancer"
        self._at_nodes = [f"{name}node1", f"{name}node2"]
        self.address = (VIP, PORT)
        self.prefix = ["ip", "netns", "exec", self._at_client]
        self.balancer_prefix = ["ip", "netns", "exec", self._at_balancer]
        self._made: list[str] = []
        try:
            self._wire()
        except BaseException:
            self.close()
            raise

    def start(self, policy: str) -> None:
        self.nft("flush ruleset\n" + ruleset(policy))

    def lose(self, number: int) -> None:
        # One transaction: no packet meets a map without the element.
        self.nft(
            f"delete element ip fleet node {{ {number} : {NODES[number]} }}\n"
            f"add element ip fleet node {{ {number} : {NODES[1 - number]} }}\n"
        )

    def nft(self, rules: str) -> None:
        """Load rules into the balancer's namespace."""
        done = subprocess.run(
            [*self.balancer_prefix, "nft", "-f", "-"], input=rules, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{done.stderr}\n{rules}"

    def node(self, number: int, folder: Path, secret: bytes) -> Node:
        prefix = ["ip", "netns", "exec", self._at_nodes[number]]
        return Node(folder, secret, NODES[number], PORT, prefix)

    def unbound(self) -> socket.socket:
        # A socket belongs to the namespace that its thread was in when it was made.
        made: list[socket.socket] = []

        def make() -> None:
            with open(f"/run/netns/{self._at_client}") as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), 0x40000000) != 0:  # CLONE_NEWNET
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))

        thread = threading.Thread(target=make)
        thread.start()
        thread.join()
        return made[0]

    def close(self) -> None:
        for namespace in self._made:
            ip("netns", "del", namespace)

    def _wire(self) -> None:
        for namespace in (self._at_client, self._at_balancer, *self._at_nodes):
            ip("netns", "add", namespace)
            self._made.append(namespace)
            ip("-n", namespace, "link", "set", "dev", "lo", "up")
        legs = [(self._at_client, "to-client", CLIENT)]
        legs += [
            (namespace, f"to-node{number + 1}", NODES[number])
            for number, namespace in enumerate(self._at_nodes)
        ]
        for namespace, leg, address in legs:
            gateway = address.rpartition(".")[0] + ".1"
            ip("link", "add", "wan", "netns", namespace, "type", "veth",
                "peer", "name", leg, "netns", self._at_balancer)  # fmt: skip
            ip("-n", namespace, "address", "add", f"{address}/24", "dev", "wan")
            ip("-n", self._at_balancer, "address", "add", f"{gateway}/24", "dev", leg)
            ip("-n", self._at_balancer, "link", "set", "dev", leg, "up")
            ip("-n", namespace, "link", "set", "dev", "wan", "up")
            ip("-n", namespace, "route", "add", "default", "via", gateway)
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        ip("netns", "exec", self._at_balancer, "sh", "-c", forward)


def guide(language: str, begin: str) -> str:
    """The block of docs/fleet.md in that language that begins so, without its indentation."""
    text = (ROOT / "docs" / "fleet.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    (block,) = (block for _, block in blocks if block.lstrip().startswith(begin))
    return textwrap.dedent(block)


def ruleset(policy: str) -> str:
    """The rules of a policy for nft. "hashed" is the block of docs/fleet.md as it stands there."""
    if policy == "hashed":
        return guide("nft", "table ip fleet")
    # Offsets in bits from the UDP header: of its 64 the first, then content type (byte 0), epoch
    # (3), handshake type (13), the length of the cookie behind an empty session id (60).
    hello = "@th,64,8 22 @th,88,16 0 @th,168,8 1"
    bare = "@th,544,8 0"
    who = "ip saddr . udp sport"
    memory = f"{{ typeof {who} : meta mark; flags dynamic,timeout; timeout 5m; size 65536; }}"
    if policy == "settling":
        choose = f"""
    meta mark set {who} map @settled goto to_node
    {hello} {bare} goto first
    meta mark set {who} map @first meta mark set meta mark map @other \
add @settled {{ {who} : meta mark }} goto to_node"""
    else:
        choose = f"""
    {hello} goto next
    meta mark set {who} map @settled goto to_node"""
    return f"""
table ip fleet {{
  map node {{ type mark : ipv4_addr; elements = {{ 0 : {NODES[0]}, 1 : {NODES[1]} }}; }}
  map other {{ type mark : mark; elements = {{ 0 : 1, 1 : 0 }}; }}
  map first {memory}
  map settled {memory}
  chain first {{
    meta mark set {who} map @first goto to_node
    meta mark set numgen inc mod 2 add @first {{ {who} : meta mark }} goto to_node
  }}
  chain next {{
    meta mark set numgen inc mod 2
    delete @settled {{ {who} : meta mark }}
    add @settled {{ {who} : meta mark }}
    goto to_node
  }}
  chain to_node {{ ip daddr set meta mark map @node accept; }}
  chain choose {{ {choose}
  }}
  chain prerouting {{
    type filter hook prerouting priority raw;
    ip saddr {{ {", ".join(NODES)} }} udp sport {PORT} notrack ip saddr set {VIP} accept
    ip daddr {VIP} udp dport {PORT} notrack goto choose
  }}
}}
"""


BALANCERS: dict[str, type[LoopbackBalancer] | type[NftBalancer]] = {
    "loopback": LoopbackBalancer,
    "nftables": NftBalancer,
}


@contextmanager
def fleet(
    balancer: Balancer, folder: Path, policy: str, secrets: Sequence[bytes]
) -> Iterator[list[Node]]:
    """Two nodes behind a balancer, ended by SIGTERM."""
    with ExitStack() as stack:
        nodes = []
        for number, secret in enumerate(secrets):
            nodes.append(balancer.node(number, folder / f"node{number}", secret))
            stack.callback(nodes[-1].end)
        balancer.start(policy)
        yield nodes


# --- nginx ----------------------------------------------------------------------------------------


class Nginx(Balancer):
    """nginx's stream module in its plain way: to the nodes all clients have nginx's address, and a
    port for as long as nginx keeps their session. On loopback.

    Args:
        folder: for its files.
        options: directives of the server block.
    """

    def __init__(self, folder: Path, options: str = "") -> None:
        self.address = ("127.0.0.1", free_udp_port())
        self._folder = folder
        self._options = options
        self._stack = ExitStack()
        self._nodes: dict[int, tuple[str, int]] = {}

    def start(self, policy: str) -> None:
        assert policy == "nginx"
        servers = " ".join(f"server {host}:{port};" for host, port in self._nodes.values())
        stream = (
            f"upstream fleet {{ {servers} }}\n"
            f"server {{ listen {self.address[0]}:{self.address[1]} udp; proxy_pass fleet; "
            f"{self._options} }}"
        )
        self._serve(stream)

    def _serve(self, stream: str) -> None:
        self._stack.enter_context(_nginx(self._folder, stream, self._prefix()))

    def node(self, number: int, folder: Path, secret: bytes) -> Node:
        node = Node(folder, secret, "127.0.0.1", 0)
        self._nodes[number] = node.address
        return node

    def unbound(self) -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def close(self) -> None:
        self._stack.close()

    def _prefix(self) -> Sequence[str]:
        return ()


class TransparentNginx(Nginx):
    """The same with `proxy_bind ... transparent`, in namespaces: nodes see the client's address.

    What the nodes answer is addressed to the client, and routed to nginx by a mark. All of it is as
    docs/fleet.md has it, but for `proxy_timeout`.
    """

    def __init__(self, folder: Path, options: str = "") -> None:
        super().__init__(folder, options)
        self._network = NftBalancer()
        self.address = self._network.address
        self.prefix = self._network.prefix
        self._stack.callback(self._network.close)

    def start(self, policy: str) -> None:
        done = subprocess.run(
            [*self._network.balancer_prefix, "sh", "-e"],
            input=guide("sh", "ip address add"),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        lines = guide("nginx", "stream {").splitlines()
        stream = "\n".join(lines[1:-1]).replace("proxy_timeout 1h;", self._options)
        self._serve(stream)

    def node(self, number: int, folder: Path, secret: bytes) -> Node:
        node = self._network.node(number, folder, secret)
        self._nodes[number] = node.address
        return node

    def unbound(self) -> socket.socket:
        return self._network.unbound()

    def _prefix(self) -> Sequence[str]:
        return self._network.balancer_prefix


@contextmanager
def _nginx(folder: Path, stream: str, prefix: Sequence[str]) -> Iterator[None]:
    """nginx with that stream configuration, from when it is ready until the end of the block."""
    program = peer_required("nginx", "apt install nginx-light libnginx-mod-stream")
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # Debian's; built in elsewhere
    load = f"load_module {module};" if module.exists() else ""
    user = "user root;" if os.geteuid() == 0 else ""  # it is to read the files of the test
    config, log = folder / "nginx.conf", folder / "error.log"
    config.write_text(
        f"{load} {user} daemon off; worker_processes 1; pid {folder}/nginx.pid;\n"
        f"error_log {log} notice; events {{ }}\nstream {{\n{stream}\n}}\n"
    )
    command = [*prefix, program, "-e", str(log), "-p", str(folder), "-c", str(config)]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True)
    if 'unknown directive "stream"' in tested.stderr:
        missing("nginx has no stream module: apt install libnginx-mod-stream")
    assert tested.returncode == 0, tested.stderr
    with running(command) as child:
        try:
            deadline = time.monotonic() + SECONDS
            while "start worker process " not in log.read_text():
                assert child.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.02)
            yield
        finally:
            child.terminate()  # its worker ends with it; after SIGKILL that would stay
            child.wait(SECONDS)


# --- clients --------------------------------------------------------------------------------------


@contextmanager
def our_client(balancer: Balancer, **options: Any) -> Iterator[SocketClient]:
    """A client of ours in front of the fleet, before its first hello."""
    options = {"handshake_timeout": SECONDS} | options
    session = Session("client", trusting(), server_name="localhost", **options)
    with balancer.connected() as sock:
        yield SocketClient(sock, session)


def complete(client: SocketClient) -> int:
    """The rest of a client's handshake, and an echo; the HelloVerifyRequests it has seen."""
    drive([client], lambda: client.session.established)
    client.session.send(LINE)
    drive([client], lambda: LINE in client.received)
    return client.challenges


def first_hello(client: SocketClient) -> bytes:
    """A client's first hello, and the HelloVerifyRequest that comes back: not given to it yet."""
    client.go_on()
    datagram = client.sock.recv(65535)
    wire.HelloVerifyRequest.decode(datagram)
    return datagram


def give(client: SocketClient, datagram: bytes) -> None:
    """Give a client the HelloVerifyRequest that was held back."""
    client.challenges += 1
    client.session.receive_datagram(datagram)
    client.go_on()


def s_client(
    address: tuple[str, int],
    prefix: Sequence[str] = (),
    meanwhile: Callable[[], object] = lambda: None,
) -> int:
    """openssl s_client: handshake and an echo; the HelloVerifyRequests that it saw.

    Args:
        address: of the fleet, or a hop before it.
        prefix: of the command.
        meanwhile: called again and again while the client runs.
    """
    command = [*prefix, openssl(), "s_client", "-dtls1_2", "-msg"]
    command += ["-connect", f"{address[0]}:{address[1]}"]
    command += ["-CAfile", str(CERTS / "localhost.pem"), "-verify_return_error"]
    said = hears_its_echo(command, meanwhile=meanwhile)
    # -msg dumps each message in hex: a HelloVerifyRequest is of type 3, with 19 bytes of body.
    return len(re.findall(rb"<<< .*\[length 001f\].*\n\s+03 00 00 13 ", said))


class Holder:
    """A hop before the fleet that holds the first HelloVerifyRequest back until release()."""

    def __init__(self, balancer: Balancer) -> None:
        self._out = balancer.connected()
        self._in = balancer.unbound()
        self._in.bind(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._in.getsockname()
        self.holding = threading.Event()
        self._released = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def release(self) -> None:
        self._released.set()

    def close(self) -> None:
        self._released.set()
        self._wake.close()
        self._thread.join()
        for sock in (self._out, self._in, self._woken):
            sock.close()

    def _run(self) -> None:
        client: Address | None = None
        with selectors.DefaultSelector() as selector:
            for sock in (self._woken, self._in, self._out):
                selector.register(sock, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        return
                    try:
                        if key.fileobj is self._in:
                            datagram, client = self._in.recvfrom(65535)
                            self._out.send(datagram)
                            continue
                        datagram = self._out.recv(65535)
                        if not self.holding.is_set():
                            self.holding.set()
                            self._released.wait(SECONDS)
                        if client is not None:
                            self._in.sendto(datagram, client)
                    except ConnectionRefusedError:
                        continue  # the client has gone, or a node


# --- namespaces -----------------------------------------------------------------------------------


def _namespaces_required() -> None:
    """Skip where this user may not make network namespaces, or the kernel cannot balance so."""
    peer_required("nft", "apt install nftables")
    rules = (
        "table ip t { map m { typeof ip saddr . udp sport : meta mark; flags dynamic,timeout; "
        "size 9; }; chain c { type filter hook prerouting priority raw; notrack; "
        "meta mark set numgen inc mod 2; add @m { ip saddr . udp sport : meta mark }; "
        "ip daddr set meta mark map { 0 : 10.0.0.1, 1 : 10.0.0.2 }; }; }"
    )
    with namespace_with_veth() as probe:
        command = ["ip", "netns", "exec", probe, "nft", "-f", "-"]
        tried("this kernel's nftables cannot balance", command, rules)
