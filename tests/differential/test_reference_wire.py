"""The codecs of gnutls_cookie.reference.wire: real datagrams, round trips, every malformation."""

from __future__ import annotations

import random

import pytest

from gnutls_cookie.reference import wire
from gnutls_cookie.reference.wire import (
    ClientHello,
    HandshakeHeader,
    HelloVerifyRequest,
    RecordHeader,
    WireError,
    client_hello,
    client_hello_fragments,
    decode_client_hello,
    handshake_record,
)

# First datagram of: openssl s_client -dtls1_2 -cipher PSK-AES128-GCM-SHA256 -psk 00
#   -connect 127.0.0.1:PORT     (OpenSSL 3.0.19, read from a plain UDP socket)
OPENSSL_HELLO = bytes.fromhex(
    "16feff00000000000000000074010000680000000000000068fefde6891426b3986eea240dcd086a5edefca98a72"
    "d09bb99d171314fb58607bc9a40000000400a800ff0100003a002300000016000000170000000d002a00280403"
    "05030603080708080809080a080b080408050806040105010601030303010302040205020602"
)
# First datagram of: gnutls-cli --udp --insecure --pskusername u --pskkey 00 --priority
#   NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK:-CIPHER-ALL:+AES-128-GCM -p PORT 127.0.0.1
#   (GnuTLS 3.7.9)
GNUTLS_HELLO = bytes.fromhex(
    "16fefd0000000000000000007e010000720000000000000072fefd623c7a0bbdf55015738151687f45a55d32127d"
    "a0eecd29da027793bd6288f8260000000200a801000046000500050100000000000d0022002004010809080404"
    "0308070501080a0805050308080601080b0806060302010203001600000017000000230000ff01000100001c00"
    "024000"
)
# First two datagrams of: openssl s_client -dtls1_2 -mtu 256 -cipher PSK-AES128-GCM-SHA256
#   -psk 00 -alpn protocol-number-0,[...],protocol-number-9 -connect 127.0.0.1:PORT
OPENSSL_FRAGMENTS = (
    bytes.fromhex(
        "16feff000000000000000000d70100012200000000000000cbfefd8863ce99b1623c52a2893c54f5a91be61d"
        "4a516b656af702d06f1502cb24d90d0000000400a800ff010000f400230000001000b600b41170726f746f63"
        "6f6c2d6e756d6265722d301170726f746f636f6c2d6e756d6265722d311170726f746f636f6c2d6e756d6265"
        "722d321170726f746f636f6c2d6e756d6265722d331170726f746f636f6c2d6e756d6265722d341170726f74"
        "6f636f6c2d6e756d6265722d351170726f746f636f6c2d6e756d6265722d361170726f746f636f6c2d6e756d"
        "6265722d37117072"
    ),
    bytes.fromhex(
        "16feff000000000000000100630100012200000000cb0000576f746f636f6c2d6e756d6265722d381170726f"
        "746f636f6c2d6e756d6265722d390016000000170000000d002a0028040305030603080708080809080a080b"
        "080408050806040105010601030303010302040205020602"
    ),
)
# Made by gnutls_dtls_cookie_send of libgnutls 3.7.9 (ctypes) with key 00 01 .. 0f, client_data
# 64 65 .. 73 and the prestate record_seq 105791312, hsk_write_seq 67166359.
GNUTLS_HELLO_VERIFY_REQUEST = bytes.fromhex(
    "16feff0000000000000050001f030000130097000000000013feff10573893d8fbb31b3b5733af72b449bea9"
)

HELLO = client_hello(cookie=bytes(range(16)), session_id=b"sid", extensions=[(13, b"\x04\x01")])


def test_hello_of_openssl_is_decoded() -> None:
    """A real client's fields come out, with its extensions in order."""
    record, handshake, hello = decode_client_hello(OPENSSL_HELLO)
    assert record == RecordHeader(22, wire.DTLS_1_0, 0, 0, 116)
    assert handshake == HandshakeHeader(1, 104, 0, 0, 104)
    assert hello.client_version == wire.DTLS_1_2
    assert hello.random[:4].hex() == "e6891426"
    assert (hello.session_id, hello.cookie) == (b"", b"")
    assert hello.cipher_suites == (0x00A8, 0x00FF)
    assert hello.compression_methods == b"\x00"
    assert hello.extensions is not None
    assert [number for number, _ in hello.extensions] == [35, 22, 23, 13]


@pytest.mark.parametrize("datagram", [OPENSSL_HELLO, GNUTLS_HELLO], ids=["openssl", "gnutls"])
def test_real_hello_is_built_again_from_its_fields(datagram: bytes) -> None:
    """decode, then client_hello, gives the very bytes of a real client."""
    record, handshake, hello = decode_client_hello(datagram)
    built = client_hello(
        cookie=hello.cookie,
        session_id=hello.session_id,
        random=hello.random,
        client_version=hello.client_version,
        record_version=record.version,
        cipher_suites=hello.cipher_suites,
        compression_methods=hello.compression_methods,
        extensions=hello.extensions,
        record_seq=record.record_seq,
        message_seq=handshake.message_seq,
        epoch=record.epoch,
    )
    assert built == datagram


def test_fragments_of_openssl_make_one_hello() -> None:
    """The fragment headers say where each piece belongs, and the pieces decode as one body."""
    body = b""
    for number, datagram in enumerate(OPENSSL_FRAGMENTS):
        record = RecordHeader.decode(datagram)
        handshake = HandshakeHeader.decode(datagram[wire.RECORD_HEADER_SIZE :])
        assert (record.record_seq, handshake.message_seq) == (number, 0)
        assert (handshake.fragment_offset, handshake.length) == (len(body), 290)
        body += datagram[wire.RECORD_HEADER_SIZE + wire.HANDSHAKE_HEADER_SIZE :]
    hello = ClientHello.decode(body)
    assert hello.encode() == body
    assert hello.extensions is not None
    assert hello.extensions[1][1].count(b"protocol-number-") == 10


def test_hello_verify_request_of_libgnutls_is_decoded() -> None:
    """The fields of a datagram that libgnutls made: the low bytes of its two counters."""
    assert HelloVerifyRequest.decode(GNUTLS_HELLO_VERIFY_REQUEST) == HelloVerifyRequest(
        cookie=bytes.fromhex("573893d8fbb31b3b5733af72b449bea9"),
        record_seq=0x50,
        message_seq=0x97,
        record_version=wire.DTLS_1_0,
        server_version=wire.DTLS_1_0,
    )


def test_hello_verify_request_of_libgnutls_is_built() -> None:
    """encode gives libgnutls' bytes back."""
    request = HelloVerifyRequest.decode(GNUTLS_HELLO_VERIFY_REQUEST)
    assert request.encode() == GNUTLS_HELLO_VERIFY_REQUEST


def test_headers_are_big_endian_in_the_order_of_the_rfc() -> None:
    """Every field has a value of its own, so that no two can be swapped unseen."""
    record = RecordHeader(0x16, 0xFEFD, 0x0102, 0x030405060708, 0x090A)
    assert record.encode().hex() == "16fefd0102030405060708090a"
    assert RecordHeader.decode(record.encode()) == record
    handshake = HandshakeHeader(0x01, 0x020304, 0x0506, 0x070809, 0x0A0B0C)
    assert handshake.encode().hex() == "0102030405060708090a0b0c"
    assert HandshakeHeader.decode(handshake.encode()) == handshake


@pytest.mark.parametrize("size", range(13))
def test_record_header_needs_13_bytes(size: int) -> None:
    """Every shorter input is refused."""
    with pytest.raises(WireError, match="cut short"):
        RecordHeader.decode(HELLO[:size])


@pytest.mark.parametrize("size", range(12))
def test_handshake_header_needs_12_bytes(size: int) -> None:
    """Every shorter input is refused."""
    with pytest.raises(WireError, match="cut short"):
        HandshakeHeader.decode(HELLO[13 : 13 + size])


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (RecordHeader(256, 0, 0, 0, 0), "content_type"),
        (RecordHeader(0, 2**16, 0, 0, 0), "version"),
        (RecordHeader(0, 0, -1, 0, 0), "epoch"),
        (RecordHeader(0, 0, 0, 2**48, 0), "record_seq"),
        (RecordHeader(0, 0, 0, 0, 2**16), "record length"),
        (HandshakeHeader(-1, 0, 0, 0, 0), "msg_type"),
        (HandshakeHeader(0, 2**24, 0, 0, 0), "message length"),
        (HandshakeHeader(0, 0, 2**16, 0, 0), "message_seq"),
        (HandshakeHeader(0, 0, 0, 2**24, 0), "fragment_offset"),
        (HandshakeHeader(0, 0, 0, 0, 2**24), "fragment_length"),
    ],
)
def test_value_too_large_for_its_field_is_named(
    header: RecordHeader | HandshakeHeader, name: str
) -> None:
    """A number is never cut to its field in silence."""
    with pytest.raises(WireError, match=f"^{name}: "):
        header.encode()


def test_hello_round_trip_with_every_field_at_its_limits() -> None:
    """The shortest and the longest value of each field survive."""
    for session_id in (b"", bytes(32)):
        for cookie in (b"", bytes(255)):
            for suites in ((0,), tuple(range(32767))):
                for methods in (b"\x00", bytes(255)):
                    for extensions in (None, (), ((0, b""), (65535, bytes(65527)))):
                        hello = ClientHello(
                            random=b"R" * 32,
                            cipher_suites=suites,
                            session_id=session_id,
                            cookie=cookie,
                            compression_methods=methods,
                            extensions=extensions,
                        )
                        assert ClientHello.decode(hello.encode()) == hello


def test_no_extensions_and_an_empty_list_of_them_differ() -> None:
    """RFC 5246 7.4.1.2: presence is two more bytes, and decoding keeps the two apart."""
    without = ClientHello(bytes(32), (1,)).encode()
    empty = ClientHello(bytes(32), (1,), extensions=()).encode()
    assert empty == without + b"\x00\x00"
    assert ClientHello.decode(without).extensions is None
    assert ClientHello.decode(empty).extensions == ()


@pytest.mark.parametrize(
    ("hello", "name"),
    [
        (ClientHello(bytes(31), (1,)), "random"),
        (ClientHello(bytes(33), (1,)), "random"),
        (ClientHello(bytes(32), (1,), client_version=2**16), "client_version"),
        (ClientHello(bytes(32), (1,), session_id=bytes(33)), "session_id"),
        (ClientHello(bytes(32), (1,), cookie=bytes(256)), "cookie"),
        (ClientHello(bytes(32), ()), "cipher_suites"),
        (ClientHello(bytes(32), (1,) * 32768), "cipher_suites"),
        (ClientHello(bytes(32), (2**16,)), "cipher_suites"),
        (ClientHello(bytes(32), (1,), compression_methods=b""), "compression_methods"),
        (ClientHello(bytes(32), (1,), compression_methods=bytes(256)), "compression_methods"),
        (ClientHello(bytes(32), (1,), extensions=((2**16, b""),)), "extension_type"),
        (ClientHello(bytes(32), (1,), extensions=((1, bytes(2**16)),)), "extension_data"),
        (ClientHello(bytes(32), (1,), extensions=((1, bytes(65532)),)), "extensions"),
    ],
)
def test_hello_that_the_wire_cannot_hold_is_refused(hello: ClientHello, name: str) -> None:
    """The error names the field."""
    with pytest.raises(WireError, match=f"^{name}: "):
        hello.encode()


def test_hello_cut_anywhere_is_refused() -> None:
    """Each proper prefix of a body is an error, but for the one that ends before extensions."""
    body = ClientHello(
        bytes(32), (1, 2), session_id=b"sid", cookie=b"cookie", extensions=((13, b"\x04\x01"),)
    ).encode()
    before_extensions = len(body) - 8
    for size in range(len(body)):
        if size == before_extensions:
            assert ClientHello.decode(body[:size]).extensions is None
        else:
            with pytest.raises(WireError):
                ClientHello.decode(body[:size])


PREFIX = "fefd" + "00" * 32  # client_version and random


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (PREFIX + "21" + "00" * 33 + "00" + "00020001" + "0100", "session_id: 33 bytes"),
        (PREFIX + "00" + "00" + "0000" + "0100", "cipher_suites: 0 bytes"),
        (PREFIX + "00" + "00" + "0003000102" + "0100", "cipher_suites: 3 bytes"),
        (PREFIX + "00" + "00" + "ffff" + "00" * 65535 + "0100", "cipher_suites: 65535 bytes"),
        (PREFIX + "00" + "00" + "00020001" + "00", "compression_methods: 0 bytes"),
        (PREFIX + "00" + "00" + "00020001" + "0100" + "00", "length of extensions: cut short"),
        (PREFIX + "00" + "00" + "00020001" + "0100" + "000000", "1 bytes left over"),
        (PREFIX + "00" + "00" + "00020001" + "0100" + "0001", "extensions: cut short"),
        (PREFIX + "00" + "00" + "00020001" + "0100" + "000100", "extension_type: cut short"),
        (PREFIX + "00" + "00" + "00020001" + "0100" + "0004000d0001", "extension_data: cut short"),
        (PREFIX + "00" + "ff" + "00" * 20, "cookie: cut short, 20 of 255 bytes"),
    ],
)
def test_malformed_hello_body_is_refused(body: str, text: str) -> None:
    """Hand-built bodies, each wrong in one place; the error says where."""
    with pytest.raises(WireError, match=text):
        ClientHello.decode(bytes.fromhex(body))


def replaced(datagram: bytes, offset: int, new: str) -> bytes:
    """Overwrite some bytes of a datagram, given in hex."""
    patch = bytes.fromhex(new)
    return datagram[:offset] + patch + datagram[offset + len(patch) :]


REQUEST = HelloVerifyRequest(cookie=bytes(16), record_seq=2, message_seq=1).encode()


@pytest.mark.parametrize(
    ("datagram", "text"),
    [
        (b"", "content_type: cut short"),
        (REQUEST[:12], "record length: cut short"),
        (replaced(REQUEST, 0, "17"), "content type 23"),
        (replaced(REQUEST, 1, "0303"), "record version 0303"),
        (replaced(REQUEST, 3, "0001"), "epoch 1"),
        (replaced(REQUEST, 11, "0020"), "record length 32, but 31 bytes follow"),
        (replaced(REQUEST, 11, "001e"), "record length 30, but 31 bytes follow"),
        (REQUEST + b"\x00", "record length 31, but 32 bytes follow"),
        (replaced(REQUEST, 11, "4001"), "record length 16385, at most 16384"),
        (replaced(REQUEST[:24], 11, "000b"), "fragment_length: cut short"),
        (replaced(REQUEST, 13, "02"), "handshake type 2"),
        (replaced(REQUEST, 22, "000012"), "fragment length 18, but 19 bytes follow"),
        (replaced(REQUEST, 19, "000001"), "19 bytes at 1 of 19, not a whole message"),
        (replaced(REQUEST, 14, "000014"), "19 bytes at 0 of 20, not a whole message"),
        (replaced(REQUEST, 27, "11"), "cookie: cut short, 16 of 17 bytes"),
        (replaced(REQUEST, 27, "0f"), "HelloVerifyRequest: 1 bytes left over"),
        (handshake_record(3, b"\xfe\xff"), "length of cookie: cut short"),
        (handshake_record(3, b"\xfe"), "server_version: cut short"),
        (HELLO, "handshake type 1"),
    ],
)
def test_malformed_hello_verify_request_is_refused(datagram: bytes, text: str) -> None:
    """Hand-built datagrams, each wrong in one place; the error says where."""
    with pytest.raises(WireError, match=text):
        HelloVerifyRequest.decode(datagram)


@pytest.mark.parametrize("size", [0, 1, 16, 32, 255])
def test_hello_verify_request_round_trip(size: int) -> None:
    """Every length of cookie, and both sequence numbers in full."""
    request = HelloVerifyRequest(
        cookie=b"c" * size,
        record_seq=2**48 - 1,
        message_seq=2**16 - 1,
        record_version=wire.DTLS_1_2,
        server_version=wire.DTLS_0_9,
    )
    assert len(request.encode()) == 28 + size
    assert HelloVerifyRequest.decode(request.encode()) == request


def test_hello_verify_request_with_a_cookie_of_256_bytes_is_refused() -> None:
    """cookie<0..2^8-1>."""
    with pytest.raises(WireError, match="cookie: 256 bytes"):
        HelloVerifyRequest(cookie=bytes(256)).encode()


def test_client_hello_puts_every_argument_on_the_wire() -> None:
    """Each keyword is found again by the decoder."""
    datagram = client_hello(
        cookie=b"c" * 16,
        session_id=b"s" * 32,
        random=b"r" * 32,
        client_version=wire.DTLS_1_0,
        record_version=wire.DTLS_1_2,
        cipher_suites=[1, 2, 3],
        compression_methods=b"\x01\x00",
        extensions=[(5, b"x")],
        record_seq=2**48 - 1,
        message_seq=258,
    )
    record, handshake, hello = decode_client_hello(datagram)
    assert (record.version, record.record_seq) == (wire.DTLS_1_2, 2**48 - 1)
    assert handshake.message_seq == 258
    assert hello == ClientHello(
        random=b"r" * 32,
        cipher_suites=(1, 2, 3),
        client_version=wire.DTLS_1_0,
        session_id=b"s" * 32,
        cookie=b"c" * 16,
        compression_methods=b"\x01\x00",
        extensions=((5, b"x"),),
    )
    assert RecordHeader.decode(client_hello(epoch=7)).epoch == 7


def test_numbers_are_those_of_the_rfcs() -> None:
    """RFC 5246 6.2.1 and 7.4, RFC 6347 4.1 and 4.3.2; 0.9 as in libgnutls' protocol table."""
    assert (
        wire.CONTENT_CHANGE_CIPHER_SPEC,
        wire.CONTENT_ALERT,
        wire.CONTENT_HANDSHAKE,
        wire.CONTENT_APPLICATION_DATA,
    ) == (20, 21, 22, 23)
    assert (wire.CLIENT_HELLO, wire.SERVER_HELLO, wire.HELLO_VERIFY_REQUEST) == (1, 2, 3)
    assert (wire.DTLS_1_0, wire.DTLS_1_2, wire.DTLS_0_9) == (0xFEFF, 0xFEFD, 0x0100)


def test_default_hello_is_the_first_of_an_exchange() -> None:
    """No cookie, and every counter at 0."""
    record, handshake, hello = decode_client_hello(client_hello())
    assert record == RecordHeader(22, wire.DTLS_1_0, 0, 0, 56)
    assert handshake == HandshakeHeader(1, 44, 0, 0, 44)
    assert hello == ClientHello(bytes(range(32)), (0xC02F, 0x002F))
    assert client_hello_fragments(1) == [client_hello()]
    assert handshake_record(1, hello.encode()) == client_hello()


def test_default_hello_verify_request_answers_the_first_hello() -> None:
    """Every counter at 0, both versions DTLS 1.0."""
    request = HelloVerifyRequest.decode(HelloVerifyRequest(b"c").encode())
    assert request == HelloVerifyRequest(b"c", 0, 0, wire.DTLS_1_0, wire.DTLS_1_0)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 44])
def test_fragments_join_to_the_whole_hello(count: int) -> None:
    """One message_seq, consecutive records, offsets without gap or overlap, equal sizes."""
    whole = client_hello(message_seq=1, record_seq=5)
    datagrams = client_hello_fragments(count, message_seq=1, record_seq=5)
    assert len(datagrams) == count
    body = b""
    for number, datagram in enumerate(datagrams):
        record = RecordHeader.decode(datagram)
        handshake = HandshakeHeader.decode(datagram[13:])
        assert (record.record_seq, record.length) == (5 + number, len(datagram) - 13)
        assert (handshake.message_seq, handshake.length) == (1, 44)
        assert (handshake.fragment_offset, handshake.fragment_length) == (
            len(body),
            len(datagram) - 25,
        )
        body += datagram[25:]
    assert body == whole[25:]
    sizes = [len(datagram) for datagram in datagrams]
    assert sizes == sorted(sizes, reverse=True)
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("count", [-1, 0, 45])
def test_hello_cannot_be_cut_into_fewer_than_one_or_more_than_its_bytes(count: int) -> None:
    """No empty fragments are made."""
    with pytest.raises(WireError, match=f"44 bytes cannot be cut into {count}"):
        client_hello_fragments(count)


def test_record_holds_16384_bytes_and_no_more() -> None:
    """RFC 6347 4.1: length must not exceed 2^14."""
    assert RecordHeader.decode(handshake_record(1, bytes(16372))).length == 16384
    fullest = client_hello(extensions=[(0, bytes(16372 - 44 - 2 - 4))])
    assert decode_client_hello(fullest)[0].length == 16384
    with pytest.raises(WireError, match="record length 16385"):
        handshake_record(1, bytes(16373))
    with pytest.raises(WireError, match="record length"):
        client_hello(cipher_suites=range(10000))


def test_decoders_raise_nothing_but_wire_error() -> None:
    """20,000 datagrams mutated at random: a message that encodes to the same, or a WireError."""
    seed = random.randrange(2**32)
    print("seed", seed)
    chooser = random.Random(seed)
    decoded = 0
    for _ in range(20_000):
        datagram = bytearray(chooser.choice([HELLO, OPENSSL_HELLO, REQUEST]))
        for _ in range(chooser.randrange(3)):
            datagram[chooser.randrange(len(datagram))] = chooser.randrange(256)
        if chooser.random() < 0.2:
            del datagram[chooser.randrange(len(datagram)) :]
        data = bytes(datagram)
        try:
            record, handshake, hello = decode_client_hello(data)
        except WireError:
            pass
        else:
            decoded += 1
            assert record.encode() + handshake.encode() + hello.encode() == data
        try:
            request = HelloVerifyRequest.decode(data)
        except WireError:
            pass
        else:
            decoded += 1
            assert request.encode() == data
    assert decoded > 1000


def test_vectors_of_numbers() -> None:
    """Length in bytes, then 16 bits each; as in the extension supported_groups (RFC 8422 5.1.1)."""
    assert wire.encode_numbers("supported_groups", (0x001D, 0x0017)).hex() == "0004001d0017"
    assert len(wire.encode_numbers("numbers", range(32767))) == 65536
    for numbers in (), range(32768):
        with pytest.raises(WireError, match=f"numbers: {2 * len(numbers)} bytes"):
            wire.encode_numbers("numbers", numbers)


@pytest.mark.parametrize(("prefix_size", "most"), [(1, 255), (2, 65535)])
def test_a_vector_is_as_long_as_its_prefix_can_say(prefix_size: int, most: int) -> None:
    """Unless it is given a bound of its own."""
    encoded = wire.encode_vector("name", bytes(most), prefix_size)
    assert encoded == b"\xff" * prefix_size + bytes(most)
    for data, bounds in (bytes(most + 1), {}), (b"abc", {"most": 2}), (b"abc", {"least": 4}):
        with pytest.raises(WireError, match=f"name: {len(data)} bytes"):
            wire.encode_vector("name", data, prefix_size, **bounds)
