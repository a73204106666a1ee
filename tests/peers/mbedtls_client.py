"""A DTLS client of Mbed TLS (python-mbedtls): mbedtls_client.py PORT SECRET [HOST [MOST]].

SECRET is a file of trusted certificates, or psk:IDENTITY:HEX. Sends each line of stdin to HOST
(127.0.0.1) once the handshake is done, writes what comes back to stdout, and says goodbye when
stdin ends. It asks for records of at most MOST bytes (RFC 6066 4). It does what s_client and
gnutls-cli do: Mbed TLS's own timer decides what is sent again.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys

from mbedtls import tls


def main() -> None:
    """Run until stdin ends."""
    port, secret, host, most = [*sys.argv[1:], *("127.0.0.1", "0")[len(sys.argv) - 3 :]]
    settings = configuration(secret)
    if most != "0":
        settings = settings.update(
            max_fragmentation_length=tls.MaxFragmentLength(int(most).bit_length() - 9)
        )
    buffer = tls.ClientContext(settings).wrap_buffers("localhost")
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        shake(buffer, sock)
        talk(buffer, sock)


def configuration(secret: str) -> tls.DTLSConfiguration:
    """What the server must prove itself with."""
    if not secret.startswith("psk:"):
        return tls.DTLSConfiguration(trust_store=tls.TrustStore.from_pem_file(secret))
    _, identity, key = secret.split(":")
    return tls.DTLSConfiguration(
        pre_shared_key=(identity, bytes.fromhex(key)), validate_certificates=False
    )


def shake(buffer: tls.TLSWrappedBuffer, sock: socket.socket) -> None:
    """The handshake. Mbed TLS looks at its timer whenever it is called, so it is called often."""
    sock.settimeout(0.02)
    while buffer._handshake_state is not tls.HandshakeStep.HANDSHAKE_OVER:
        try:
            buffer.do_handshake()
        except tls.WantWriteError:
            flush(buffer, sock)
        except tls.WantReadError:
            flush(buffer, sock)
            try:
                buffer.receive_from_network(sock.recv(65535))
            except TimeoutError:
                continue
    flush(buffer, sock)


def talk(buffer: tls.TLSWrappedBuffer, sock: socket.socket) -> None:
    """Lines of stdin there, and what comes back to stdout."""
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sock:
                    buffer.receive_from_network(sock.recv(65535))
                    os.write(1, buffer.read(65535))
                elif line := os.read(0, 65535):
                    buffer.write(line)
                    flush(buffer, sock)
                else:
                    with contextlib.suppress(tls.WantWriteError):
                        buffer.shutdown()
                    flush(buffer, sock)
                    return


def flush(buffer: tls.TLSWrappedBuffer, sock: socket.socket) -> None:
    """Send what Mbed TLS has written. A flight is one datagram: this side's are short."""
    if data := buffer.peek_outgoing(65535):
        sock.send(data)
        buffer.consume_outgoing(len(data))


if __name__ == "__main__":
    main()
