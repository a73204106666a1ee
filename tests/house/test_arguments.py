"""Wrong calls: whatever an argument of a public function is given, the error names the argument."""

from __future__ import annotations

import functools
import inspect
import math
import socket
from collections.abc import Callable
from typing import Any

import pytest

from gnutls_cookie import (
    Arrival,
    CertificateCredentials,
    Client,
    CookieGate,
    GnuTLSError,
    HandleTable,
    KeyRing,
    Prestate,
    PSKCredentials,
    Server,
    Session,
    TicketKey,
    aio,
    blocking,
    client_data,
    cookie_reply,
    cookie_send,
    debug_log,
    metrics,
    prestate_set,
)
from gnutls_cookie import differential as bench
from gnutls_cookie.client_endpoint import ClientEndpoint
from gnutls_cookie.options import ClientOptions, ServerOptions

PSK = PSKCredentials("who", b"key")
ADDRESS = ("127.0.0.1", 1)
CASE = bench.case_of_seed(1, "verify", 0)
WRONG: tuple[Any, ...] = (
    None, object(), True, -1, 2**70, 10**5000, 1.5, math.nan, math.inf, "x", "", b"x", b"", [], {},
    (1,), "\ud800", "a\0b", memoryview(bytes(8))[::2],
)  # fmt: skip

Call = Callable[..., object]


def arrive(**arrival: Any) -> None:
    """Hand a server what no listener made."""
    Server(PSK).receive(Arrival(**arrival), 0.0)


def pushed(transport: object, data: bytes) -> None:
    """The datagram is lost."""


@functools.wraps(aio.connect)
def connect(**given: Any) -> None:
    """Connect, but for what is awaited."""
    aio.connect(**given).close()


def client_endpoint(**given: Any) -> None:
    """One with a socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(ADDRESS)
        ClientEndpoint(sock, **given)


def cases(**given: Any) -> None:
    """The first of the cases."""
    next(bench.cases(**given))


def differ(**given: Any) -> None:
    """Compare cases that a caller has."""
    list(bench.compare_cases(**given))


# A function with arguments that it takes; each one is tried.
CALLS: list[tuple[Call, dict[str, Any]]] = [
    (Prestate, {}),
    (
        cookie_send,
        {"key": b"k", "client_data": b"", "prestate": Prestate(), "transport": [], "push": pushed},
    ),
    (cookie_reply, {"key": b"k", "client_data": b"", "prestate": Prestate()}),
    (prestate_set, {"session": Session("server", PSK), "prestate": Prestate()}),
    (debug_log, {"level": 0}),
    (client_data.sockaddr, {"address": ADDRESS}),
    (client_data.text, {"address": ADDRESS}),
    (KeyRing, {"current": b"key"}),
    (KeyRing.from_secret, {"secret": bytes(16)}),
    (KeyRing.random().rotate, {}),
    (KeyRing.random().keys_at, {}),
    (KeyRing.from_secret(bytes(16)).keys_at, {}),
    (CookieGate, {}),
    (CookieGate(b"key").receive, {"datagram": b"", "client_data": b""}),
    (TicketKey, {}),
    (TicketKey.from_secret, {}),
    (TicketKey.random().is_of, {}),
    (TicketKey.random().bytes_for, {}),
    (CertificateCredentials, {}),
    (CertificateCredentials.from_files, {}),
    (PSKCredentials, {"identity": "who", "key": b"key"}),
    (Session, {"role": "client", "credentials": PSK}),
    (Session, {"role": "server", "credentials": PSK}),
    (Server, {"credentials": PSK}),
    (Server(PSK).set_credentials, {"credentials": PSK}),
    (Server(PSK).receive, {"arrival": Arrival(ADDRESS, b"", None), "now": 0.0}),
    (arrive, {"address": ADDRESS, "datagram": b"", "prestate": None, "local": None}),
    (Client, {"credentials": PSK}),
    (Client(PSK).receive_datagram, {"data": b"", "now": 0.0}),
    (Client(PSK).send, {"data": b"x"}),
    (HandleTable().get, {}),
    (HandleTable().reclaim, {}),
    (HandleTable().lending, {"value": None, "function": None}),
    (blocking.start_server, {"handler": len, "host": "127.0.0.1", "port": 0, "credentials": PSK}),
    (blocking.connect, {"host": "127.0.0.1", "port": 1, "credentials": PSK}),
    (connect, {"host": "127.0.0.1", "port": 1, "credentials": PSK}),
    (client_endpoint, {"client": Client(PSK), "silent_until": None}),
    (metrics.exposition, {"found": []}),
    (bench.case_of_seed, {"seed": 1, "operation": "verify", "number": 0}),
    (cases, {"seed": 1, "operations": ("verify",), "count": 1, "start": 0}),
    (bench.compare, {"target": bench.REFERENCE, "oracle": bench.LIBGNUTLS, "seed": 1, "count": 0}),
    (differ, {"target": bench.REFERENCE, "oracle": bench.LIBGNUTLS, "which": [CASE]}),
    (bench.shrunk, {"case": CASE, "differs": lambda case: False}),
    (bench.text, {}),
    (bench.PythonTarget, {"name": "mine"}),
]
OPTIONS = {"limits": ServerOptions, "options": ClientOptions}


def names_of(function: Call, given: dict[str, Any]) -> list[str]:
    """The arguments of a function, those of its options too; of the helpers above, what is given.

    Nothing is wrong with any `value` to lend, nor with any `transport`.
    """
    found: list[str] = []
    for one in inspect.signature(function).parameters:
        found += OPTIONS[one].__annotations__ if one in OPTIONS else [one]
    if found in (["given"], ["arrival"]):
        found = [*given]
    return [one for one in found if one not in ("arguments", "transport", "value")]


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has judged all arguments comes no further."""

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no network here")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)


@pytest.mark.parametrize(("function", "given"), CALLS)
def test_errors_of_wrong_calls_name_the_argument(function: Call, given: dict[str, Any]) -> None:
    """TypeError, ValueError or OverflowError, and its text has the name; of libgnutls and of the
    system only what can be said of a good argument."""
    silent = []
    for name in names_of(function, given):
        for wrong in WRONG:
            try:
                function(**{**given, name: wrong})
            except (GnuTLSError, OSError):
                pass
            except Exception as error:
                kinds = TypeError, ValueError, OverflowError
                if type(error) not in kinds or name not in str(error):
                    silent.append((name, type(wrong).__name__, repr(error)[:200]))
    assert not silent
