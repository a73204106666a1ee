"""A client that has an address and sends what costs a server most: fresh hellos with a good cookie,
and fragments of messages that are never whole.

Run as a program it floods until it is killed:

    python -m tests.support.flood PORT SOURCE PORTS RATE

from PORTS ports, RATE fresh hellos a second to PORT of 127.0.0.1. SOURCE is an address, or a
network (127.0.2.0/24) whose addresses are taken in turn. It prints "ready" when it has its cookies.
"""

from __future__ import annotations

import ipaddress
import itertools
import os
import socket
import sys
import time

from gnutls_cookie import CertificateCredentials, Session

RANDOM = slice(27, 59)  # of a ClientHello, in its datagram


class Flooder:
    """One port of an address, with the cookie for it.

    Args:
        there: the server.
        source: an address of this host.
    """

    def __init__(self, there: tuple[str, int], source: str) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((source, 0))
        self.sock.connect(there)
        self.sock.settimeout(20)
        session = Session("client", CertificateCredentials(), verify_peer=False)
        session.handshake(0.0)
        for datagram in session.datagrams_to_send():
            self.sock.send(datagram)
        session.receive_datagram(self.sock.recv(2000))
        session.handshake(0.0)
        (self._hello,) = session.datagrams_to_send()
        self.sock.setblocking(False)
        self._number = itertools.count(2)

    def hello(self) -> None:
        """A hello with a random that no other has; what is answered is thrown away."""
        hello = bytearray(self._hello)
        hello[RANDOM] = os.urandom(32)
        self._send(bytes(hello))
        self._number = itertools.count(2)

    def fragment(self, length: int = 48_000, size: int = 9_000) -> None:
        """The first bytes of a certificate that never comes whole: the server keeps room for it."""
        body = b"\x0b" + length.to_bytes(3, "big") + (2).to_bytes(2, "big") + bytes(3)
        body += size.to_bytes(3, "big") + bytes(size)
        head = b"\x16\xfe\xfd" + next(self._number).to_bytes(8, "big")
        self._send(head + len(body).to_bytes(2, "big") + body)

    def close(self) -> None:
        self.sock.close()

    def _send(self, datagram: bytes) -> None:
        try:
            self.sock.send(datagram)
            while self.sock.recv(4000):
                pass
        except OSError:
            pass  # nothing to throw away, or the kernel's buffer is full


def main() -> None:
    port, source, ports, rate = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    network = ipaddress.ip_network(source)
    sources = itertools.cycle([str(ip) for ip in network.hosts()])
    flooders = [Flooder(("127.0.0.1", port), next(sources)) for _ in range(ports)]
    print("ready", flush=True)
    began = time.monotonic()
    for sent, flooder in enumerate(itertools.cycle(flooders)):
        while sent > (time.monotonic() - began) * rate:
            time.sleep(0.001)
        flooder.hello()


if __name__ == "__main__":
    main()
