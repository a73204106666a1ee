"""A finalizer of a garbage cycle may use all that the package gives, though C has freed some."""

from __future__ import annotations

import gc
import re
import textwrap

import pytest

from gnutls_cookie import CertificateCredentials, Session
from tests.support.common import ROOT, python_in_silence

CERTS = ROOT / "tests" / "certs"

PRELUDE = """
    import gc, socket
    from gnutls_cookie import *
    from gnutls_cookie.locks import OwnedLock

    KEY = PSKCredentials("a", b"k" * 16)

    def established():
        client, server = Session("client", PSKCredentials("a", b"k" * 16)), Session("server", KEY)
        for _ in range(10):
            for one, other in ((client, server), (server, client)):
                one.handshake()
                for datagram in one.datagrams_to_send():
                    other.receive_datagram(datagram)
        assert client.established and server.established
        return client

    class Cycle:
        def __init__(self, thing, use):
            self.thing, self.use, self.me = thing, use, self

        def __del__(self):
            try:
                self.use(self.thing)
            except HONEST:
                used.append("refused")
            else:
                used.append("worked")

    used = []
    HONEST = GnuTLSError, ReferenceError, ValueError

    def collect(make, use):
        for _ in range(20):
            thing = make()
            use(thing)
            # Before it and after it among what the collector finds.
            before = Cycle(None, use)
            holder = [before, make()]
            holder.append(Cycle(holder[1], use))
            before.thing = holder[1]
            before.holder = holder
            del thing, before, holder
            gc.collect()
        assert len(used) == 40, used
"""

USES = {
    "session": """
        def use(session):
            repr(session), session.mtu, session.data_mtu, session.cipher, session.description
            session.peer_certificate, session.psk_identity, session.version
            session.send(b"x"), session.receive(), session.datagrams_to_send()
        collect(established, use)
    """,
    "session that ends": """
        collect(established, lambda session: (session.close(), session.datagrams_to_send()))
    """,
    "session in its handshake": """
        def use(session):
            session.handshake(), session.handle_timeout(), session.datagrams_to_send()
        collect(lambda: Session("client", PSKCredentials("a", b"k" * 16)), use)
    """,
    "credentials": """
        import pathlib
        names = "localhost.pem", "localhost.key"
        pair = [pathlib.Path(CERTS, name).read_bytes() for name in names]
        collect(
            lambda: CertificateCredentials(*pair),
            lambda mine: Session("server", mine).handshake(),
        )
    """,
    "lock": """
        def use(lock):
            token = lock.token()
            try:
                lock.take(token)
                lock.notify()
            finally:
                lock.give(token)
        collect(OwnedLock, use)
    """,
    "listener": """
        def make():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            socks.append(sock)
            sock.bind(("127.0.0.1", 0))
            return CookieListener(sock, CookieGate(b"k" * 16))
        def use(listener):
            listener.admit(("127.0.0.1", 9)), listener.poll(0), listener.counters, listener.peers
            listener.forget(("127.0.0.1", 9))
        socks = []
        collect(make, use)
        for sock in socks:
            sock.close()
    """,
    "gate": """
        from tests.support.common import hello_with
        def make():
            gate = CookieGate(b"k" * 16)
            gate.receive(hello_with(), b"client")  # makes the keys as C takes them
            return gate
        def use(gate):
            assert isinstance(gate.receive(hello_with(), b"client"), Challenge)
            gate.counters
        collect(make, use)
    """,
}


def test_finalizers_of_boxes_are_functions_in_c() -> None:
    """A signal handler that raises cannot come between the emptying of a box and its free()."""
    for path in (ROOT / "gnutls_cookie").rglob("*.py"):
        for box, destructor in re.findall(r"ffi\.gc\(([^,()]+), ([^)]+)\)", path.read_text()):
            assert destructor.startswith("lib.") or box == "memory", (path, destructor)


@pytest.mark.parametrize("name", USES)
def test_finalizer_of_a_cycle_may_use_it(name: str) -> None:
    """Whatever the order in which the collector finalizes: no crash, and it still works."""
    script = textwrap.dedent(PRELUDE) + textwrap.dedent(USES[name])
    python_in_silence(f"CERTS = {str(CERTS)!r}\n{script}")


def test_session_without_a_session_in_c_is_freed() -> None:
    """What failed half-way through its making leaves nothing, and frees nothing twice."""
    pair = CERTS / "localhost.pem", CERTS / "localhost.key"
    for _ in range(100):
        with pytest.raises(ValueError, match="priority"):
            Session("server", CertificateCredentials.from_files(*pair), priority="NORMAL:+NOTHING")
    gc.collect()
