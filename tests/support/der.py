"""Certificates made by hand (RFC 5280 4.1): what they hold is the test's; nobody signed them."""

from __future__ import annotations

__all__ = ["certificate", "element", "extension", "key", "name", "number", "oid", "sequence"]

SEQUENCE, SET, INTEGER, BIT_STRING, OCTET_STRING, OID = 0x30, 0x31, 2, 3, 4, 6
UTF8_STRING, UTC_TIME, NULL, VERSION, EXTENSIONS = 12, 23, 5, 0xA0, 0xA3
COMMON_NAME, RSA, SHA256_WITH_RSA = "550403", "2a864886f70d010101", "2a864886f70d01010b"


def element(tag: int, content: bytes) -> bytes:
    """An element of DER (X.690 8.1)."""
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 + len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    return element(SEQUENCE, b"".join(parts))


def number(value: int) -> bytes:
    return element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def oid(content: str) -> bytes:
    return element(OID, bytes.fromhex(content))


def common_name(text: str) -> bytes:
    """A RelativeDistinguishedName."""
    return element(SET, sequence(oid(COMMON_NAME), element(UTF8_STRING, text.encode())))


def name(*texts: str) -> bytes:
    return sequence(*map(common_name, texts))


def key(modulus: int, exponent: int) -> bytes:
    """The SubjectPublicKeyInfo of an RSA key (RFC 8017 A.1.1)."""
    numbers = sequence(number(modulus), number(exponent))
    algorithm = sequence(oid(RSA), element(NULL, b""))
    return sequence(algorithm, element(BIT_STRING, b"\0" + numbers))


def extension(identifier: str, content: bytes) -> bytes:
    return sequence(oid(identifier), element(OCTET_STRING, content))


def certificate(
    subject_key: bytes, subject: bytes = name("localhost"), extensions: bytes = b""
) -> bytes:
    """One that names its subject as its issuer, with a signature of zeros."""
    algorithm = sequence(oid(SHA256_WITH_RSA), element(NULL, b""))
    dates = [element(UTC_TIME, date.encode()) for date in ("200101000000Z", "490101000000Z")]
    more = element(EXTENSIONS, element(SEQUENCE, extensions)) if extensions else b""
    what = [element(VERSION, number(2)), number(1), algorithm, subject, sequence(*dates)]
    signed = sequence(*what, subject, subject_key, more)
    return sequence(signed, algorithm, element(BIT_STRING, bytes(257)))
