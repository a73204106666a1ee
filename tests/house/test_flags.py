"""Flags of the public API: each is a bool and nothing else, or says what else it may be."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

import gnutls_cookie
from gnutls_cookie import (
    CertificateCredentials,
    Client,
    KeyRing,
    PSKCredentials,
    Server,
    Session,
    aio,
    blocking,
    differential,
    metrics,
)
from gnutls_cookie.differential import REFERENCE, vector_run
from gnutls_cookie.differential.vector_file import read
from gnutls_cookie.differential.vector_run import run_vectors
from tests.support.peers import certificate

SECRET = PSKCredentials("sensor-1", b"0123456789abcdef")
MODULES = (gnutls_cookie, aio, blocking, differential, vector_run, metrics)

# What a flag may be besides True and False; None or not.
NONE_TOO = {"Client.verify_peer", "Session.verify_peer", "Server.tickets"}
NONE_TOO |= {f"{name}.tickets" for name in ("Server.set_credentials", "DTLSServer.set_credentials")}

# Flags that the package sets for its users to read, or passes to them.
OUTWARD = {
    "Challenge.presented_cookie",
    "Connection.on_closed.is_direct",
    "Connection.on_news.is_direct",
    "Finding.alone",
    "TicketKey.bytes_for.verifies_clients",
}


def start(name: str, value: Any) -> None:
    """aio.start_server(), and close the server."""
    options: dict[str, Any] = {name: value}

    async def main() -> None:
        async def handler(connection: aio.Connection) -> None: ...

        async with aio.start_server(handler, "127.0.0.1", credentials=SECRET, **options):
            pass

    asyncio.run(main())


def serve(value: Any) -> None:
    """blocking.serve(), with an event that is set already."""
    stop = threading.Event()
    stop.set()
    blocking.serve(print, "127.0.0.1", credentials=SECRET, reuse_port=value, stop=stop)


def start_thread(value: Any) -> None:
    """blocking.start_server(), and close the server."""
    blocking.start_server(print, "127.0.0.1", credentials=SECRET, reuse_port=value).close()


def set_at_server(value: Any) -> None:
    """DTLSServer.set_credentials()."""
    with blocking.start_server(print, "127.0.0.1", credentials=SECRET) as server:
        server.set_credentials(SECRET, value)


FLAGS: dict[str, Callable[[Any], object]] = {
    "CertificateCredentials.system_trust": lambda value: CertificateCredentials(system_trust=value),
    "CertificateCredentials.from_files.system_trust": lambda value: (
        CertificateCredentials.from_files(system_trust=value)
    ),
    "Client.verify_peer": lambda value: Client(
        CertificateCredentials(), server_name="a.test", verify_peer=value
    ),
    "DTLSServer.set_credentials.tickets": set_at_server,
    "ModuleTarget.verbose": lambda value: differential.ModuleTarget(
        "gnutls_cookie.reference.cookie", verbose=value
    ).close(),
    "PythonTarget.one_key": lambda value: differential.PythonTarget("mine", one_key=value),
    "Server.set_credentials.tickets": lambda value: Server(SECRET).set_credentials(SECRET, value),
    "Server.tickets": lambda value: Server(SECRET, tickets=value),
    "Server.verify_peer": lambda value: Server(certificate(), verify_peer=value),
    "Session.verify_peer": lambda value: Session("server", certificate(), verify_peer=value),
    "compare.guided": lambda value: differential.compare(REFERENCE, REFERENCE, 1, 0, guided=value),
    "exposition.openmetrics": lambda value: metrics.exposition([], openmetrics=value),
    "families.build_info": lambda value: metrics.families(build_info=value),
    "load.verbose": lambda value: differential.load(
        "gnutls_cookie.reference.cookie", verbose=value
    ).close(),
    "run_vectors.lenient": lambda value: run_vectors(REFERENCE, read()[:1], lenient=value),
    "serve.reuse_port": serve,
    "start_server.reuse_port": partial(start, "reuse_port"),
    "start_server.start_serving": partial(start, "start_serving"),
    "start_server.reuse_port of blocking": start_thread,
}


def flags() -> Iterator[str]:
    """The names of all parameters of public functions and classes that are bools."""
    for module in MODULES:
        for name in module.__all__:
            one = getattr(module, name)
            yield from flags_of(name, one)
            for method in dir(one) if inspect.isclass(one) else ():
                if not method.startswith("_"):
                    yield from flags_of(f"{name}.{method}", getattr(one, method))


def flags_of(name: str, called: object) -> Iterator[str]:
    """Those of one function or class."""
    if not callable(called):
        return
    try:
        parameters = inspect.signature(called).parameters.values()
    except ValueError:  # of a builtin
        return
    for each in parameters:
        kinds = str(each.annotation).split(" | ")
        if "bool" in kinds:
            yield f"{name}.{each.name}"


def test_no_flag_is_left_out() -> None:
    """A new one has its row above."""
    assert {*flags()} - OUTWARD == {name.partition(" ")[0] for name in FLAGS}


@pytest.mark.parametrize("name", FLAGS)
def test_flag_is_a_bool(name: str) -> None:
    """What is merely true or false is refused, by the flag's name."""
    call = FLAGS[name]
    for value in (True, False, None)[: 3 if name in NONE_TOO else 2]:
        call(value)
    wrong = [1, 0, 0.0, "yes", "", b"", [], object()]
    for each in wrong if name in NONE_TOO else [*wrong, None]:
        with pytest.raises(
            TypeError, match=rf"^{name.split()[0].rpartition('.')[2]} must be a bool"
        ):
            call(each)


def test_flags_that_options_pass_on() -> None:
    """verify_peer and tickets of connect() and start_server() are those of Client and Server."""
    wrong: dict[str, Any] = {"verify_peer": 1}
    with pytest.raises(TypeError, match=r"^verify_peer must be a bool"):
        blocking.connect("127.0.0.1", 1, credentials=SECRET, **wrong)
    with pytest.raises(TypeError, match=r"^verify_peer must be a bool"):
        blocking.start_server(
            print, "127.0.0.1", credentials=SECRET, keys=KeyRing.random(), **wrong
        )
