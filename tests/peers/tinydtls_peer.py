"""A DTLS client or server of tinydtls (the package DTLSSocket).

tinydtls_peer.py client HOST PORT IDENTITY HEX
tinydtls_peer.py server HOST PORT IDENTITY HEX

The client sends each line of stdin once the handshake is done, writes what comes back to stdout,
and says goodbye when stdin ends. The server challenges and echoes. tinydtls has one cipher suite
for what this package can be given: TLS_PSK_WITH_AES_128_CCM_8.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
from typing import Any

from DTLSSocket import dtls

CONNECTED = 0x01DE  # DTLS_EVENT_CONNECTED of tinydtls
TICK = 0.05  # seconds between two looks at its timers
CLOSE_NOTIFY = (1, 0)  # level and description of the alert

Address = tuple[Any, ...]


class Peer:
    """A context of tinydtls on a socket: IPv6, and IPv4 by mapped addresses."""

    def __init__(self, host: str, port: int, identity: str, key: str) -> None:
        self.sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        self.sock.bind((host, port))
        self.connected = self.closed = False
        self.messages: list[tuple[Address, bytes]] = []
        self._identity = identity.encode()  # tinydtls keeps a pointer
        self.context = dtls.DTLS(
            read=self._read,
            write=lambda address, data: self.sock.sendto(data, address),
            event=self._event,
            pskId=self._identity,
            pskStore={self._identity: bytes.fromhex(key)},
        )

    def readable(self) -> None:
        """Take one datagram."""
        datagram, address = self.sock.recvfrom(65535)
        self.context.handleMessageAddr(address[0], address[1], datagram)

    def write(self, address: Address, message: bytes) -> None:
        self.context.write(dtls.Session(address[0], address[1]), message)

    def _read(self, address: Address, message: bytes) -> int:
        self.messages.append((address, message))
        return len(message)

    def _event(self, level: int, code: int) -> None:
        self.connected |= code == CONNECTED
        self.closed |= (level, code) == CLOSE_NOTIFY


def main() -> int:
    """Run until stdin ends, or until killed."""
    role, host, port, identity, key = sys.argv[1:]
    mapped = host if ":" in host else f"::ffff:{host}"
    if role == "server":
        serve(Peer(mapped, int(port), identity, key))
    else:
        talk(Peer("::", 0, identity, key), (mapped, int(port)))
    return 0


def talk(peer: Peer, server: Address) -> None:
    """Lines of stdin there, and what comes back to stdout."""
    connection = peer.context.connect(*server)
    with selectors.DefaultSelector() as selector:
        selector.register(peer.sock, selectors.EVENT_READ)
        while not peer.closed:
            for key, _ in selector.select(TICK):
                if key.fileobj is peer.sock:
                    peer.readable()
                elif line := os.read(0, 65535):
                    peer.write(server, line)
                else:
                    peer.context.close(connection)
                    return
            peer.context.checkRetransmit()
            if peer.connected and len(selector.get_map()) == 1:
                selector.register(sys.stdin, selectors.EVENT_READ)
            while peer.messages:
                os.write(1, peer.messages.pop(0)[1])


def serve(peer: Peer) -> None:
    """Echo to everyone."""
    print("serving", flush=True)
    peer.sock.settimeout(TICK)
    while True:
        with contextlib.suppress(TimeoutError):
            peer.readable()
        peer.context.checkRetransmit()
        while peer.messages:
            peer.write(*peer.messages.pop(0))


if __name__ == "__main__":
    sys.exit(main())
