"""A DTLS client of pyOpenSSL: pyopenssl_client.py HOST PORT x509 TRUST | psk IDENTITY HEX.

Sends each line of stdin once the handshake is done, writes what comes back to stdout, and says
goodbye when stdin ends. OpenSSL works on memory here, the socket is ours.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import sys
from typing import Any

from OpenSSL import SSL
from OpenSSL._util import ffi, lib


def main() -> int:
    """Run until stdin or the server ends."""
    host, port, kind, *secret = sys.argv[1:]
    context = SSL.Context(SSL.DTLS_METHOD)
    kept = trust(context, *secret) if kind == "x509" else share(context, *secret)
    connection = SSL.Connection(context)
    connection.set_ciphertext_mtu(1200)  # memory has no MTU that OpenSSL could ask for
    connection.set_tlsext_host_name(b"localhost")
    connection.set_connect_state()
    family, _, _, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect(address)
        shake(connection, sock)
        talk(connection, sock)
    del kept
    return 0


def trust(context: SSL.Context, authorities: str) -> object:
    """Demand a certificate of these authorities."""
    context.load_verify_locations(authorities)
    context.set_verify(SSL.VERIFY_PEER)
    return None


def share(context: SSL.Context, identity: str, key: str) -> Any:
    """Use a pre-shared key. pyOpenSSL has no method for it, the library that it stands on has a
    function; the result must outlive the connection."""
    name, secret = identity.encode() + b"\0", bytes.fromhex(key)

    def answer(_: Any, hint: Any, who: Any, most: int, what: Any, longest: int) -> int:
        if len(name) > most or len(secret) > longest:
            return 0
        ffi.memmove(who, name, len(name))
        ffi.memmove(what, secret, len(secret))
        return len(secret)

    psk = ffi.callback(
        "unsigned int (*)(SSL *, const char *, char *, unsigned, unsigned char *, unsigned)",
        answer,
    )
    lib.SSL_CTX_set_psk_client_callback(context._context, psk)
    context.set_cipher_list(b"PSK")
    return psk


def shake(connection: SSL.Connection, sock: socket.socket) -> None:
    """The handshake, with OpenSSL's timer for what must be sent again."""
    while True:
        try:
            connection.do_handshake()
        except SSL.WantReadError:
            flush(connection, sock)
            sock.settimeout(connection.DTLSv1_get_timeout())
            try:
                connection.bio_write(sock.recv(65535))
            except TimeoutError:
                connection.DTLSv1_handle_timeout()
        else:
            flush(connection, sock)
            return


def talk(connection: SSL.Connection, sock: socket.socket) -> None:
    """Lines of stdin there, and what comes back to stdout."""
    sock.settimeout(None)
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sock:
                    connection.bio_write(sock.recv(65535))
                    try:
                        os.write(1, connection.recv(65535))
                    except SSL.WantReadError:
                        continue
                    except SSL.ZeroReturnError:
                        return
                elif line := os.read(0, 65535):
                    connection.send(line)
                    flush(connection, sock)
                else:
                    connection.shutdown()
                    flush(connection, sock)
                    return


def flush(connection: SSL.Connection, sock: socket.socket) -> None:
    """Send what OpenSSL has written. A flight is one datagram: this side's are short."""
    with contextlib.suppress(SSL.WantReadError):
        sock.send(connection.bio_read(65535))


if __name__ == "__main__":
    sys.exit(main())
