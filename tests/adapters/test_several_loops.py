"""Servers of one process on one port, each with a socket, a loop or a thread of its own."""

from __future__ import annotations

import contextlib
import re
import socket
import threading

import pytest

from gnutls_cookie import CookieGate, KeyRing, blocking
from tests.support.adapters import Aio, Blocking
from tests.support.common import ROOT
from tests.support.peers import psk
from tests.support.servers import SECONDS


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="no SO_REUSEPORT here")
@pytest.mark.parametrize("kind", [Aio, Blocking])
@pytest.mark.parametrize("shared", ["gate", "key ring"])
def test_servers_of_one_process_share_a_gate(kind: type[Blocking], shared: str) -> None:
    """Three of them, clients of several threads, keys that are rotated meanwhile: less often than a
    client of libgnutls bears, which gives up at its fifth HelloVerifyRequest."""
    ring = KeyRing.random()
    gate = CookieGate(ring)
    good: list[bool] = []

    def talk(rotates: bool) -> None:
        for turn in range(5):
            with blocking.connect(*address, credentials=psk(), retransmit_timeout=0.2) as client:
                client.send(b"%d" % turn)
                good.append(client.receive(SECONDS) == b"%d" % turn)
            if rotates:
                ring.rotate()

    with contextlib.ExitStack() as ends:
        servers, address = [], ("127.0.0.1", 0)
        for _ in range(3):
            adapter = kind()
            ends.callback(adapter.end)
            keys = gate if shared == "gate" else ring
            options = {"reuse_port": True, "keys": keys}
            servers.append(ends.enter_context(adapter.serving(*address, **options)))
            address = servers[0].address
        threads = [threading.Thread(target=talk, args=(number == 0,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
        assert good == [True] * 30
        connected = [server.counters.server.connected for server in servers]
        assert sum(connected) == 30
        assert sum(number > 0 for number in connected) > 1
        verified = {server.counters.gate.verified for server in servers}
        assert (verified == {gate.counters.verified}) == (shared == "gate")
        assert {server.keys for server in servers} == {ring}


def test_blocks_of_the_page() -> None:
    """Each of docs/adapters.md has its imports, and the callbacks serve as they are written."""
    page = (ROOT / "docs" / "adapters.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = [dict[str, object](__name__="pasted") for _ in blocks]
    for block, found in zip(blocks, names, strict=True):
        exec(compile(block, "adapters.md", "exec"), found)
    adapter = Aio()
    try:
        protocol = names[0]["Echo"]

        async def start() -> object:
            from gnutls_cookie import aio

            return await aio.start_server(
                host="127.0.0.1",
                credentials=psk(),
                protocol_factory=protocol,  # type: ignore[arg-type]
            )

        server = adapter.wait(start())
        with blocking.connect(*server.address[:2], credentials=psk()) as client:  # type: ignore[attr-defined]
            client.send(b"hello")
            assert client.receive(SECONDS) == b"hello"
        adapter.stop(server)
    finally:
        adapter.end()
