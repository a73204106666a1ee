"""The program in the kernel: who may load it, and frames to run it on."""

from __future__ import annotations

import functools
import ipaddress
import struct

import pytest

from gnutls_cookie.xdp import XdpError, XdpGate

DROP, PASS, TX = 1, 2, 3  # enum xdp_action of linux/bpf.h
SERVER_MAC, CLIENT_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")


def xdp_required() -> None:
    """Skip where the program was not built, or cannot be loaded by this user or kernel.

    REQUIRE_PEERS=1 asks for programs; it cannot ask for another kernel.
    """
    reason = _why_not()
    if reason:
        pytest.skip(reason)


@functools.cache
def _why_not() -> str:
    try:
        XdpGate([1]).close()
    except XdpError as error:
        return str(error)
    return ""


def frame(
    datagram: bytes,
    source: tuple[str, int] = ("10.1.2.3", 40000),
    destination: tuple[str, int] = ("10.9.9.9", 5684),
) -> bytes:
    """A UDP datagram as it comes from Ethernet, with right checksums."""
    there, here = ipaddress.ip_address(destination[0]), ipaddress.ip_address(source[0])
    length = 8 + len(datagram)
    udp = struct.pack("!HHHH", source[1], destination[1], length, 0) + datagram
    pseudo = here.packed + there.packed + struct.pack("!IxxxB", length, 17)
    udp = udp[:6] + struct.pack("!H", checksum(pseudo + udp) or 0xFFFF) + udp[8:]
    if here.version == 4:
        kind = b"\x08\x00"
        fields = 0x45, 0, 20 + length, 1, 0, 64, 17, 0, here.packed, there.packed
        head = struct.pack("!BBHHHBBH4s4s", *fields)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    else:
        kind = b"\x86\xdd"
        head = struct.pack("!IHBB16s16s", 6 << 28, length, 17, 64, here.packed, there.packed)
    return SERVER_MAC + CLIENT_MAC + kind + head + udp


def checksum(data: bytes) -> int:
    """The one of IP and UDP (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram_in(sent: bytes) -> bytes:
    """What a frame carries, with VLAN tags or without."""
    at = 12
    while sent[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
        at += 4
    return sent[at + 2 + (20 if sent[at] == 8 else 40) + 8 :]


def answer(datagram: bytes, client: tuple[str, int], server: tuple[str, int]) -> bytes:
    """The frame that carries a reply back: RFC 6864's atomic datagram, of 64 hops."""
    sent = bytearray(frame(datagram, server, client))
    sent[:12] = CLIENT_MAC + SERVER_MAC
    if sent[12] == 8:
        sent[18:22] = b"\0\0\x40\0"
        sent[24:26] = bytes(2)
        sent[24:26] = struct.pack("!H", checksum(bytes(sent[14:34])))
    return bytes(sent)


def tagged(sent: bytes, tags: bytes) -> bytes:
    """A frame with VLAN tags, 4 bytes each."""
    return sent[:12] + tags + sent[12:]
