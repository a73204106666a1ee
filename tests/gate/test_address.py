"""client_data: the bytes that the kernel and servers in C write for an address."""

from __future__ import annotations

import ctypes
import socket
import struct
from typing import Any

import pytest

from gnutls_cookie import client_data
from tests.support.common import missing, udp_socket

LAYOUTS = (client_data.sockaddr, client_data.sockaddr_storage, client_data.text)


def kernel_sockaddr(sock: socket.socket) -> bytes:
    """getsockname(2) itself, at the length that the kernel gives."""
    storage = (ctypes.c_ubyte * 128)(*b"\xaa" * 128)  # so that padding is seen to be written
    size = ctypes.c_uint32(128)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.getsockname(sock.fileno(), storage, ctypes.byref(size)) == 0
    return bytes(storage[: size.value])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "0.0.0.0", "::1", "::"])
def test_sockaddr_is_what_the_kernel_writes(host: str) -> None:
    """Byte for byte getsockname(2): 16 bytes for IPv4, 28 for IPv6, padding zeroed."""
    with udp_socket(host) as sock:
        made = client_data.sockaddr(sock.getsockname())
        assert made == kernel_sockaddr(sock)
        assert len(made) == (28 if ":" in host else 16)


def test_ipv4_address_on_a_dual_stack_socket_is_mapped() -> None:
    """With AF_INET6 an IPv4 address is ::ffff:a.b.c.d, as the kernel shows it."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            sock.bind(("::ffff:127.0.0.1", 0))
        except OSError as error:
            missing(f"no dual-stack UDP socket: {error}")
        port = sock.getsockname()[1]
        made = client_data.sockaddr(("127.0.0.1", port), socket.AF_INET6)
        assert made == kernel_sockaddr(sock) == client_data.sockaddr(sock.getsockname())


def test_sockaddr_in_is_the_known_bytes() -> None:
    """Family in host order, port and address in network order, 8 zero bytes (RFC 3493 3.3)."""
    made = client_data.sockaddr(("192.0.2.7", 5684))
    assert made == struct.pack("=H", socket.AF_INET) + bytes.fromhex("1634c0000207") + bytes(8)


def test_sockaddr_in6_holds_flowinfo_and_scope() -> None:
    """Flow information in network order, the scope in host order (RFC 3493 3.3)."""
    made = client_data.sockaddr(("fe80::1", 5684, 0xABCDE, 7))
    assert made == (
        struct.pack("=H", socket.AF_INET6)
        + bytes.fromhex("1634 000abcde fe80 0000 0000 0000 0000 0000 0000 0001")
        + struct.pack("=I", 7)
    )


@pytest.mark.parametrize("address", [("192.0.2.7", 5684), ("2001:db8::7", 5684, 0, 0)])
def test_sockaddr_storage_is_sockaddr_and_zeros(address: Any) -> None:
    """128 bytes: what a server gets that clears the struct and lets recvfrom fill it."""
    made = client_data.sockaddr_storage(address)
    assert len(made) == 128
    assert made == client_data.sockaddr(address) + bytes(128 - len(client_data.sockaddr(address)))


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (("192.0.2.7", 5684), b"192.0.2.7:5684"),
        (("0.0.0.0", 0), b"0.0.0.0:0"),
        (("2001:0db8:0:0:0:0:0:0007", 65535), b"[2001:db8::7]:65535"),
        (("::1", 1, 5, 6), b"[::1]:1"),
        (("fe80::1%3", 1), b"[fe80::1]:1"),
        (("::ffff:192.0.2.7", 9), b"[::ffff:192.0.2.7]:9"),
    ],
)
def test_text_is_ip_and_port(address: Any, text: bytes) -> None:
    """inet_ntop's spelling, brackets around IPv6, no scope."""
    assert client_data.text(address) == text


def test_scope_is_understood_as_number_and_as_name() -> None:
    """ "%1" and "%lo" are the scope_id that the kernel would give."""
    expected = client_data.sockaddr(("fe80::1", 9, 0, 1))
    assert client_data.sockaddr(("fe80::1%1", 9)) == expected
    index, name = socket.if_nameindex()[0]
    assert client_data.sockaddr((f"fe80::1%{name}", 9)) == client_data.sockaddr(
        ("fe80::1", 9, 0, index)
    )


@pytest.mark.parametrize(
    ("family", "address"),
    [(socket.AF_INET, ("192.0.2.7", 1)), (socket.AF_INET6, ("2001:db8::7", 1))],
)
def test_family_of_the_ip_may_be_named(family: int, address: tuple[str, int]) -> None:
    """The family that it has anyway changes nothing."""
    for layout in LAYOUTS:
        assert layout(address, family) == layout(address) == layout(address, None)


@pytest.mark.parametrize(
    "address",
    [
        ("localhost", 1),
        ("", 1),
        ("1.2.3", 1),
        ("1.2.3.4.5", 1),
        ("01.2.3.4", 1),
        (" 1.2.3.4", 1),
        ("1.2.3.4\0", 1),
        ("::g", 1),
        ("[::1]", 1),
        ("1.2.3.4", 1, 0, 0),
        ("1.2.3.4%1", 1),
        ("fe80::1%no such interface", 1),
        ("fe80::1%2", 1, 0, 3),
        ("fe80::1%", 1),
        ("\ud800", 1),
        ("1" * 10000, 1),
    ],
)
def test_what_is_not_a_numeric_address_is_a_value_error(address: Any) -> None:
    """No name is looked up, nothing is guessed."""
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match="address"):
            layout(address)


@pytest.mark.parametrize(
    ("address", "family"),
    [(("::1", 1), socket.AF_INET), (("1.2.3.4", 1), socket.AF_UNIX), (("1.2.3.4", 1), -1)],
)
def test_family_that_does_not_fit_is_a_value_error(address: Any, family: int) -> None:
    """IPv6 in AF_INET has no bytes; other families have no layout here."""
    for layout in LAYOUTS:
        with pytest.raises(ValueError, match=r"address|family"):
            layout(address, family)


@pytest.mark.parametrize(
    "address",
    [
        None,
        "1.2.3.4:5",
        ["1.2.3.4", 5],
        (),
        ("1.2.3.4",),
        ("::1", 1, 0, 0, 0),
        (b"1.2.3.4", 5),
        (None, 5),
        (16909060, 5),
        ("1.2.3.4", "5"),
        ("1.2.3.4", None),
        ("1.2.3.4", 5.0),
        ("::1", 5, "0", 0),
        ("::1", 5, 0, None),
    ],
)
def test_wrong_type_is_a_type_error_that_says_address(address: Any) -> None:
    """Not a tuple as the socket module gives it, or with a part of another type."""
    for layout in LAYOUTS:
        with pytest.raises(TypeError, match="address"):
            layout(address)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (("1.2.3.4", -1), "port"),
        (("1.2.3.4", 65536), "port"),
        (("1.2.3.4", 2**70), "port"),
        (("::1", 1, -1, 0), "flowinfo"),
        (("::1", 1, 2**20, 0), "flowinfo"),
        (("::1", 1, 0, -1), "scope_id"),
        (("::1", 1, 0, 2**32), "scope_id"),
        (("fe80::1%4294967296", 1), "scope_id"),
    ],
)
def test_number_that_does_not_fit_is_an_overflow_that_names_it(address: Any, name: str) -> None:
    """Where struct.pack would fail or cut, the number is named."""
    for layout in LAYOUTS:
        with pytest.raises(OverflowError, match=name):
            layout(address)


def test_different_addresses_have_different_client_data() -> None:
    """No two of many neighbours share their bytes in any layout."""
    addresses: list[Any] = [
        (f"127.0.{a}.{b}", port) for a in (0, 1) for b in (1, 2) for port in (1, 256)
    ]
    addresses += [
        (f"::{a}", port, 0, scope) for a in (1, 2) for port in (1, 256) for scope in (0, 1)
    ]
    for layout in (client_data.sockaddr, client_data.sockaddr_storage):
        assert len({layout(address) for address in addresses}) == len(addresses)
    assert len({client_data.text(address) for address in addresses}) == 8 + 4
