"""What a session speaks by default, and priority strings with which no handshake could succeed."""

from __future__ import annotations

import pytest

from gnutls_cookie import GnuTLSError, Session
from gnutls_cookie.session import Credentials
from tests.support.peers import KINDS, certificate, client_of, pair, psk, server_of, shake, trusting

# A client of one suite alone, as small devices are.
PSK_SUITES = {
    "PSK-AES128-CCM8": "+AES-128-CCM-8:+AEAD",
    "PSK-AES128-CCM": "+AES-128-CCM:+AEAD",
    "PSK-AES128-GCM": "+AES-128-GCM:+AEAD",
    "PSK-AES128-CBC-SHA256": "+AES-128-CBC:+SHA256",
    "PSK-AES128-CBC-SHA1": "+AES-128-CBC:+SHA1",
}
ONE_SUITE = "NONE:+VERS-DTLS1.2:+PSK:+COMP-NULL:+SIGN-ALL:+GROUP-ALL"
DTLS_1_0 = "-VERS-ALL:+VERS-DTLS1.0"
BOTH_VERSIONS = "-VERS-ALL:+VERS-DTLS1.2:+VERS-DTLS1.0"


def has_dtls_1_0() -> bool:
    """Whether this libgnutls and its policy still make DTLS 1.0 at all."""
    try:
        shake(*pair("X.509", priority=f"NORMAL:{DTLS_1_0}"))
    except (GnuTLSError, ValueError):
        return False
    return True


@pytest.mark.parametrize("suite", PSK_SUITES)
@pytest.mark.parametrize("kinds", [1, 2])
def test_suites_of_small_devices_are_served_by_default(suite: str, kinds: int) -> None:
    """AES-128-CCM-8 (RFC 7252 9.1.3.1) and CBC-SHA256 too, with PSK alone and beside X.509."""
    credentials: list[Credentials] = [psk(), certificate()]
    server = Session("server", credentials[:kinds])
    client = client_of("PSK", priority=f"{ONE_SUITE}:{PSK_SUITES[suite]}")
    shake(client, server)
    assert client.version == "DTLS1.2"


@pytest.mark.parametrize("suite", PSK_SUITES)
def test_suites_of_small_devices_are_offered_by_default(suite: str) -> None:
    """The same of a client of ours before such a server."""
    server = server_of("PSK", priority=f"{ONE_SUITE}:{PSK_SUITES[suite]}")
    shake(client_of("PSK"), server)


def test_they_are_the_last_in_preference() -> None:
    """A server that has a better one too, and would rather not, is asked for the better one."""
    order = "-CIPHER-ALL:+AES-128-CCM-8:+AES-128-CBC:+AES-256-GCM"
    client, server = client_of("PSK"), server_of("PSK", priority=f"NORMAL:-KX-ALL:+PSK:{order}")
    shake(client, server)
    assert client.cipher == "AES-256-GCM"


@pytest.mark.parametrize("kind", [*KINDS, "both"])
@pytest.mark.parametrize("asks", ["client", "server"])
def test_dtls_1_0_is_not_spoken_unless_asked_for(kind: str, asks: str) -> None:
    """RFC 8996: with one side that knows nothing else the handshake fails."""
    if not has_dtls_1_0():
        pytest.skip("this libgnutls makes no DTLS 1.0")
    old = "PSK" if kind == "both" else kind
    kx = ":-KX-ALL:+PSK" if old == "PSK" else ""

    def sides(priority: str | None) -> tuple[Session, Session]:
        if kind == "both":
            options = {"priority": priority}
            return (
                Session("client", [trusting(), psk()], server_name="localhost", **options),  # type: ignore[arg-type]
                Session("server", [certificate(), psk()], **options),  # type: ignore[arg-type]
            )
        return pair(kind, priority=priority)

    for other in None, f"NORMAL:{BOTH_VERSIONS}{kx}":
        client, server = sides(other)
        if asks == "client":
            client = client_of(old, priority=f"NORMAL:{DTLS_1_0}{kx}")
        else:
            server = server_of(old, priority=f"NORMAL:{DTLS_1_0}{kx}")
        if other is None:
            with pytest.raises(GnuTLSError, match=r"GNUTLS_E_(UNSUPPORTED_VERSION|FATAL_ALERT)"):
                shake(client, server)
        else:
            shake(client, server)
            assert client.version == "DTLS1.0"


@pytest.mark.parametrize("group", ["FFDHE4096", "FFDHE6144", "FFDHE8192"])
@pytest.mark.parametrize("kx", ["DHE-PSK", "DHE-RSA"])
def test_groups_that_cost_a_server_most_are_served_only_if_asked_for(kx: str, group: str) -> None:
    """A client chooses the group: with one that has no other, the handshake fails at once."""
    credentials: list[Credentials] = [psk(), certificate("localhost-rsa")]
    priority = f"NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+{kx}:-GROUP-ALL:+GROUP-{group}"
    trusted = psk() if kx == "DHE-PSK" else trusting("localhost-rsa")

    def client(more: str = "") -> Session:
        return Session("client", trusted, priority=priority + more, server_name="localhost")

    with pytest.raises(GnuTLSError, match="GNUTLS_E_"):
        shake(client(), Session("server", credentials))
    small = client(":+GROUP-FFDHE2048")
    shake(small, Session("server", credentials))
    assert "FFDHE2048" in str(small.description)
    asked = client()
    shake(asked, Session("server", credentials, priority=priority))
    assert group in str(asked.description)


@pytest.mark.parametrize(
    ("kind", "priority", "why"),
    [
        ("PSK", "NORMAL", "no key exchange with a shared key: 'NORMAL'"),
        ("PSK", "NORMAL:-KX-ALL:+ECDHE-RSA", "no key exchange with a shared key"),
        ("X.509", "NORMAL:-KX-ALL:+PSK", "no key exchange with a certificate"),
        ("both", "NORMAL:-KX-ALL:+ANON-ECDH", "with a certificate or a shared key"),
        ("X.509", "NORMAL:-VERS-ALL:+VERS-TLS1.3", "no version of DTLS"),
    ],
)
@pytest.mark.parametrize("role", ["client", "server"])
def test_priority_without_what_the_credentials_need(
    role: str, kind: str, priority: str, why: str
) -> None:
    """Said at once, and not by a handshake that fails."""
    credentials: dict[str, list[Credentials]] = {
        "PSK": [psk()],
        "X.509": [certificate()],
        "both": [certificate(), psk()],
    }
    with pytest.raises(ValueError, match=f"priority allows .*{why}"):
        Session(
            role,  # type: ignore[arg-type]
            credentials[kind],
            priority=priority,
            verify_peer=False,
        )


def test_what_begins_with_a_colon_is_added_to_the_default() -> None:
    """The suites of the default, without one of its kinds; a fault in it is named."""
    client = client_of("PSK", priority=":-ECDHE-PSK:%NO_TICKETS")
    shake(client, server_of("PSK"))
    assert "(DHE-FFDHE" in str(client.description)
    with pytest.raises(ValueError, match="priority is not understood at '%NOTHING'"):
        client_of("PSK", priority=":%NOTHING")


@pytest.mark.parametrize("kx", ["+PSK", "+ECDHE-RSA:+ECDHE-ECDSA"])
def test_priority_for_one_of_two_kinds_is_enough(kx: str) -> None:
    """Credentials of both kinds and a priority string for one of them: no error."""
    Session("server", [certificate(), psk()], priority=f"NORMAL:-KX-ALL:{kx}")


@pytest.mark.parametrize("more", ["+ECDHE-PSK:+PSK", "+PSK:+ANON-ECDH:+RSA-PSK"])
def test_server_passes_over_what_it_has_no_credentials_for(more: str) -> None:
    """A client that has both, and would rather have certificates: the server has shared keys alone,
    and a priority string that allows both, as gnutls-serv's manual has it."""
    server = Session("server", psk(), priority=f"NORMAL:{more}")
    client = Session("client", [trusting(), psk()], server_name="localhost")
    shake(client, server)
    assert server.psk_identity == "sensor-1"
    server = Session("server", certificate(), priority=f"NORMAL:-KX-ALL:{more}:+ECDHE-ECDSA")
    client = Session(
        "client",
        [trusting(), psk()],
        priority="NORMAL:-KX-ALL:+ECDHE-PSK:+PSK:+ECDHE-ECDSA",
        server_name="localhost",
    )
    shake(client, server)
    assert server.psk_identity is None
