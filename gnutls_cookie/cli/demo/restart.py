"""The key changes between a client's two hellos, as it does where a server is started again or
another node answers. The client is libgnutls', and so is the recipe that stalls it."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from gnutls_cookie import (
    Challenge,
    CookieGate,
    Discarded,
    GnuTLSError,
    KeyRing,
    Prestate,
    PSKCredentials,
    TimedOutError,
    Verified,
    cookie_send,
    cookie_verify,
)

from .exchange import DemoError, Judge, own_client, serve
from .screen import BOLD, GREEN, RED, say

__all__ = ["show"]

_STALL_SECONDS = 4.0  # a client repeats its hello after 1 and after 3


def show(credentials: PSKCredentials) -> None:
    """A client of the gate is served; one of the recipe in GnuTLS' manual is not.

    Raises:
        DemoError: it was otherwise.
    """
    say("\nWith the gate", BOLD)
    server = serve(lambda port: own_client(port, credentials), credentials, _restarting(_gate))
    if server.steps[:3] != ["challenged", "challenged", "verified"]:
        raise DemoError(f"the steps were {', '.join(server.steps)}")
    say(
        "  served: it was challenged once more, and the number said which hello that answers", GREEN
    )
    say("\nWith the recipe of GnuTLS' manual: verify, else send", BOLD)
    try:
        serve(
            lambda port: own_client(port, credentials, _STALL_SECONDS),
            credentials,
            _restarting(_recipe),
        )
    except TimedOutError:
        say(
            "  stalled: an answer with message_seq 0 was there before, so the client drops this one"
            f" and says\n  the dead cookie again; it gave up after {_STALL_SECONDS:.0f} s",
            RED,
        )
    else:
        raise DemoError("the recipe served it: this libgnutls has another one")


def _restarting(make: Callable[[], Judge]) -> Judge:
    """A server that is started again once it has challenged somebody."""
    judges = [make()]

    def judge(who: bytes, datagram: bytes) -> Challenge | Verified | Discarded:
        verdict = judges[-1](who, datagram)
        if len(judges) == 1:
            judges.append(make())
        return verdict

    return judge


def _gate() -> Judge:
    gate = CookieGate(KeyRing.random())
    return lambda who, datagram: gate.receive(datagram, who)


def _recipe() -> Judge:
    key = secrets.token_bytes(16)

    def judge(who: bytes, datagram: bytes) -> Challenge | Verified:
        try:
            return Verified(cookie_verify(key, who, datagram), 0)
        except GnuTLSError:
            sent: list[bytes] = []
            cookie_send(key, who, Prestate(), sent, lambda to, reply: to.append(reply))
            return Challenge(b"".join(sent), False)

    return judge
