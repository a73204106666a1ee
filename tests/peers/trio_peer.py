"""A client or server of trio's DTLSEndpoint, which stands on pyOpenSSL.

trio_peer.py client HOST PORT x509 TRUST | psk IDENTITY HEX
trio_peer.py server HOST PORT x509 CERTIFICATE KEY | psk IDENTITY HEX

The client sends each line of stdin once the handshake is done, writes what comes back to stdout,
and ends with the server's goodbye. The server challenges and echoes. trio itself says no goodbye,
and raises what pyOpenSSL does at that of its peer.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any

import trio
from OpenSSL import SSL
from OpenSSL._util import ffi, lib
from pyopenssl_client import share, trust  # type: ignore[import-not-found]  # beside this file


def main() -> None:
    """Run until stdin ends, or until killed."""
    role, host, port, kind, *secret = sys.argv[1:]
    context = SSL.Context(SSL.DTLS_METHOD)
    if role == "client":
        kept = trust(context, *secret) if kind == "x509" else share(context, *secret)
        if kind == "x509":
            context.set_verify(SSL.VERIFY_PEER, judge)
        trio.run(talk, context, host, int(port))
    else:
        kept = show(context, *secret) if kind == "x509" else know(context, *secret)
        trio.run(serve, context, host, int(port))
    del kept


def judge(_: Any, __: Any, error: int, ___: int, good: int) -> bool:
    """trio's handshake goes on and on where OpenSSL has refused a certificate: this one ends."""
    if not good:
        print(f"error: verification: {error}", flush=True)
        os._exit(1)
    return True


def show(context: SSL.Context, certificate: str, key: str) -> object:
    """Use this certificate."""
    context.use_certificate_file(certificate)
    context.use_privatekey_file(key)
    return None


def know(context: SSL.Context, identity: str, key: str) -> Any:
    """Know a pre-shared key; the result must outlive the endpoint, as that of share()."""
    secret = bytes.fromhex(key)

    def answer(_: Any, who: Any, what: Any, longest: int) -> int:
        if ffi.string(who) != identity.encode() or len(secret) > longest:
            return 0
        ffi.memmove(what, secret, len(secret))
        return len(secret)

    psk = ffi.callback("unsigned int (*)(SSL *, const char *, unsigned char *, unsigned)", answer)
    lib.SSL_CTX_set_psk_server_callback(context._context, psk)
    context.set_cipher_list(b"PSK")
    return psk


async def talk(context: SSL.Context, host: str, port: int) -> None:
    """Lines of stdin there, and what comes back to stdout, until the server's goodbye."""
    with trio.DTLSEndpoint(udp_socket(host)) as endpoint:
        there = (host, port, 0, 0) if ":" in host else (host, port)  # as recvfrom() tells it
        channel = endpoint.connect(there, context)
        channel.set_ciphertext_mtu(1200)
        await channel.do_handshake()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_lines, channel)
            with contextlib.suppress(SSL.ZeroReturnError):
                while True:
                    os.write(1, await channel.receive())
            nursery.cancel_scope.cancel()


async def send_lines(channel: trio.DTLSChannel) -> None:
    """stdin, to its end."""
    async with trio.lowlevel.FdStream(os.dup(0)) as stream:
        async for line in stream:
            await channel.send(line)


async def serve(context: SSL.Context, host: str, port: int) -> None:
    """Echo to everyone."""
    sock = udp_socket(host)
    await sock.bind((host, port))
    with trio.DTLSEndpoint(sock) as endpoint:
        async with trio.open_nursery() as nursery:
            await nursery.start(endpoint.serve, context, echo)
            os.write(1, b"serving\n")


async def echo(channel: trio.DTLSChannel) -> None:
    """Until the client's goodbye."""
    with contextlib.suppress(SSL.ZeroReturnError):
        async for message in channel:
            await channel.send(message)
    await channel.aclose()


def udp_socket(host: str) -> trio.socket.SocketType:
    """A socket of the family of an address."""
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    return trio.socket.socket(family, trio.socket.SOCK_DGRAM)


if __name__ == "__main__":
    main()
