"""What an implementation may treat specially: the classes that the cases are drawn from.

Each class is a list, or a table of functions, and scenes.py deals all of it out like a pack of
cards: every entry comes up within one block of cases, whatever the seed. To close a blind spot, add
an entry here. tests/differential/test_classes.py counts them.
"""

from __future__ import annotations

import hashlib
import hmac
import random
import socket
import struct
from collections.abc import Callable
from functools import partial

__all__ = [
    "CLIENTS",
    "COOKIES_THAT",
    "ENDS",
    "FIELDS",
    "FILLINGS",
    "LARGE_SIZES",
    "LENGTHS",
    "MESSAGE_SIZES",
    "MISPLACED",
    "NUMBERS",
    "PLAIN",
    "PRESENTED",
    "PUSHED",
    "RELATED",
    "SESSION_ID_SIZES",
    "SIZES",
    "Presented",
]

_HASH_BLOCK_SIZE = 64  # bytes, of SHA-1 (RFC 2104)
_SIZE_MAX = 65535  # bytes

# --- sizes ----------------------------------------------------------------------------------------

#: Powers of two and their neighbours: limits of tables, and of 7, 8, 15 and 16 bits.
_POWERS = sorted(
    {(1 << n) + more for n in range(17) for more in (-1, 0, 1) if (1 << n) + more <= _SIZE_MAX}
)
#: Decimal limits, and the usual sizes of packets and buffers.
_ROUND = (10, 100, 200, 300, 500, 1000, 1200, 1280, 1400, 1460, 1472, 1500, 2000)

#: Of a key and of client_data, in bytes. Twice each remainder of a hash block: below and above it.
SIZES = sorted(
    {*range(2 * _HASH_BLOCK_SIZE + 2), *_ROUND, *(one for one in _POWERS if one <= 2049)}
)
#: The rest of them: hashing takes long, so that they come up less often.
LARGE_SIZES = [one for one in (*_POWERS, 9000, 10000, 20000, 40000, 50000) if one > 2049]
#: Of a datagram.
MESSAGE_SIZES = sorted({*range(161), *_ROUND, *_POWERS})
#: Of a session id; RFC 5246 7.4.1.2 allows 32.
SESSION_ID_SIZES = [*range(41), 48, 63, 64, 65, 100, 127, 128, 129, 200, 239, 240, 253, 254, 255]
#: Where a datagram may end: sizes of session id and cookie, and bytes behind the cookie.
ENDS = [
    (session_id, cookie, behind)
    for session_id in (0, 1, 16, 31, 32, 33)
    for cookie in (0, 1, 8, 15, 16, 17, 20, 32)
    for behind in (-2, -1, 0, 1, 2)
]

# --- contents -------------------------------------------------------------------------------------

#: What a key or client_data of a size may be made of.
FILLINGS: dict[str, Callable[[random.Random, int], bytes]] = {
    "zeros": lambda chance, size: bytes(size),
    "ones": lambda chance, size: b"\xff" * size,
    "inner pad": lambda chance, size: b"\x36" * size,
    "outer pad": lambda chance, size: b"\x5c" * size,
    "text": lambda chance, size: bytes(chance.choices(range(0x21, 0x7F), k=size)),
    "letters": lambda chance, size: bytes(chance.choices(b"abcXYZ", k=size)),
    "hexadecimal": lambda chance, size: chance.randbytes(size // 2 + 1).hex().encode()[:size],
    "high bytes": lambda chance, size: bytes(chance.choices(range(0x80, 0x100), k=size)),
    "zero at the start": lambda chance, size: chance.randbytes(size).join((b"\0", b""))[:size],
    "zero at the end": lambda chance, size: chance.randbytes(size)[1:] + bytes(size > 0),
    "zeros at the end": lambda chance, size: chance.randbytes(size // 2).ljust(size, b"\0"),
    "zeros at the start": lambda chance, size: chance.randbytes(size // 2).rjust(size, b"\0"),
    "zero within": lambda chance, size: _with(chance.randbytes(size), size // 2, 0),
    "line end at the end": lambda chance, size: _with(chance.randbytes(size), size - 1, 10),
    "space at the end": lambda chance, size: _with(chance.randbytes(size), size - 1, 32),
    "space at the start": lambda chance, size: _with(chance.randbytes(size), 0, 32),
    "one byte repeated": lambda chance, size: chance.randbytes(1) * size,
    "two halves alike": lambda chance, size: (chance.randbytes(size // 2 + 1) * 2)[:size],
}


def _with(data: bytes, place: int, byte: int) -> bytes:
    if not data:
        return data
    place %= len(data)
    return data[:place] + bytes([byte]) + data[place + 1 :]


# Addresses that are special, or of a kind that is.
_IPV4 = {
    one: socket.inet_pton(socket.AF_INET, one)
    for one in ("127.0.0.1", "192.0.2.1", "10.0.0.1", "0.0.0.0", "255.255.255.255", "169.254.0.1",
                "224.0.0.1")
}  # fmt: skip
_IPV6 = {
    one: socket.inet_pton(socket.AF_INET6, one)
    for one in ("::1", "::", "fe80::1", "2001:db8::1", "::ffff:127.0.0.1", "::127.0.0.1",
                "64:ff9b::1", "fd00::1", "ff02::1")
}  # fmt: skip


def _ipv4(chance: random.Random) -> bytes:
    return chance.choice([*_IPV4.values()]) if chance.random() < 0.4 else chance.randbytes(4)


def _ipv6(chance: random.Random) -> bytes:
    return chance.choice([*_IPV6.values()]) if chance.random() < 0.6 else chance.randbytes(16)


def _port(chance: random.Random) -> bytes:
    return struct.pack("!H", chance.choice((0, 1, 255, 256, 5683, 5684, 32767, 32768, 65535)))


def _in(chance: random.Random, padding: bytes = bytes(8), address: bytes = b"") -> bytes:
    return b"\2\0" + _port(chance) + (address or _ipv4(chance)) + padding


def _in6(chance: random.Random, address: bytes = b"", flow: bytes = bytes(4),
         scope: bytes = bytes(4)) -> bytes:  # fmt: skip
    return b"\x0a\0" + _port(chance) + flow + (address or _ipv6(chance)) + scope


def _text(chance: random.Random, form: str = "{}:{}") -> bytes:
    host = socket.inet_ntop(socket.AF_INET, _ipv4(chance))
    return form.format(host, int.from_bytes(_port(chance), "big")).encode()


def _text6(chance: random.Random, form: str = "[{}]:{}") -> bytes:
    host = socket.inet_ntop(socket.AF_INET6, _ipv6(chance))
    return form.format(host, int.from_bytes(_port(chance), "big")).encode()


#: client_data as servers have it: the kernel's sockaddrs (Linux, little-endian), and texts.
CLIENTS: dict[str, Callable[[random.Random], bytes]] = {
    "sockaddr_in": _in,
    "sockaddr_in, padding not zero": lambda chance: _in(chance, chance.randbytes(8)),
    "sockaddr_in without padding": lambda chance: _in(chance, b""),
    "sockaddr_in of BSD": lambda chance: b"\x10\2" + _in(chance)[2:],
    "sockaddr_in, big-endian": lambda chance: b"\0\2" + _in(chance)[2:],
    "sockaddr_in6": _in6,
    "sockaddr_in6, flow label": lambda chance: _in6(chance, flow=chance.randbytes(4)),
    "sockaddr_in6, scope": lambda chance: _in6(chance, scope=b"\2\0\0\0"),
    "sockaddr_in6, IPv4-mapped": lambda chance: _in6(
        chance, bytes(10) + b"\xff\xff" + _ipv4(chance)
    ),
    "sockaddr_in6 without scope": lambda chance: _in6(chance, scope=b""),
    "sockaddr_storage": lambda chance: _in(chance).ljust(128, b"\0"),
    "sockaddr_storage, IPv6": lambda chance: _in6(chance).ljust(128, b"\0"),
    "sockaddr_storage, tail not zero": lambda chance: _in(chance) + chance.randbytes(112),
    "sockaddr_un": lambda chance: b"\1\0" + b"/run/dtls.sock".ljust(108, b"\0"),
    "sockaddr_un, abstract": lambda chance: b"\1\0\0dtls",
    "sockaddr_ll": lambda chance: b"\x11\0" + chance.randbytes(18),
    "address alone": _ipv4,
    "IPv6 address alone": _ipv6,
    "address and port": lambda chance: _ipv4(chance) + _port(chance),
    "text": _text,
    "text, IPv6": _text6,
    "text, zone": lambda chance: _text6(chance, "[{}%eth0]:{}"),
    "text, IPv6 in capitals": lambda chance: _text6(chance).upper(),
    "text, line end": lambda chance: _text(chance, "{}:{}\n"),
    "text, spaces": lambda chance: _text(chance, " {} {} "),
    "text, zero at the end": lambda chance: _text(chance) + b"\0",
    "text of Python": lambda chance: _text(chance, "('{}', {})"),
    "text, host alone": lambda chance: _text(chance, "{}"),
    "text, JSON": lambda chance: _text(chance, '{{"host": "{}", "port": {}}}'),
    "text, name": lambda chance: b"Client-%d.Example.ORG:5684" % chance.randrange(1000),
    "text, UTF-8": lambda chance: "gerät-%d".encode() % chance.randrange(1000),
    "text, not UTF-8": lambda chance: b"ger\xe4t-%d" % chance.randrange(1000),
    "text, format": lambda chance: b"%s%n%d-" + chance.randbytes(1).hex().encode(),
    "number": lambda chance: str(chance.getrandbits(40)).encode(),
    "one byte": lambda chance: chance.randbytes(1),
}
CLIENTS |= {f"sockaddr_in, {name}": partial(_in, address=one) for name, one in _IPV4.items()}
CLIENTS |= {f"sockaddr_in6, {name}": partial(_in6, address=one) for name, one in _IPV6.items()}

#: A prestate's numbers, and what a narrower or a signed type would make of them.
NUMBERS = (0, 0, 0, 1, 2, 127, 128, 254, 255, 256, 257, 32767, 32768, 65535, 65536,
           2**24, 2**31 - 1, 2**31, 2**32 - 256, 2**32 - 2, 2**32 - 1)  # fmt: skip

# --- cookies --------------------------------------------------------------------------------------


def _flipped(mac: bytes, *bits: int) -> bytes:
    found = bytearray(mac[:16])
    for bit in bits:
        found[bit // 8] ^= 128 >> bit % 8
    return bytes(found)


def _moved(mac: bytes, place: int, more: int) -> bytes:
    """Two bytes changed so that the sum of all stays the same."""
    found = bytearray(mac[:16])
    found[place] = (found[place] + more) % 256
    found[place + 1] = (found[place + 1] - more) % 256
    return bytes(found)


def _swapped(mac: bytes, one: int, other: int) -> bytes:
    found = bytearray(mac[:16])
    found[one], found[other] = found[other], found[one]
    return bytes(found)


def _after_zero(mac: bytes) -> bytes:
    """The same up to its first zero byte, and that one: equal for strcmp()."""
    end = mac.find(b"\0", 0, 15) + 1 or 15
    return mac[:end] + _complement(mac[end:16])


#: Makes what stands in the place of a cookie, of key, client_data and all 20 bytes of the MAC.
Presented = Callable[[bytes, bytes, bytes], bytes]

# Of a size and all 20 bytes of the MAC.
_OF_SIZE: dict[str, Callable[[int, bytes], bytes]] = {
    "first {} bytes": lambda size, mac: mac[:size],
    "first {} bytes right": lambda size, mac: mac[:size] + _complement(mac[size:16]),
    "last {} bytes right": lambda size, mac: _complement(mac[: 16 - size]) + mac[16 - size : 16],
    "zero from {} on": lambda size, mac: mac[:size].ljust(16, b"\0"),
    "shifted by {}": lambda size, mac: (mac + bytes(16))[size : size + 16],
    "rotated by {}": lambda size, mac: mac[size:16] + mac[:size],
    "behind {} bytes": lambda size, mac: b"\xaa" * size + mac[:16],
    "before {} bytes": lambda size, mac: mac[:16] + b"\xaa" * size,
    "sum kept at {}": lambda size, mac: _moved(mac, size - 1, 1),
    "swapped at {}": lambda size, mac: _swapped(mac, size - 1, size),
}
_OF_LARGE_SIZE: dict[str, Callable[[int, bytes], bytes]] = {
    "{} zeros": lambda size, mac: bytes(size),
    "{} ones": lambda size, mac: b"\xff" * size,
    "padded to {}": lambda size, mac: mac[:16].ljust(size, b"\0")[:size],
    "at the end of {}": lambda size, mac: mac[:16].rjust(size, b"\0")[:size],
    "in the middle of {}": lambda size, mac: mac[:16].center(size, b"\x16")[:size],
}


def _of_mac(made: Callable[[int, bytes], bytes], number: int) -> Presented:
    return lambda key, who, mac: made(number, mac)


def _complement(data: bytes) -> bytes:
    return bytes(one ^ 0xFF for one in data)


def _presented() -> dict[str, Presented]:
    """What a hello may hold for a cookie, of key, client_data and all 20 bytes of the MAC."""
    found: dict[str, Presented] = {}

    def add(name: str, made: Callable[[int, bytes], bytes], *numbers: int) -> None:
        for number in numbers:
            found[name.format(number)] = _of_mac(made, number)

    for name, made in _OF_SIZE.items():
        add(name, made, *range(1, 16))
    for name, made in _OF_LARGE_SIZE.items():
        add(name, made, 15, 17, 31, 32, 33, 64, 127, 128, 129, 254, 255)
    add("{} zeros", _OF_LARGE_SIZE["{} zeros"], 16)
    add("{} ones", _OF_LARGE_SIZE["{} ones"], 16)
    add("bit {}", lambda number, mac: _flipped(mac, number), *range(128))
    # The same bit of two bytes: lost where a comparison sums up XORs by XOR.
    add("two bits, {} and 8 more", lambda number, mac: _flipped(mac, number, number + 8),
        *range(0, 120, 7))  # fmt: skip
    add("{} bytes of the MAC", lambda number, mac: mac[:number], 17, 18, 19, 20)
    add("{} times", lambda number, mac: mac[:16] * number, 2, 3, 4, 15)
    found |= {
        "empty": lambda key, who, mac: b"",
        "last 16 bytes of the MAC": lambda key, who, mac: mac[4:],
        "first half twice": lambda key, who, mac: mac[:8] * 2,
        "second half twice": lambda key, who, mac: mac[8:16] * 2,
        "halves swapped": lambda key, who, mac: mac[8:16] + mac[:8],
        "backwards": lambda key, who, mac: mac[:16][::-1],
        "words of 32 bits backwards": lambda key, who, mac: b"".join(
            mac[at : at + 4][::-1] for at in range(0, 16, 4)
        ),
        "words of 16 bits backwards": lambda key, who, mac: b"".join(
            mac[at : at + 2][::-1] for at in range(0, 16, 2)
        ),
        "words in another order": lambda key, who, mac: mac[12:16] + mac[8:12] + mac[4:8] + mac[:4],
        "sorted": lambda key, who, mac: bytes(sorted(mac[:16])),
        "nibbles swapped": lambda key, who, mac: bytes(
            one >> 4 | one << 4 & 0xF0 for one in mac[:16]
        ),
        "complement": lambda key, who, mac: _complement(mac[:16]),
        "without the high bits": lambda key, who, mac: bytes(one & 0x7F for one in mac[:16]),
        "plus one": lambda key, who, mac: ((int.from_bytes(mac[:16], "big") + 1) % 2**128).to_bytes(
            16, "big"
        ),
        "equal until a zero byte": lambda key, who, mac: _after_zero(mac),
        "in capitals": lambda key, who, mac: mac[:16].upper(),
        "in small letters": lambda key, who, mac: mac[:16].lower(),
        "hexadecimal": lambda key, who, mac: mac[:16].hex().encode(),
        "hexadecimal, half of it": lambda key, who, mac: mac[:8].hex().encode(),
        "without zeros at its end": lambda key, who, mac: mac[:16].rstrip(b"\0"),
        "without zeros at its start": lambda key, who, mac: mac[:16].lstrip(b"\0"),
        "with its length before it": lambda key, who, mac: b"\x10" + mac[:15],
        "by MD5": lambda key, who, mac: hmac.digest(key, who, "md5"),
        "by SHA-256": lambda key, who, mac: hmac.digest(key, who, "sha256")[:16],
        "by SHA-512": lambda key, who, mac: hmac.digest(key, who, "sha512")[:16],
        "all of SHA-256": lambda key, who, mac: hmac.digest(key, who, "sha256"),
        "hash of key and client_data": lambda key, who, mac: hashlib.sha1(key + who).digest()[:16],
        "hash of client_data and key": lambda key, who, mac: hashlib.sha1(who + key).digest()[:16],
        "hash of client_data": lambda key, who, mac: hashlib.sha1(who).digest()[:16],
        "MAC of the MAC": lambda key, who, mac: hmac.digest(key, mac, "sha1")[:16],
        "MAC of the cookie": lambda key, who, mac: hmac.digest(key, mac[:16], "sha1")[:16],
        "the key": lambda key, who, mac: key[:16],
        "client_data": lambda key, who, mac: who[:16],
        "under an empty key": lambda key, who, mac: hmac.digest(b"", who, "sha1")[:16],
        "of empty client_data": lambda key, who, mac: hmac.digest(key, b"", "sha1")[:16],
        "under a key of zeros": lambda key, who, mac: hmac.digest(bytes(16), who, "sha1")[:16],
    }
    return found


PRESENTED = _presented()

#: Those that a comparison takes for the right one where that begins or ends in a way of its own.
PLAIN = [
    PRESENTED[name]
    for name in ("16 zeros", "16 ones", "15 zeros", "17 zeros", "empty", "first 1 bytes right",
                 "last 1 bytes right", "first 15 bytes", "equal until a zero byte",
                 "without zeros at its end", "without zeros at its start", "in capitals",
                 "in small letters", "without the high bits")
]  # fmt: skip

#: What a right cookie may look like by itself: a client is sought for which it does.
COOKIES_THAT: dict[str, Callable[[bytes], bool]] = {
    "begin with zero": lambda mac: mac[0] == 0,
    "end with zero": lambda mac: mac[15] == 0,
    "hold a zero": lambda mac: 0 in mac[1:15],
    "begin with white space": lambda mac: mac[:1].isspace(),
    "end with white space": lambda mac: mac[15:16].isspace(),
    "begin with ff": lambda mac: mac[0] == 255,
    "end with ff": lambda mac: mac[15] == 255,
    "begin as a length": lambda mac: mac[0] == 16,
    "have two equal bytes at their end": lambda mac: mac[14] == mac[15],
}

# --- relations between calls ----------------------------------------------------------------------

_Pair = tuple[bytes, bytes]


_Other = Callable[[random.Random, bytes], bytes]

# Other bytes than these, of a key or of client_data.
_OTHERS: dict[str, _Other] = {
    "same size": lambda chance, data: chance.randbytes(max(len(data), 1)),
    "another": lambda chance, data: chance.randbytes(16),
    "without its last byte": lambda chance, data: data[:-1],
    "without its first byte": lambda chance, data: data[1:],
    "its first half": lambda chance, data: data[: len(data) // 2],
    "its second half": lambda chance, data: data[len(data) // 2 :],
    "and a zero": lambda chance, data: data + b"\0",
    "behind a zero": lambda chance, data: b"\0" + data,
    "zeros up to 64": lambda chance, data: data.ljust(64, b"\0"),
    "zeros up to 128": lambda chance, data: data.ljust(128, b"\0"),
    "without zeros at its end": lambda chance, data: data.rstrip(b"\0"),
    "without zeros at its start": lambda chance, data: data.lstrip(b"\0"),
    "up to a zero": lambda chance, data: data.partition(b"\0")[0],
    "without white space around it": lambda chance, data: data.strip(),
    "and a line end": lambda chance, data: data + b"\n",
    "and a byte": lambda chance, data: data + chance.randbytes(1),
    "and 64 bytes": lambda chance, data: data + chance.randbytes(64),
    "twice": lambda chance, data: data * 2 if len(data) < 4096 else data,
    "backwards": lambda chance, data: data[::-1],
    "sorted": lambda chance, data: bytes(sorted(data)),
    "in capitals": lambda chance, data: data.upper(),
    "in small letters": lambda chance, data: data.lower(),
    "without high bits": lambda chance, data: bytes(one & 0x7F for one in data[:256]),
    "hexadecimal": lambda chance, data: data[:256].hex().encode(),
    "its hash": lambda chance, data: hashlib.sha1(data).digest(),
    "a byte changed": lambda chance, data: _changed(chance, data, chance.randrange(65536)),
    "first and last byte swapped": lambda chance, data: (
        data[-1:] + data[1:-1] + data[:1] if len(data) > 1 else data
    ),
}
_OTHERS_OF_SIZE: dict[str, Callable[[random.Random, bytes, int], bytes]] = {
    "its first {} bytes": lambda chance, data, size: data[:size],
    "its first {} bytes the same": lambda chance, data, size: (
        data[:size] + chance.randbytes(len(data[size:]))
    ),
    "its last {} bytes the same": lambda chance, data, size: (
        chance.randbytes(len(data[:-size])) + data[-size:]
    ),
}


def _changed(chance: random.Random, data: bytes, place: int) -> bytes:
    if not data:
        return data
    place %= len(data)
    return _with(data, place, data[place] ^ 1 << chance.randrange(8))


def _others() -> dict[str, _Other]:
    found = dict(_OTHERS)

    def add(name: str, made: Callable[[random.Random, bytes, int], bytes], number: int) -> None:
        found[name.format(number)] = lambda chance, data: made(chance, data, number)

    for name, made in _OTHERS_OF_SIZE.items():
        for size in 4, 8, 16, 20, 32, 64:
            add(name, made, size)
    for place in 0, 1, 2, 3, 7, 15, -1, -2:
        add("byte {} changed", _changed, place)
    return found


def _related() -> dict[str, Callable[[random.Random, bytes, bytes], _Pair]]:
    """Another key, another client, or both, that a cache or a short look may take for the same."""
    found: dict[str, Callable[[random.Random, bytes, bytes], _Pair]] = {}

    def add(name: str, made: _Other) -> None:
        found[f"key: {name}"] = lambda chance, key, who: (made(chance, key), who)
        found[f"client_data: {name}"] = lambda chance, key, who: (key, made(chance, who))

    for name, made in _others().items():
        add(name, made)
    found |= {
        "a byte from the key to client_data": lambda chance, key, who: (
            key[:-1], key[-1:] + who,
        ),
        "a byte from client_data to the key": lambda chance, key, who: (key + who[:1], who[1:]),
        "key and client_data swapped": lambda chance, key, who: (who, key),
        "another key and client": lambda chance, key, who: (
            chance.randbytes(len(key) or 1), chance.randbytes(len(who)),
        ),
        "client_data: empty": lambda chance, key, who: (key, b""),
        "client_data: another port": lambda chance, key, who: (
            key, who[:2] + chance.randbytes(2) + who[4:],
        ),
        "client_data: another address": lambda chance, key, who: (
            key, who[:4] + chance.randbytes(4) + who[8:],
        ),
        "client_data: the key": lambda chance, key, who: (key, key),
        "the key added to client_data": lambda chance, key, who: (key, key + who),
    }  # fmt: skip
    return found


RELATED = _related()

# --- datagrams ------------------------------------------------------------------------------------


def _fields() -> list[tuple[int, bytes]]:
    """Offset and new bytes: values of header fields (RFC 6347 4.1, 4.2.2; RFC 5246 7.4)."""
    found: list[tuple[int, bytes]] = []
    found += [
        (0, bytes([kind])) for kind in (0, 1, 19, 20, 21, 22, 23, 24, 25, 26, 32, 63, 254, 255)
    ]
    versions = (0x0000, 0x0001, 0x0100, 0x0200, 0x0300, 0x0301, 0x0302, 0x0303, 0x0304, 0xFE00,
                0xFEFB, 0xFEFC, 0xFEFD, 0xFEFE, 0xFEFF, 0xFFFF, 0xFFFE, 0x16FE)  # fmt: skip
    found += [(place, struct.pack("!H", one)) for place in (1, 25) for one in versions]
    numbers = (0, 1, 2, 127, 128, 254, 255, 256, 257, 0x7FFF, 0x8000, 0xFF00, 0xFFFE, 0xFFFF)
    found += [(place, struct.pack("!H", one)) for place in (3, 17) for one in numbers]
    sequences = [*numbers, 2**16, 2**24 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1,
                 2**40, 2**47, 2**48 - 2, 2**48 - 1]  # fmt: skip
    found += [(5, one.to_bytes(6, "big")) for one in sequences]
    found += [(10, bytes([one])) for one in range(256)]
    found += [(18, bytes([one])) for one in range(256)]
    found += [(13, bytes([kind])) for kind in (*range(26), 67, 127, 128, 254, 255)]
    sizes = (0, 1, 11, 12, 13, 255, 256, 2**14 - 1, 2**14, 2**14 + 1, 2**15 - 1, 2**15, 2**16 - 1)
    found += [(11, struct.pack("!H", one)) for one in sizes]
    found += [
        (place, one.to_bytes(3, "big"))
        for place in (14, 19, 22)
        for one in (*sizes, 2**16, 2**23, 2**24 - 1)
    ]
    randoms = (
        bytes(32), b"\xff" * 32, bytes(range(32)), bytes(28) + b"\1\2\3\4", b"\x11" * 32,
        hashlib.sha256(b"HelloRetryRequest").digest(),  # RFC 8446 4.1.3
        b"\x5a" * 24 + b"DOWNGRD\x01", b"\x5a" * 24 + b"DOWNGRD\x00",
    )  # fmt: skip
    found += [(27, one) for one in randoms]
    found += [(place, b"\0") for place in range(59)]
    found += [(place, b"\xff") for place in range(59)]
    return found


FIELDS = _fields()

#: Offset, size and difference: a length field that says more or less than there is.
LENGTHS = [
    (place, size, more)
    for place, size in ((11, 2), (14, 3), (22, 3))
    for more in (-64, -25, -17, -16, -13, -12, -2, -1, 1, 2, 12, 13, 16, 17, 25, 64, 256)
]


def _misplaced() -> dict[str, Callable[[bytes, bytes], bytes]]:
    """Hellos of a head (59 bytes) and a good cookie, which is not where it should be."""
    wrong = bytes(16)
    rest = bytes.fromhex("0002c02b0100")
    return {
        "in the random": lambda head, good: head[:27] + good + head[43:59] + b"\0\0" + rest,
        "in the random, a wrong one in its place": lambda head, good: (
            head[:43] + good + b"\0\x10" + wrong + rest
        ),
        "in the session id": lambda head, good: head + b"\x10" + good + b"\0" + rest,
        "in the session id, a wrong one in its place": lambda head, good: (
            head + b"\x10" + good + b"\x10" + wrong + rest
        ),
        "in both": lambda head, good: head + b"\x10" + good + b"\x10" + good + rest,
        "in a session id of 32": lambda head, good: (
            head + b"\x20" + good + good + b"\x10" + wrong + rest
        ),
        "behind an empty cookie": lambda head, good: head + b"\0\0" + good + rest,
        "behind a wrong cookie": lambda head, good: head + b"\0\x10" + wrong + good + rest,
        "with its length behind a wrong cookie": lambda head, good: (
            head + b"\0\x10" + wrong + b"\x10" + good + rest
        ),
        "one byte early": lambda head, good: head + b"\0" + good + rest + bytes(16),
        "one byte late": lambda head, good: head + b"\0\x10\0" + good + rest,
        "a length of two bytes": lambda head, good: head + b"\0\0\x10" + good + rest,
        "no session id": lambda head, good: head + b"\x10" + good + rest,
        "at the end": lambda head, good: head + b"\0\x10" + wrong + rest + good,
        "at byte 44 as in a HelloVerifyRequest": lambda head, good: (
            head[:28] + good + head[44:59] + b"\0\0" + rest
        ),
        "said to be longer": lambda head, good: head + b"\0\x11" + good + rest,
        "said to be shorter": lambda head, good: head + b"\0\x0f" + good + rest,
        "said to have 255 bytes": lambda head, good: head + b"\0\xff" + good + bytes(300),
        "said to have 144 bytes": lambda head, good: head + b"\0\x90" + good + bytes(300),
        "session id of 33": lambda head, good: head + b"\x21" + bytes(33) + b"\x10" + good + rest,
        "session id of 128": lambda head, good: head + b"\x80" + bytes(128) + b"\x10" + good + rest,
        "session id of 255": lambda head, good: head + b"\xff" + bytes(255) + b"\x10" + good + rest,
    }


MISPLACED = _misplaced()


def _pushed() -> list[int]:
    """Results of push: small ones, errors of others, and what a narrower type makes of the rest."""
    found = {*range(-260, 70), 100, 127, 128, 255, 256, 1500, 65535, 65536}
    for n in range(64):
        for near in -45, -44, -2, -1, 0, 1, 2, 44, 45:
            found |= {(1 << n) + near, -(1 << n) + near}
    for high in 1, 2, -1, 2**16, -(2**31), 2**31 - 1:  # the low half decides
        for low in 0, 1, 43, 44, 45, 2**31 - 1, 2**31, 2**32 - 1:
            found.add((high << 32) + low)
    return sorted(one for one in found if -(2**63) <= one < 2**63)


PUSHED = _pushed()
