"""The cookies are C's own: a small C program over libgnutls makes and accepts the same bytes."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Callable

import pytest

from gnutls_cookie import Prestate, client_data, cookie_send, cookie_verify, generate_key
from gnutls_cookie.reference import wire
from tests.support.common import Address, compile_peer, hello_with, running, udp_socket

# The layouts that existing servers pass: GnuTLS' manual and gnutls-serv (sockaddr at its own
# length), pmacct (sockaddr_storage), Jami (NULL, 0), and a server that passes text.
LAYOUTS: dict[str, tuple[str, Callable[[Address], bytes]]] = {
    "in": ("127.0.0.1", client_data.sockaddr),
    "in6": ("::1", client_data.sockaddr),
    "storage": ("127.0.0.1", client_data.sockaddr_storage),
    "storage6": ("::1", client_data.sockaddr_storage),
    "text": ("127.0.0.1", client_data.text),
    "text6": ("::1", client_data.text),
}


def c(*arguments: str) -> str:
    """What tests/peers/cookies.c prints."""
    program = compile_peer("cookies.c")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=True, timeout=30
    ).stdout.strip()


def hexed(data: bytes | None) -> str:
    return "-" if data is None else data.hex()


def both_directions(who: bytes | None) -> None:
    """A cookie of C verifies here, and one of ours verifies in C; the datagrams are equal."""
    key = generate_key()
    of_c = bytes.fromhex(c("send", key.hex(), hexed(who), "7", "9"))
    ours: list[bytes] = []
    assert cookie_send(key, who, Prestate(7, 0, 9), ours, lambda t, data: t.append(data)) == 44
    assert ours == [of_c]

    cookie = wire.HelloVerifyRequest.decode(of_c).cookie
    assert cookie_verify(key, who, hello_with(cookie, seq=3)) == Prestate(3, 3, 0)
    cookie = wire.HelloVerifyRequest.decode(ours[0]).cookie
    assert c("verify", key.hex(), hexed(who), hello_with(cookie, seq=3).hex()) == "0 3 3 0"
    other = hello_with(bytes([cookie[0] ^ 1]) + cookie[1:])
    assert c("verify", key.hex(), hexed(who), other.hex()) == "-214 0 0 0"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_client_data_is_what_a_server_in_c_passes(layout: str) -> None:
    """The bytes are those that recvfrom() gives a C program, and their cookies go both ways."""
    host, write = LAYOUTS[layout]
    with (
        udp_socket(host) as client,
        running([compile_peer("cookies.c"), "sockaddr", layout]) as server,
    ):
        assert server.stdout is not None
        port = int(server.stdout.readline())
        client.sendto(b"x", (host, port))
        of_c = bytes.fromhex(server.stdout.readline().decode())
        ours = write(client.getsockname())
    assert ours == of_c
    both_directions(ours)


@pytest.mark.parametrize("who", [None, b""], ids=["NULL", "empty"])
def test_no_client_data_goes_both_ways(who: bytes | None) -> None:
    """NULL, 0 is what Jami passes; empty bytes give the same cookie."""
    both_directions(who)


def test_sizes_of_the_layouts() -> None:
    """16, 28 and 128 bytes, as the structs have."""
    assert len(client_data.sockaddr(("127.0.0.1", 1))) == 16
    assert len(client_data.sockaddr(("::1", 1))) == 28
    assert len(client_data.sockaddr(("127.0.0.1", 1), socket.AF_INET6)) == 28
    assert len(client_data.sockaddr_storage(("127.0.0.1", 1))) == 128
