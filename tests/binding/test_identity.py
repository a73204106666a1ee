"""PSK identities: bytes that reach lookup and psk_identity as they were sent, zeros and all."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from gnutls_cookie import PSKCredentials, Session, credentials, library_version
from gnutls_cookie.session import Credentials
from tests.support.common import openssl, udp_socket
from tests.support.peers import certificate, client_of, deliver, established, shake, trusting

KEY = b"0123456789abcdef"
LONGEST = 128 if tuple(map(int, library_version().split(".")[:3])) < (3, 7, 7) else 65535

IDENTITIES = [
    b"sensor",
    b"\0",
    b"\0sensor",
    b"sensor\0",
    b"\1\2\3\0\0\4",
    b"caf\xe9 \xff",
    "é".encode() * 50,
    bytes(range(128)),
    bytes(128),
]


def shaken(client: PSKCredentials, server: PSKCredentials, **options: Any) -> Session:
    """The server's session after a handshake."""
    ours: list[Credentials] = [client]
    theirs: list[Credentials] = [server]
    if "RSA-PSK" in options.get("priority", ""):
        ours.append(trusting("localhost-rsa"))
        theirs.append(certificate("localhost-rsa"))
    one = Session("client", ours, server_name="localhost", **options)
    other = Session("server", theirs, **options)
    shake(one, other)
    return other


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize("priority", ["PSK", "ECDHE-PSK", "DHE-PSK", "RSA-PSK"])
@pytest.mark.parametrize("raw", IDENTITIES)
def test_identity_is_carried_whole(raw: bytes, priority: str) -> None:
    """To a callable as a str, and into both forms of psk_identity; given as either form."""
    for given in (raw, bytearray(raw), text(raw)):
        asked: list[str] = []

        def lookup(identity: str, asked: list[str] = asked) -> bytes:
            asked.append(identity)
            return KEY

        server = shaken(
            PSKCredentials(given, KEY),
            PSKCredentials(lookup=lookup),
            priority=f"NORMAL:-KX-ALL:+{priority}",
        )
        assert asked == [text(raw)]
        assert server.psk_identity == text(raw)
        assert server.psk_identity_bytes == raw


@pytest.mark.parametrize("raw", IDENTITIES)
def test_mapping_is_keyed_by_str_or_bytes(raw: bytes) -> None:
    """Both name the same identity; the str is asked first."""
    mappings: list[Mapping[Any, bytes]] = [
        {text(raw): KEY},
        {raw: KEY},
        {raw: b"another key", text(raw): KEY},
    ]
    for mapping in mappings:
        server = shaken(PSKCredentials(raw, KEY), PSKCredentials(lookup=mapping))
        assert server.psk_identity_bytes == raw


def test_mapping_may_change_while_it_is_served_from() -> None:
    """It is asked each time."""
    known: dict[bytes, bytes] = {}
    credentials = PSKCredentials(lookup=known)
    assert credentials.lookup("a") is None
    known[b"a"] = KEY
    assert credentials.lookup("a") == KEY


@pytest.mark.parametrize("given", ["i", b"i", b"\0\xff", "\udcc3\udca9", b"\xc3\xa9"])
def test_one_pair_serves_both_sides(given: str | bytes) -> None:
    """The same credentials for client and server, whichever way the identity was spelt."""
    both = PSKCredentials(given, KEY)
    server = shaken(both, both)
    raw = given if isinstance(given, bytes) else given.encode("utf-8", "surrogateescape")
    assert server.psk_identity_bytes == raw
    assert both.identity == server.psk_identity == text(raw)


def test_lookup_that_was_replaced_is_asked() -> None:
    """Of credentials that were made with a pair as well; who is known by the pair is not, then."""
    served = PSKCredentials("sensor-2", b"another key")
    served.lookup = {"sensor-1": KEY}.get
    assert shaken(PSKCredentials("sensor-1", KEY), served).psk_identity == "sensor-1"


def test_identity_differs_in_what_follows_a_zero() -> None:
    """Two devices whose identities begin alike get their own keys."""
    keys = {b"\0one": KEY, b"\0two": b"another key here"}
    for raw, key in keys.items():
        server = shaken(PSKCredentials(raw, key), PSKCredentials(lookup=keys))
        assert server.psk_identity_bytes == raw


@pytest.mark.parametrize("size", [1, 127, 128, 129, 1000, 65535])
def test_identity_of_any_length_that_libgnutls_has(size: int) -> None:
    """A longer one than it takes is a clear error, before any handshake."""
    raw = bytes([size % 256]) * size
    if size > LONGEST:
        with pytest.raises(ValueError, match=rf"identity .*128 .*before.*{size}"):
            PSKCredentials(raw, KEY)
        return
    both = PSKCredentials(raw, KEY)
    assert shaken(both, both, mtu=16384).psk_identity_bytes == raw
    if size <= 1000:
        assert shaken(both, both, mtu=256).psk_identity_bytes == raw


def test_short_limit_of_older_libraries_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """128 bytes before 3.7.7: what the client could not send."""
    monkeypatch.setattr(credentials, "_identity_most", lambda: 128)
    PSKCredentials("x" * 128, KEY)
    with pytest.raises(ValueError, match=r"identity must be of 1\.\.128 bytes before .*not 129"):
        PSKCredentials("x" * 129, KEY)


def test_without_psk_there_is_no_identity() -> None:
    """Neither form, on either side, nor before the handshake."""
    for session in (*established("X.509"), *established("PSK")[:1], client_of("PSK")):
        assert session.psk_identity is None
        assert session.psk_identity_bytes is None


@pytest.mark.peer
@pytest.mark.parametrize("known", [True, False])
def test_identity_of_no_bytes_by_openssl(known: bool) -> None:
    """Lookup gets "", and may know it; our own client cannot name it, as libgnutls' cannot."""
    mapping = {"": KEY} if known else {"somebody": KEY}
    with udp_socket() as sock:
        command = [openssl(), "s_client", "-dtls1_2", "-connect", "127.0.0.1:%d"]
        command[-1] %= sock.getsockname()[1]
        command += ["-psk_identity", "", "-psk", KEY.hex(), "-cipher", "PSK-AES128-GCM-SHA256"]
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            server = Session("server", PSKCredentials(lookup=mapping))
            done = False
            for _ in range(20):
                datagram, address = sock.recvfrom(65535)
                server.receive_datagram(datagram)
                done = server.handshake()
                for reply in server.datagrams_to_send():
                    sock.sendto(reply, address)
                # A stranger's Finished is under another key: its record is dropped in silence.
                if done or (not known and b"\x14\xfe\xfd" in datagram):
                    break
            assert done == known
            if known:
                assert (server.psk_identity, server.psk_identity_bytes) == ("", b"")
        finally:
            child.kill()
            child.communicate()


def test_lookup_of_a_session_gets_each_identity_of_its_own() -> None:
    """Two handshakes side by side do not mix them up."""
    seen: list[str] = []

    def lookup(identity: str) -> bytes:
        seen.append(identity)
        return KEY

    server_side = PSKCredentials(lookup=lookup)
    pairs = [
        (Session("client", PSKCredentials(raw, KEY)), Session("server", server_side))
        for raw in (b"\0a", b"\0b")
    ]
    for _ in range(8):
        for client, server in pairs:
            client.handshake()
            deliver(client, server)
            server.handshake()
            deliver(server, client)
    assert [server.psk_identity_bytes for _, server in pairs] == [b"\0a", b"\0b"]
    assert seen == ["\0a", "\0b"]
