"""A server's tickets: who gets them, how long its own key lives, what replaces it."""

from __future__ import annotations

from typing import Any

import pytest

from gnutls_cookie import KeyRing, PSKCredentials, Server, TicketKey
from gnutls_cookie.session import Credentials
from tests.support.adapters import Blocking, both
from tests.support.peers import certificate, psk, trusting
from tests.support.servers import Bench, Client

__all__ = ["both"]

DAY = 24 * 3600.0
SECRET = b"a secret of tickets, and of nothing else"


def shake(bench: Bench, client: Client) -> None:
    """A handshake, to the last datagram: where a session is resumed that is the client's."""
    for _ in range(20):
        bench.send(client)
        bench.deliver(client)
        if client.session.handshake():
            bench.send(client)
            return
    raise AssertionError(f"no handshake: {client.session!r}")


def resumes(bench: Bench, data: bytes | None, kind: str = "X.509") -> tuple[bool, bytes | None]:
    """Whether a client resumes with that data, and the data of its session."""
    before = bench.server.counters.resumed
    client = bench.client(kind, resume=data)
    shake(bench, client)
    resumed = client.session.resumed
    assert bench.server.counters.resumed - before == resumed
    return resumed, client.session.session_data


def offers(bench: Bench, kind: str = "X.509") -> bool:
    """Whether a client can come back by what it got."""
    return resumes(bench, resumes(bench, None, kind)[1], kind)[0]


def test_client_resumes_at_a_server_that_takes_all_alike() -> None:
    """By default: a certificate of the server, and clients of whom nothing is asked."""
    assert offers(Bench(certificate()))
    assert not offers(Bench(certificate(), tickets=False))


@pytest.mark.parametrize("kind", ["PSK", "X.509"])
def test_clients_that_are_told_apart_get_tickets_where_that_is_asked_for(kind: str) -> None:
    """A ticket would outlive the key, or the certificate, that its client was admitted by."""
    credentials: list[Credentials] = [certificate(), psk()]
    assert not offers(Bench(credentials), kind)
    assert offers(Bench(credentials, tickets=True), kind)
    assert offers(Bench(credentials, tickets=TicketKey.random()), kind)


def test_random_key_lives_for_a_day() -> None:
    """After it a client shakes hands in full, and then resumes by the new one."""
    bench = Bench(certificate(), idle_timeout=1e9)
    _, data = resumes(bench, None)
    bench.pass_time(DAY - 3600)
    assert resumes(bench, data)[0]
    bench.pass_time(3600)
    resumed, data = resumes(bench, data)
    assert not resumed
    assert resumes(bench, data)[0]


def test_key_that_was_given_stays() -> None:
    """Its owner replaces it."""
    bench = Bench(certificate(), idle_timeout=1e9, tickets=TicketKey.random())
    _, data = resumes(bench, None)
    bench.pass_time(2 * DAY)
    assert resumes(bench, data)[0]


def test_new_credentials_come_with_a_new_random_key() -> None:
    """Whoever was admitted by the old ones shows again who he is; a given key stays."""
    for tickets, stays in ((True, False), (TicketKey.random(), True)):
        bench = Bench(psk(), tickets=tickets)
        _, data = resumes(bench, None, "PSK")
        bench.server.credentials = psk()
        assert resumes(bench, data, "PSK")[0] == stays


def test_tickets_are_changed_with_the_credentials() -> None:
    """To another key, to none, and back."""
    one, other = TicketKey.random(), TicketKey.random()
    bench = Bench(certificate(), tickets=one)
    _, data = resumes(bench, None)
    bench.server.set_credentials(certificate(), other)
    assert bench.server.tickets is other
    assert not resumes(bench, data)[0]
    bench.server.set_credentials(certificate(), False)
    assert not offers(bench)
    bench.server.set_credentials(certificate(), one)
    assert resumes(bench, data)[0]
    with pytest.raises(TypeError, match="tickets must be a bool or a TicketKey, not int"):
        bench.server.set_credentials(certificate(), 1)  # type: ignore[arg-type]
    assert resumes(bench, data)[0]


def test_resumed_identity_is_told() -> None:
    """The server knows the client's identity, and the lookup is not asked again."""
    asked = []

    def lookup(identity: str) -> bytes | None:
        asked.append(identity)
        return psk().lookup(identity)

    bench = Bench(PSKCredentials(lookup=lookup), tickets=True)
    _, data = resumes(bench, None, "PSK")
    assert len(asked) == 1
    client = bench.client("PSK", resume=data)
    shake(bench, client)
    assert client.session.resumed
    assert bench.connection(client).session.psk_identity == psk().identity
    assert len(asked) == 1


@pytest.mark.parametrize("tickets", ["yes", 1, bytes(64)])
def test_unusable_tickets_are_refused(tickets: Any) -> None:
    """The error names the argument."""
    with pytest.raises(TypeError, match="tickets must be a bool or a TicketKey"):
        Server(certificate(), tickets=tickets)


# --- the adapters ---------------------------------------------------------------------------------


def test_client_resumes_at_the_next_server_with_the_secret(both: Blocking) -> None:
    """One node is gone, and the next one knows its clients by the ticket secret alone."""
    data = None
    for secret, resumed in ((SECRET, False), (SECRET, True), (SECRET + b"!", False)):
        options = {"credentials": certificate(), "tickets": TicketKey.from_secret(secret)}
        with (
            both.serving("127.0.0.1", 0, **options) as server,
            both.client(
                *server.address[:2], credentials=trusting(), server_name="localhost", resume=data
            ) as client,
        ):
            assert both.echoes(client)
            assert client.session.resumed == resumed
            assert server.counters.server.resumed == resumed
            data = client.session.session_data


def test_cookie_secret_is_refused_for_tickets(both: Blocking) -> None:
    """Whoever can make cookies must not be able to open sessions: before it serves, and later."""
    keys, same = KeyRing.from_secret(SECRET), TicketKey.from_secret(SECRET)
    refused = pytest.raises(ValueError, match="tickets must not be made of the secret of the cook")
    with refused:
        both.start("127.0.0.1", 0, credentials=certificate(), keys=keys, tickets=same)
    with both.serving("127.0.0.1", 0, credentials=certificate(), keys=keys) as server:
        with refused:
            both.do(lambda: server.set_credentials(certificate(), same))
        both.do(lambda: server.set_credentials(certificate(), TicketKey.random()))
    with both.serving("127.0.0.1", 0, credentials=certificate(), tickets=same) as server:
        with refused:
            server.keys = keys
        with both.client(
            *server.address[:2], credentials=trusting(), server_name="localhost"
        ) as client:
            assert both.echoes(client)
