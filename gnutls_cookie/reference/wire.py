"""The messages of the cookie exchange, to bytes and back (RFC 6347 4.1, 4.2.1, 4.2.2).

Only the grammar is judged here: sizes, lengths that agree, nothing left over. What a value means
(is this version spoken? is this the right cookie?) is for the reader of the decoded message.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# ContentType, RFC 5246 6.2.1.
CONTENT_CHANGE_CIPHER_SPEC = 20
CONTENT_ALERT = 21
CONTENT_HANDSHAKE = 22
CONTENT_APPLICATION_DATA = 23

# HandshakeType, RFC 5246 7.4 and RFC 6347 4.3.2.
CLIENT_HELLO = 1
SERVER_HELLO = 2
HELLO_VERIFY_REQUEST = 3

# ProtocolVersion: the one's complement of 1.0 (RFC 4347 4.1) and of 1.2 (RFC 6347 4.1). 0.9 is
# OpenSSL's from before the RFCs (DTLS1_BAD_VER); libgnutls knows it (lib/algorithms/protocols.c).
DTLS_1_0 = 0xFEFF
DTLS_1_2 = 0xFEFD
DTLS_0_9 = 0x0100
VERSIONS = frozenset({DTLS_1_0, DTLS_1_2, DTLS_0_9})

# Sizes, in bytes.
RECORD_HEADER_SIZE = 13  # DTLSPlaintext before its fragment, RFC 6347 4.1
MAX_RECORD_LENGTH = 2**14  # DTLSPlaintext.length, RFC 6347 4.1
HANDSHAKE_HEADER_SIZE = 12  # Handshake before its body, RFC 6347 4.2.2
RANDOM_SIZE = 32  # Random, RFC 5246 7.4.1.2
MAX_SESSION_ID_SIZE = 32  # SessionID<0..32>, RFC 5246 7.4.1.2
MAX_COOKIE_SIZE = 255  # cookie<0..2^8-1>, RFC 6347 4.2.1 (32 in DTLS 1.0, RFC 4347)

#: ``(extension_type, extension_data)`` in wire order, RFC 5246 7.4.1.4; None where the hello ends
#: before the length of the extensions, which is not the same bytes as an empty list of them.
Extensions = Sequence[tuple[int, bytes]] | None


class WireError(ValueError):
    """Bytes that are not the message they are read as, or a value that its field cannot hold."""


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The 13 bytes in front of every record (DTLSPlaintext, RFC 6347 4.1).

    Attributes:
        content_type: 8 bits.
        version: 16 bits, e.g. ``DTLS_1_0``.
        epoch: 16 bits; 0 until the first ChangeCipherSpec.
        record_seq: sequence_number, 48 bits.
        length: bytes that follow in this record, 16 bits.
    """

    content_type: int
    version: int
    epoch: int
    record_seq: int
    length: int

    def encode(self) -> bytes:
        """Return the 13 bytes.

        Raises:
            WireError: a value does not fit its field.
        """
        return (
            _uint("content_type", self.content_type, 1)
            + _uint("version", self.version, 2)
            + _uint("epoch", self.epoch, 2)
            + _uint("record_seq", self.record_seq, 6)
            + _uint("record length", self.length, 2)
        )

    @classmethod
    def decode(cls, data: bytes) -> RecordHeader:
        """Read the header at the start of ``data``; what follows it is not looked at.

        Raises:
            WireError: fewer than 13 bytes.
        """
        reader = _Reader(data)
        return cls(
            content_type=reader.uint("content_type", 1),
            version=reader.uint("version", 2),
            epoch=reader.uint("epoch", 2),
            record_seq=reader.uint("record_seq", 6),
            length=reader.uint("record length", 2),
        )


@dataclass(frozen=True, slots=True)
class HandshakeHeader:
    """The 12 bytes in front of every handshake fragment (Handshake, RFC 6347 4.2.2).

    Attributes:
        msg_type: 8 bits.
        length: bytes of the whole message, all fragments together, 24 bits.
        message_seq: number of the message in this handshake, 16 bits.
        fragment_offset: bytes of the message in earlier fragments, 24 bits.
        fragment_length: bytes of the message in this fragment, 24 bits.
    """

    msg_type: int
    length: int
    message_seq: int
    fragment_offset: int
    fragment_length: int

    def encode(self) -> bytes:
        """Return the 12 bytes.

        Raises:
            WireError: a value does not fit its field.
        """
        return (
            _uint("msg_type", self.msg_type, 1)
            + _uint("message length", self.length, 3)
            + _uint("message_seq", self.message_seq, 2)
            + _uint("fragment_offset", self.fragment_offset, 3)
            + _uint("fragment_length", self.fragment_length, 3)
        )

    @classmethod
    def decode(cls, data: bytes) -> HandshakeHeader:
        """Read the header at the start of ``data``; what follows it is not looked at.

        Raises:
            WireError: fewer than 12 bytes.
        """
        reader = _Reader(data)
        return cls(
            msg_type=reader.uint("msg_type", 1),
            length=reader.uint("message length", 3),
            message_seq=reader.uint("message_seq", 2),
            fragment_offset=reader.uint("fragment_offset", 3),
            fragment_length=reader.uint("fragment_length", 3),
        )


@dataclass(frozen=True, slots=True)
class ClientHello:
    """The body of a ClientHello (RFC 6347 4.2.1, RFC 5246 7.4.1.2), without any header.

    Attributes:
        random: 32 bytes.
        cipher_suites: 1 to 32767 numbers of 16 bits.
        client_version: 16 bits, e.g. ``DTLS_1_2``.
        session_id: 0 to 32 bytes.
        cookie: 0 to 255 bytes; empty in the first hello of an exchange.
        compression_methods: 1 to 255 bytes, one a method.
        extensions: see ``Extensions``.
    """

    random: bytes
    cipher_suites: tuple[int, ...]
    client_version: int = DTLS_1_2
    session_id: bytes = b""
    cookie: bytes = b""
    compression_methods: bytes = b"\x00"
    extensions: tuple[tuple[int, bytes], ...] | None = None

    def encode(self) -> bytes:
        """Return the body.

        Raises:
            WireError: a value does not fit its field.
        """
        if len(self.random) != RANDOM_SIZE:
            raise WireError(f"random: {len(self.random)} bytes, must be {RANDOM_SIZE}")
        body = (
            _uint("client_version", self.client_version, 2)
            + self.random
            + encode_vector("session_id", self.session_id, 1, most=MAX_SESSION_ID_SIZE)
            + encode_vector("cookie", self.cookie, 1)
            + encode_numbers("cipher_suites", self.cipher_suites)
            + encode_vector("compression_methods", self.compression_methods, 1, least=1)
        )
        if self.extensions is None:
            return body
        extensions = b"".join(
            _uint("extension_type", number, 2) + encode_vector("extension_data", data, 2)
            for number, data in self.extensions
        )
        return body + encode_vector("extensions", extensions, 2)

    @classmethod
    def decode(cls, data: bytes) -> ClientHello:
        """Read a body that fills ``data`` exactly.

        Raises:
            WireError: the body is cut short, a length is not allowed, or bytes are left over.
        """
        reader = _Reader(data)
        client_version = reader.uint("client_version", 2)
        random = reader.take("random", RANDOM_SIZE)
        session_id = reader.vector("session_id", 1, 0, MAX_SESSION_ID_SIZE)
        cookie = reader.vector("cookie", 1, 0, MAX_COOKIE_SIZE)
        suites = reader.vector("cipher_suites", 2, 2, 2**16 - 2)
        if len(suites) % 2:
            raise WireError(f"cipher_suites: {len(suites)} bytes, must be an even number")
        compression_methods = reader.vector("compression_methods", 1, 1, 2**8 - 1)
        # "The presence of extensions can be detected by determining whether there are bytes
        # following the compression_methods at the end of the ClientHello" (RFC 5246 7.4.1.2).
        extensions = None
        if not reader.at_end():
            extensions = _decode_extensions(reader.vector("extensions", 2, 0, 2**16 - 1))
            reader.finish("ClientHello")
        return cls(
            random=random,
            cipher_suites=tuple(
                int.from_bytes(suites[at : at + 2], "big") for at in range(0, len(suites), 2)
            ),
            client_version=client_version,
            session_id=session_id,
            cookie=cookie,
            compression_methods=compression_methods,
            extensions=extensions,
        )


@dataclass(frozen=True, slots=True)
class HelloVerifyRequest:
    """A HelloVerifyRequest (RFC 6347 4.2.1) with its headers: always a datagram of its own.

    Attributes:
        cookie: 0 to 255 bytes; 16 from libgnutls.
        record_seq: 48 bits; the server echoes that of the ClientHello (RFC 6347 4.2.1).
        message_seq: 16 bits.
        record_version: 16 bits.
        server_version: 16 bits. Says nothing about the version to be negotiated: a server should
            write DTLS 1.0 here and in the record, whatever it speaks (RFC 6347 4.2.1).
    """

    cookie: bytes
    record_seq: int = 0
    message_seq: int = 0
    record_version: int = DTLS_1_0
    server_version: int = DTLS_1_0

    def encode(self) -> bytes:
        """Return the datagram, 28 bytes and the cookie.

        Raises:
            WireError: a value does not fit its field.
        """
        body = _uint("server_version", self.server_version, 2)
        body += encode_vector("cookie", self.cookie, 1)
        return handshake_record(
            HELLO_VERIFY_REQUEST,
            body,
            message_seq=self.message_seq,
            record_version=self.record_version,
            record_seq=self.record_seq,
        )

    @classmethod
    def decode(cls, datagram: bytes) -> HelloVerifyRequest:
        """Read a datagram that is one HelloVerifyRequest in one record and nothing else.

        Raises:
            WireError: it is not.
        """
        record, handshake, body = _decode_whole_message(datagram, HELLO_VERIFY_REQUEST)
        reader = _Reader(body)
        server_version = reader.uint("server_version", 2)
        cookie = reader.vector("cookie", 1, 0, MAX_COOKIE_SIZE)
        reader.finish("HelloVerifyRequest")
        return cls(
            cookie=cookie,
            record_seq=record.record_seq,
            message_seq=handshake.message_seq,
            record_version=record.version,
            server_version=server_version,
        )


def client_hello(
    *,
    cookie: bytes = b"",
    session_id: bytes = b"",
    random: bytes = bytes(range(RANDOM_SIZE)),
    client_version: int = DTLS_1_2,
    record_version: int = DTLS_1_0,
    cipher_suites: Sequence[int] = (0xC02F, 0x002F),
    compression_methods: bytes = b"\x00",
    extensions: Extensions = None,
    record_seq: int = 0,
    message_seq: int = 0,
    epoch: int = 0,
) -> bytes:
    """Build a whole ClientHello datagram: one record, one handshake message, not fragmented.

    Example:
        >>> client_hello(cookie=b"sixteen bytes ok", record_seq=1, message_seq=1)[:25].hex(" ")
        '16 fe ff 00 00 00 00 00 00 00 01 00 48 01 00 00 3c 00 01 00 00 00 00 00 3c'

    Args:
        cookie: 0 to 255 bytes.
        session_id: 0 to 32 bytes.
        random: 32 bytes; the default is fixed, so that equal arguments give equal datagrams.
        client_version: the version offered, 16 bits.
        record_version: the version in the record header, 16 bits. Clients write DTLS 1.0 before
            a version is negotiated (OpenSSL) or the version offered (GnuTLS).
        cipher_suites: 1 to 32767 numbers of 16 bits.
        compression_methods: 1 to 255 bytes.
        extensions: ``(extension_type, extension_data)`` pairs, or None for a hello without.
        record_seq: 48 bits.
        message_seq: 16 bits.
        epoch: 16 bits; anything but 0 makes a hello that no server may answer.

    Returns:
        The datagram.

    Raises:
        WireError: a value does not fit its field, or the hello does not fit in one record.
    """
    (datagram,) = client_hello_fragments(
        1,
        cookie=cookie,
        session_id=session_id,
        random=random,
        client_version=client_version,
        record_version=record_version,
        cipher_suites=cipher_suites,
        compression_methods=compression_methods,
        extensions=extensions,
        record_seq=record_seq,
        message_seq=message_seq,
        epoch=epoch,
    )
    return datagram


def client_hello_fragments(
    count: int,
    *,
    cookie: bytes = b"",
    session_id: bytes = b"",
    random: bytes = bytes(range(RANDOM_SIZE)),
    client_version: int = DTLS_1_2,
    record_version: int = DTLS_1_0,
    cipher_suites: Sequence[int] = (0xC02F, 0x002F),
    compression_methods: bytes = b"\x00",
    extensions: Extensions = None,
    record_seq: int = 0,
    message_seq: int = 0,
    epoch: int = 0,
) -> list[bytes]:
    """Build one ClientHello in ``count`` datagrams, one fragment in each (RFC 6347 4.2.3).

    All fragments carry the same message_seq; each record has the next sequence number. The
    fragments are as equal in size as can be, the longer ones first.

    Args:
        count: number of datagrams, 1 to the number of bytes in the hello.
        cookie: this and all others as in ``client_hello``; record_seq is that of the first.

    Returns:
        The datagrams in order.

    Raises:
        WireError: a value does not fit its field, a fragment does not fit in one record, or the
            hello cannot be cut into that many.
    """
    body = ClientHello(
        random=random,
        cipher_suites=tuple(cipher_suites),
        client_version=client_version,
        session_id=session_id,
        cookie=cookie,
        compression_methods=compression_methods,
        extensions=None if extensions is None else tuple(extensions),
    ).encode()
    if not 1 <= count <= len(body):
        raise WireError(f"{len(body)} bytes cannot be cut into {count} fragments")
    size, longer = divmod(len(body), count)
    datagrams = []
    offset = 0
    for index in range(count):
        end = offset + size + (index < longer)
        datagrams.append(
            handshake_record(
                CLIENT_HELLO,
                body[offset:end],
                length=len(body),
                message_seq=message_seq,
                fragment_offset=offset,
                record_version=record_version,
                epoch=epoch,
                record_seq=record_seq + index,
            )
        )
        offset = end
    return datagrams


def handshake_record(
    msg_type: int,
    fragment: bytes,
    *,
    length: int | None = None,
    message_seq: int = 0,
    fragment_offset: int = 0,
    record_version: int = DTLS_1_0,
    epoch: int = 0,
    record_seq: int = 0,
) -> bytes:
    """Put a record header and a handshake header before a fragment of a handshake message.

    Args:
        msg_type: HandshakeType, 8 bits.
        fragment: 0 to 16372 bytes of the message.
        length: bytes of the whole message, 24 bits; None where the fragment is all of it.
        message_seq: 16 bits.
        fragment_offset: 24 bits.
        record_version: 16 bits.
        epoch: 16 bits.
        record_seq: 48 bits.

    Returns:
        The record.

    Raises:
        WireError: a value does not fit its field, or the fragment does not fit in one record.
    """
    record_length = HANDSHAKE_HEADER_SIZE + len(fragment)
    if record_length > MAX_RECORD_LENGTH:
        raise WireError(f"record length {record_length}, at most {MAX_RECORD_LENGTH} are allowed")
    record = RecordHeader(CONTENT_HANDSHAKE, record_version, epoch, record_seq, record_length)
    handshake = HandshakeHeader(
        msg_type=msg_type,
        length=len(fragment) if length is None else length,
        message_seq=message_seq,
        fragment_offset=fragment_offset,
        fragment_length=len(fragment),
    )
    return record.encode() + handshake.encode() + fragment


def encode_vector(
    name: str, data: bytes, prefix_size: int, *, least: int = 0, most: int | None = None
) -> bytes:
    """Encode a vector<least..most>: its length in bytes, then its bytes (RFC 5246 4.3).

    Args:
        name: of the field, for errors.
        data: the bytes of all its elements.
        prefix_size: bytes that its length is written with.
        least: bytes that it must have.
        most: bytes that it may have; None for as many as the prefix can say.

    Raises:
        WireError: it has fewer bytes or more.
    """
    _check_length(name, len(data), least, (1 << 8 * prefix_size) - 1 if most is None else most)
    return len(data).to_bytes(prefix_size, "big") + data


def encode_numbers(name: str, numbers: Iterable[int]) -> bytes:
    """Encode a vector<2..2^16-2> of 16-bit numbers, e.g. cipher suites or named groups.

    Raises:
        WireError: a number does not fit in 16 bits, or there are none, or more than 32767.
    """
    data = b"".join(_uint(name, number, 2) for number in numbers)
    return encode_vector(name, data, 2, least=2, most=2**16 - 2)


def decode_client_hello(datagram: bytes) -> tuple[RecordHeader, HandshakeHeader, ClientHello]:
    """Read a datagram that is one whole ClientHello in one record and nothing else.

    Returns:
        Both headers and the hello.

    Raises:
        WireError: it is not.
    """
    record, handshake, body = _decode_whole_message(datagram, CLIENT_HELLO)
    return record, handshake, ClientHello.decode(body)


def _decode_whole_message(
    datagram: bytes, msg_type: int
) -> tuple[RecordHeader, HandshakeHeader, bytes]:
    """Read the headers of a datagram that holds one message of epoch 0, and return its body."""
    record = RecordHeader.decode(datagram)
    if record.content_type != CONTENT_HANDSHAKE:
        raise WireError(f"content type {record.content_type}, must be {CONTENT_HANDSHAKE}")
    if record.version not in VERSIONS:
        raise WireError(f"record version {record.version:04x} is not one of DTLS")
    if record.epoch != 0:
        raise WireError(f"epoch {record.epoch}, must be 0")
    if record.length > MAX_RECORD_LENGTH:
        raise WireError(f"record length {record.length}, at most {MAX_RECORD_LENGTH} are allowed")
    payload = datagram[RECORD_HEADER_SIZE:]
    if record.length != len(payload):
        raise WireError(f"record length {record.length}, but {len(payload)} bytes follow")
    handshake = HandshakeHeader.decode(payload)
    if handshake.msg_type != msg_type:
        raise WireError(f"handshake type {handshake.msg_type}, must be {msg_type}")
    body = payload[HANDSHAKE_HEADER_SIZE:]
    if handshake.fragment_length != len(body):
        raise WireError(
            f"fragment length {handshake.fragment_length}, but {len(body)} bytes follow"
        )
    if handshake.fragment_offset != 0 or handshake.length != len(body):
        raise WireError(
            f"a fragment of {len(body)} bytes at {handshake.fragment_offset}"
            f" of {handshake.length}, not a whole message"
        )
    return record, handshake, body


def _decode_extensions(data: bytes) -> tuple[tuple[int, bytes], ...]:
    reader = _Reader(data)
    extensions = []
    while not reader.at_end():
        number = reader.uint("extension_type", 2)
        extensions.append((number, reader.vector("extension_data", 2, 0, 2**16 - 1)))
    return tuple(extensions)


def _uint(name: str, value: int, size: int) -> bytes:
    """Encode a big-endian number of ``size`` bytes (RFC 5246 4.4)."""
    if not 0 <= value < 1 << 8 * size:
        raise WireError(f"{name}: {value} does not fit in {size} bytes")
    return value.to_bytes(size, "big")


def _check_length(name: str, length: int, least: int, most: int) -> None:
    if not least <= length <= most:
        raise WireError(f"{name}: {length} bytes, must be {least} to {most}")


class _Reader:
    """Takes fields off the front of some bytes, and never more bytes than there are."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, name: str, size: int) -> bytes:
        left = len(self._data) - self._at
        if size > left:
            raise WireError(f"{name}: cut short, {left} of {size} bytes")
        start = self._at
        self._at += size
        return self._data[start : self._at]

    def uint(self, name: str, size: int) -> int:
        return int.from_bytes(self.take(name, size), "big")

    def vector(self, name: str, prefix_size: int, least: int, most: int) -> bytes:
        length = self.uint(f"length of {name}", prefix_size)
        _check_length(name, length, least, most)
        return self.take(name, length)

    def at_end(self) -> bool:
        return self._at == len(self._data)

    def finish(self, name: str) -> None:
        if not self.at_end():
            raise WireError(f"{name}: {len(self._data) - self._at} bytes left over at its end")
