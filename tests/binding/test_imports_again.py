"""Imported again after a purge of sys.modules: what lives of the first import goes on working."""

from __future__ import annotations

import pytest

from tests.support.common import python_in_silence

BEGIN = """
import contextlib, importlib, signal, socket, sys

def load():
    import gnutls_cookie
    return gnutls_cookie

def purge():
    for name in [name for name in sys.modules if name.split(".")[0] == "gnutls_cookie"]:
        del sys.modules[name]

def send(g, push=lambda to, data: to.append(data)):
    got = []
    assert g.cookie_send(b"key", b"client", g.Prestate(), got, push) == 44
    return got

def sessions(g):
    asked = []
    def lookup(identity):
        asked.append(identity)
        return b"k" * 16
    server = g.Session("server", g.PSKCredentials(lookup=lookup))
    return server, g.Session("client", g.PSKCredentials("sensor", b"k" * 16)), asked

def shake(server, client, asked):
    for _ in range(20):
        for one, other in (client, server), (server, client):
            one.handshake()
            for datagram in one.datagrams_to_send():
                other.receive_datagram(datagram)
    assert server.established and client.established and asked == ["sensor"]
    client.send(b"hello")
    for datagram in client.datagrams_to_send():
        server.receive_datagram(datagram)
    assert server.receive() == b"hello"

def raising(g):
    class Mine(Exception):
        pass
    def push(to, data):
        raise Mine
    try:
        send(g, push)
    except Mine:
        return
    raise AssertionError

def listener(g):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return g.CookieListener(sock, g.CookieGate(b"key")), sock

def poll(listener, sock):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"what is this?", sock.getsockname())
        received = listener.counters.received
        while listener.counters.received == received:
            assert listener.poll(0.05) == []
    listener.admit(("127.0.0.1", 9))
    assert listener.peers == 1

first = load()
begun, fresh, listening = sessions(first), sessions(first), listener(first)
begun[1].handshake()  # in mid-handshake
send(first)
"""

AGAIN = {
    "purged": "purge(); second = load()\nassert second is not first",
    "purged twice": "purge(); load(); purge(); second = load()",
    "purged in a push": """
loaded = []
def push(to, data):
    purge()
    loaded.append(load())
    send(loaded[0])
    raising(first)
send(first, push)
second = loaded[0]
""",
    "reloaded": "second = first\nimportlib.reload(first.handles)",
}

END = """
for g in first, second, first:
    assert send(g)[0][:3] == bytes.fromhex("16feff")
    raising(g)
    shake(*sessions(g))
    with contextlib.closing(listener(g)[0]) as other, other._sock:
        poll(other, other._sock)
shake(*begun)
shake(*fresh)
poll(*listening)
listening[1].close()
assert len(first.handles.TABLE) == len(second.handles.TABLE) == 0
print("all goes on")
"""


@pytest.mark.parametrize("how", AGAIN)
def test_objects_of_both_imports_go_on(how: str) -> None:
    """Sends, errors, sessions with lookups (one in mid-handshake), listeners."""
    assert python_in_silence(BEGIN + AGAIN[how] + END, timeout=120) == "all goes on\n"
