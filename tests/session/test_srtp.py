"""DTLS-SRTP (RFC 5764): the profile that both sides have, and the keys of the media."""

from __future__ import annotations

import re
import subprocess

import pytest

from gnutls_cookie import GnuTLSError, TicketKey
from tests.support.common import openssl, udp_socket
from tests.support.peers import (
    CookieServer,
    certificate,
    client_of,
    drive,
    echoes,
    server_of,
    shake,
)

SHORT, LONG = "SRTP_AES128_CM_HMAC_SHA1_32", "SRTP_AES128_CM_HMAC_SHA1_80"
KEYS = ("EXTRACTOR-dtls_srtp", 60)  # RFC 5764 4.2; bytes of two keys and two salts


@pytest.mark.parametrize(
    ("offered", "known", "agreed"),
    [(LONG, LONG, LONG), (f"{SHORT}:{LONG}", LONG, LONG), (LONG, SHORT, None), (None, LONG, None)],
)
def test_profile_is_one_that_both_have(
    offered: str | None, known: str | None, agreed: str | None
) -> None:
    """Or none; the keys are the same on both sides."""
    client = client_of("X.509", srtp_profiles=offered)
    server = server_of("X.509", srtp_profiles=known)
    assert client.srtp_profile is None
    shake(client, server)
    assert client.srtp_profile == server.srtp_profile == agreed
    assert client.export_keying_material(*KEYS) == server.export_keying_material(*KEYS)


@pytest.mark.peer
def test_openssl_has_the_same_profile_and_keys() -> None:
    """s_client -use_srtp, with the keys that it exports."""
    with udp_socket() as sock:
        server = CookieServer(sock, certificate(), srtp_profiles=LONG)
        words = [openssl(), "s_client", "-dtls1_2", "-use_srtp", "SRTP_AES128_CM_SHA1_80"]
        words += ["-connect", f"127.0.0.1:{sock.getsockname()[1]}"]
        words += ["-keymatexport", KEYS[0], "-keymatexportlen", str(KEYS[1])]
        said = bytearray()
        with subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child:
            drive([server], lambda: b"Keying material: " in said and b"\n---" in said, child, said)
            child.kill()
        assert server.session is not None
        assert server.session.srtp_profile == LONG
        keys = server.session.export_keying_material(*KEYS).hex().upper()
    assert re.search(rb"Keying material: ([0-9A-F]{120})", said)
    assert keys.encode() in said


@pytest.mark.parametrize("text", ["SRTP_OF_MINE", "", f"{LONG}:"])
def test_profiles_that_nobody_knows(text: str) -> None:
    """An error that names the argument."""
    with pytest.raises((GnuTLSError, ValueError), match="srtp_profiles"):
        server_of("X.509", srtp_profiles=text)


@pytest.mark.parametrize("agreed", [LONG, None])
def test_session_with_profiles_is_not_resumed(agreed: str | None) -> None:
    """libgnutls reads such data in another way than it writes it, and overruns its memory."""
    client = client_of("X.509", srtp_profiles=LONG)
    server = server_of("X.509", srtp_profiles=agreed, tickets=TicketKey.random())
    shake(client, server)
    assert client.session_data is None


def test_server_with_profiles_gives_no_tickets() -> None:
    """To nobody. One without does, also to a client that has some the next time."""
    key = TicketKey.random()
    first = client_of("X.509")
    shake(first, server_of("X.509", srtp_profiles=LONG, tickets=key))
    again = client_of("X.509", resume=first.session_data)
    shake(again, server_of("X.509", tickets=key))
    assert not again.resumed
    later = client_of("X.509", resume=again.session_data, srtp_profiles=LONG)
    server = server_of("X.509", tickets=key)
    shake(later, server)
    assert later.resumed
    assert echoes(later, server)
