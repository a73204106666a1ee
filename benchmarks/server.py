"""Servers in Python to measure: listener [ADMITTED] | loop. Prints as peers/servers.c does."""

from __future__ import annotations

import signal
import socket
import sys
import time

from gnutls_cookie import Challenge, CookieGate, CookieListener, KeyRing, client_data


class Stop(BaseException):
    """SIGTERM."""


def stop(number: int, frame: object) -> None:
    raise Stop


def main() -> None:
    """Serve until SIGTERM, then print answers and nanoseconds of CPU."""
    gate = CookieGate(KeyRing.random())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        listener = CookieListener(sock, gate)
        for number in range(int(sys.argv[2]) if len(sys.argv) > 2 else 0):
            listener.admit((f"127.{200 + number // 65536}.{number // 256 % 256}.{number % 256}", 9))
        signal.signal(signal.SIGTERM, stop)
        print(sock.getsockname()[1], flush=True)
        before = time.process_time_ns()
        try:
            if sys.argv[1] == "listener":
                while True:
                    listener.poll()
            while True:
                datagram, address = sock.recvfrom(2048)
                match gate.receive(datagram, client_data.sockaddr(address)):
                    case Challenge(reply):
                        sock.sendto(reply, address)
        except Stop:
            used = time.process_time_ns() - before
    print(gate.counters.challenged, used)


if __name__ == "__main__":
    main()
