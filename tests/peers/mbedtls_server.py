"""A DTLS echo server of Mbed TLS (python-mbedtls): mbedtls_server.py CERT KEY. Prints its port.

A context for each address, as Mbed TLS wants it; a failed handshake or a goodbye ends it. What Mbed
TLS refuses is dropped.
"""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

from mbedtls import pk, tls, x509

Address = tuple[str, int]


def main() -> None:
    """Serve until killed."""
    certificate, key = sys.argv[1:]
    context = tls.ServerContext(
        tls.DTLSConfiguration(
            certificate_chain=((x509.CRT.from_file(certificate),), private_key(Path(key))),
            validate_certificates=False,
        )
    )
    buffers: dict[Address, tls.TLSWrappedBuffer] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        print(f"port {sock.getsockname()[1]}", flush=True)
        while True:
            datagram, address = sock.recvfrom(65535)
            if address not in buffers:
                buffers[address] = context.wrap_buffers()
                buffers[address].setcookieparam(f"{address[0]} {address[1]}".encode())
            if not goes_on(buffers[address], datagram, sock, address):
                del buffers[address]


def private_key(path: Path) -> pk.RSA | pk.ECC:
    """The key of a PEM file, of whatever kind."""
    with contextlib.suppress(Exception):
        return pk.ECC.from_file(path)
    return pk.RSA.from_file(path)


def goes_on(
    buffer: tls.TLSWrappedBuffer, datagram: bytes, sock: socket.socket, address: Address
) -> bool:
    """Give Mbed TLS a datagram, and echo what was in it; False where the connection has ended."""
    buffer.receive_from_network(datagram)
    try:
        while buffer._handshake_state is not tls.HandshakeStep.HANDSHAKE_OVER:
            # It has written a record and wants it sent before it goes on.
            with contextlib.suppress(tls.WantWriteError):
                buffer.do_handshake()
            flush(buffer, sock, address)
        buffer.write(buffer.read(65535))
    except tls.WantReadError:
        return True
    except Exception:  # HelloVerifyRequest too: the next hello gets a context of its own
        return False
    finally:
        flush(buffer, sock, address)
    return True


def flush(buffer: tls.TLSWrappedBuffer, sock: socket.socket, address: Address) -> None:
    """Send what Mbed TLS has written, a record a datagram."""
    while data := buffer.peek_outgoing(65535):
        sock.sendto(data, address)
        buffer.consume_outgoing(len(data))


if __name__ == "__main__":
    main()
