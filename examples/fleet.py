"""A fleet to look at: three nodes behind one address, and one of them killed in mid-exchange.

Needs root, `ip` and `nft`. As root:

python fleet.py
python fleet.py nginx

It makes five network namespaces (a client's, the balancer's, three nodes'), which are gone at the
end. The balancer is the kernel's: nftables chooses a node by the client's address and port, and
remembers nothing. Or it is nginx with its stream module, which has a session for each client and
sends under the client's own address. The nodes share a secret, and do not talk to each other.
"""

import asyncio
import contextlib
import json
import os
import secrets
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from gnutls_cookie import KeyRing, PSKCredentials, Session, aio

FLEET, PORT = "192.0.2.1", 5684
CLIENT = "10.78.0.2"
NODES = ["10.78.1.2", "10.78.2.2", "10.78.3.2"]
CREDENTIALS = PSKCredentials("sensor-1", b"a secret of 16 B")
SECONDS = 30  # a bound for each step

RULES = f"""
flush ruleset
table ip fleet {{
  map node {{ type mark : ipv4_addr;
    elements = {{ {", ".join(f"{number} : {node}" for number, node in enumerate(NODES))} }}; }}
  chain prerouting {{
    type filter hook prerouting priority raw;
    ip saddr {{ {", ".join(NODES)} }} udp sport {PORT} notrack ip saddr set {FLEET} accept
    ip daddr {FLEET} udp dport {PORT} notrack \
      meta mark set jhash ip saddr . udp sport mod {len(NODES)} seed 0x5eed \
      ip daddr set meta mark map @node
  }}
}}
"""

NGINX_RULES = f"""
flush ruleset
table ip fleet {{
  chain answers {{
    type filter hook prerouting priority mangle;
    ip saddr {{ {", ".join(NODES)} }} udp sport {PORT} meta mark set 1
    ip saddr {{ {", ".join(NODES)} }} icmp type destination-unreachable meta mark set 1
  }}
}}
"""

NGINX_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")  # Debian's; elsewhere built in
NGINX = f"""
{f"load_module {NGINX_MODULE};" if NGINX_MODULE.exists() else ""}
user root; daemon off; master_process off; pid nginx.pid; error_log stderr emerg;
events {{ }}
stream {{
  upstream fleet {{
    hash $binary_remote_addr$remote_port consistent;
    {" ".join(f"server {node}:{PORT};" for node in NODES)}
  }}
  server {{
    listen {FLEET}:{PORT} udp;
    proxy_pass fleet;
    proxy_bind $remote_addr:$remote_port transparent;
    proxy_timeout 1h;
  }}
}}
"""


# --- a node ---------------------------------------------------------------------------------------


async def node(address, name, secret):
    """Answer each message by its name, and print how many it has challenged."""

    async def handler(connection):
        async for _ in connection:
            await connection.send(name.encode())

    keys = KeyRing.from_secret(bytes.fromhex(secret), period=3600)
    async with aio.start_server(
        handler, address, PORT, credentials=CREDENTIALS, keys=keys
    ) as server:
        told = None
        while True:
            challenged = server.counters.gate.challenged
            if challenged != told:
                told = challenged
                print(json.dumps(challenged), flush=True)
            await asyncio.sleep(0.02)


# --- a client -------------------------------------------------------------------------------------


def client(pause):
    """Ask who serves; wait for a line of stdin between the two hellos, if wanted."""
    session, challenges = Session("client", CREDENTIALS, handshake_timeout=SECONDS), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect((FLEET, PORT))

        def exchange(wait):
            for datagram in session.datagrams_to_send():
                sock.send(datagram)
            if select.select([sock], [], [], wait)[0]:
                return sock.recv(65536)
            return None

        while not session.handshake():
            datagram = exchange(session.timeout())
            if datagram is None:
                session.handle_timeout()
                continue
            if datagram[13:14] == b"\x03":  # HelloVerifyRequest; nginx may send an empty datagram
                challenges += 1
                if pause and challenges == 1:
                    print("challenged", flush=True)
                    sys.stdin.readline()
            session.receive_datagram(datagram)
        while (answer := session.receive()) is None:
            session.send(b"who are you?")
            if (datagram := exchange(1)) is not None:
                session.receive_datagram(datagram)
        print(json.dumps({"node": answer.decode(), "challenges": challenges}), flush=True)
        session.close()
        exchange(0)


# --- the fleet ------------------------------------------------------------------------------------


class Fleet:
    """Namespaces and the programs in them; `with` ends all."""

    def __init__(self):
        self._held = contextlib.ExitStack()
        self._prefix = f"fleet-{os.getpid()}-"
        self.nodes = []

    def __enter__(self):
        try:
            self._wire()
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(self, *_):
        self._held.close()

    def start(self, secrets_of_nodes):
        """Start all nodes, and balance over them."""
        for one in self.nodes:
            self._end(one)
        self.nodes = [
            self.run(f"node{number}", "node", address, f"node-{number}", secret)
            for number, (address, secret) in enumerate(zip(NODES, secrets_of_nodes, strict=True))
        ]
        for one in self.nodes:  # the first number comes once it listens
            assert select.select([one.stdout], [], [], SECONDS)[0], "a node does not start"
            assert one.stdout.readline() == "0\n"
        self.balance()

    def balance(self):
        """Begin to, over all nodes."""
        self._nft(RULES)

    def run(self, where, *arguments):
        """Start this program in a namespace."""
        return self._start(where, sys.executable, __file__, *arguments)

    def ask(self):
        """What one client says after its end."""
        output, _ = self.run("client", "client").communicate(timeout=SECONDS)
        return json.loads(output)

    def challenged(self):
        """The node that has challenged somebody since it was asked last."""
        found, _, _ = select.select([one.stdout for one in self.nodes], [], [], SECONDS)
        return next(number for number, one in enumerate(self.nodes) if one.stdout in found)

    def lose(self, number):
        """Kill a node, and give its clients to the next."""
        self._end(self.nodes[number])
        heir = NODES[(number + 1) % len(NODES)]
        self._nft(
            f"delete element ip fleet node {{ {number} : {NODES[number]} }}\n"
            f"add element ip fleet node {{ {number} : {heir} }}\n"
        )

    def _start(self, where, *command):
        words = ["ip", "netns", "exec", self._prefix + where, *command]
        child = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
        self._held.callback(self._end, child)
        return child

    def _end(self, child):
        child.kill()
        child.communicate(timeout=SECONDS)

    def _nft(self, rules):
        command = ["ip", "netns", "exec", f"{self._prefix}balancer", "nft", "-f", "-"]
        subprocess.run(command, input=rules, text=True, check=True)

    def _wire(self):
        names = ["client", *(f"node{number}" for number in range(len(NODES)))]
        balancer = f"{self._prefix}balancer"
        for name in "balancer", *names:
            _ip("netns", "add", self._prefix + name)
            self._held.callback(_ip, "netns", "del", self._prefix + name)
            _ip("-n", self._prefix + name, "link", "set", "dev", "lo", "up")
        for name, address in zip(names, [CLIENT, *NODES], strict=True):
            here, gateway = self._prefix + name, address[:-1] + "1"
            _ip("link", "add", "wan", "netns", here, "type", "veth",
                "peer", "name", name, "netns", balancer)  # fmt: skip
            _ip("-n", here, "address", "add", f"{address}/24", "dev", "wan")
            _ip("-n", balancer, "address", "add", f"{gateway}/24", "dev", name)
            _ip("-n", balancer, "link", "set", "dev", name, "up")
            _ip("-n", here, "link", "set", "dev", "wan", "up")
            _ip("-n", here, "route", "add", "default", "via", gateway)
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        _ip("netns", "exec", balancer, "sh", "-c", forward)


class NginxFleet(Fleet):
    """The same behind nginx, which the kernel brings what nodes send to clients, and what there is
    to say of nodes that are gone."""

    def __init__(self):
        super().__init__()
        self._balancing = self._held.enter_context(contextlib.ExitStack())

    def balance(self):
        self._balancing.close()
        folder = self._balancing.enter_context(tempfile.TemporaryDirectory())
        Path(folder, "nginx.conf").write_text(NGINX)
        words = ["nginx", "-e", "stderr", "-p", folder, "-c", "nginx.conf"]
        started = self._start("balancer", *words)
        self._balancing.callback(self._end, started)
        deadline = time.monotonic() + SECONDS
        while f":{PORT:04X} " not in self._sockets():
            assert started.poll() is None, "nginx has ended"
            assert time.monotonic() < deadline, "nginx does not start"
            time.sleep(0.05)

    def lose(self, number):
        """Kill a node; nginx finds out."""
        self._end(self.nodes[number])

    def _wire(self):
        super()._wire()
        balancer = f"{self._prefix}balancer"
        self._nft(NGINX_RULES)
        _ip("-n", balancer, "address", "add", f"{FLEET}/32", "dev", "lo")
        _ip("-n", balancer, "rule", "add", "fwmark", "1", "lookup", "100")
        _ip("-n", balancer, "route", "add", "local", "default", "dev", "lo", "table", "100")

    def _sockets(self):
        command = ["ip", "netns", "exec", f"{self._prefix}balancer", "cat", "/proc/net/udp"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _ip(*words):
    subprocess.run(["ip", *words], check=True)


def many(fleet, count):
    """Ask by clients one after the other, and print who served them."""
    answers = [fleet.ask() for _ in range(count)]
    nodes = Counter(one["node"] for one in answers)
    served = ", ".join(f"{node} served {number}" for node, number in sorted(nodes.items()))
    most = max(one["challenges"] for one in answers)
    print(f"  {count} clients: {served}; HelloVerifyRequests: {most} each", flush=True)


def killed_between_the_hellos(fleet):
    child = fleet.run("client", "client", "pause")
    assert child.stdout.readline() == "challenged\n"
    number = fleet.challenged()
    print(f"  a client is challenged by node-{number}, which is killed before its second hello")
    fleet.lose(number)
    output, _ = child.communicate("go on\n", timeout=SECONDS)
    found = json.loads(output)
    print(
        f"  it is served by {found['node']}; HelloVerifyRequests: {found['challenges']}", flush=True
    )


def show(kind, balancer):
    with kind() as fleet:
        one = secrets.token_hex(32)
        print(f"three nodes behind {FLEET} ({balancer}), one secret", flush=True)
        fleet.start([one] * len(NODES))
        killed_between_the_hellos(fleet)
        many(fleet, 8)
        print("the same with a secret of its own on each node", flush=True)
        fleet.start([secrets.token_hex(32) for _ in NODES])
        killed_between_the_hellos(fleet)


def main():
    role, *arguments = sys.argv[1:] or ["show"]
    if role == "node":
        asyncio.run(node(*arguments))
    elif role == "client":
        client(bool(arguments))
    elif sys.argv[1:] in ([], ["nginx"]):
        kind, balancer = (NginxFleet, "nginx") if sys.argv[1:] else (Fleet, "nftables")
        with contextlib.suppress(KeyboardInterrupt):
            show(kind, balancer)
    else:
        sys.exit("usage: fleet.py [nginx]")


if __name__ == "__main__":
    main()
