"""blocking under signal handlers that raise, at any moment: nothing stays locked, nobody waits for
ever. Each program runs in a process of its own, whose main thread gets the signals.
"""

from __future__ import annotations

import pytest

from tests.support.common import ignoring, python_in_silence, seeded

COMMON = """
import contextlib, gc, os, random, signal, sys, threading, time
from gnutls_cookie import PSKCredentials, blocking
draw = random.Random(int(sys.argv[1]))
number = int(sys.argv[2])
credentials = PSKCredentials("sensor-1", b"0123456789abcdef")
class Stop(BaseException):
    pass
armed = []
def raising(*_):
    if armed:
        raise Stop
signal.signal(signal.SIGALRM, raising)
def arm(seconds, again=0):
    armed.append(True)
    signal.setitimer(signal.ITIMER_REAL, seconds, again)
# armed.clear() ends it. No function may do so: a signal could strike as it is entered.
def echo(connection):
    for message in connection:
        connection.send(message)
@contextlib.contextmanager
def serving(handler):
    stop, address = threading.Event(), []
    options = {"credentials": credentials, "stop": stop, "started": address.append}
    thread = threading.Thread(target=blocking.serve, args=(handler, "127.0.0.1"), kwargs=options)
    thread.start()
    while not address:
        time.sleep(0.01)
    yield address[0]
    stop.set()
    thread.join(20)
    assert not thread.is_alive()
def torture(use):
    # Exceptions at random in what `use` does again and again.
    struck = 0
    while struck < number:
        try:
            arm(draw.uniform(20e-6, 400e-6))
            while True:
                use()
        except Stop:
            struck += 1
        armed.clear()
def expect(connection, message, send):
    # What is under way before it may come first, and a datagram may be lost.
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        send(message)
        with contextlib.suppress(TimeoutError):
            while (came := connection.receive(0.5)) != message:
                assert came is not None
            return
    raise SystemExit(f"no {message}")
"""

CLIENT = (
    COMMON
    + """
got = []
def reader(client):
    for message in client:
        got.append(message)
with serving(echo) as address:
    client = blocking.connect(*address, credentials=credentials)
    def use():
        client.send(b"x")
        with contextlib.suppress(TimeoutError):
            client.receive(draw.choice([0, 1e-4]))
    torture(use)
    expect(client, b"alone", client.send)
    other = threading.Thread(target=reader, args=(client,))
    other.start()
    torture(use)
    deadline = time.monotonic() + 20
    while b"to the other one" not in got:
        assert time.monotonic() < deadline
        client.send(b"to the other one")
        time.sleep(0.01)
    client.close()
    other.join(20)
    assert not other.is_alive()
    # close(), struck: the next one ends it.
    for _ in range(20):
        client = blocking.connect(*address, credentials=credentials)
        try:
            arm(draw.uniform(5e-6, 60e-6))
            client.close()
            time.sleep(0.01)
        except Stop:
            pass
        armed.clear()
        client.close()
        assert client.receive(0) is None
print("done")
"""
)

SERVER_SIDE = (
    COMMON
    + """
served, release = [], threading.Event()
def handler(connection):
    served.append(connection)
    release.wait(60)
with serving(handler) as address:
    client = blocking.connect(*address, credentials=credentials)
    while not served:
        time.sleep(0.01)
    there = served.pop()
    def use():
        there.send(b"x")
        with contextlib.suppress(TimeoutError):
            there.receive(draw.choice([0, 1e-4]))
    torture(use)
    expect(there, b"hello", client.send)
    expect(client, b"and back", there.send)
    for _ in range(20):
        another = blocking.connect(*address, credentials=credentials)
        while not served:
            time.sleep(0.01)
        there = served.pop()
        waiting = threading.Thread(target=there.receive)
        waiting.start()
        try:
            arm(draw.uniform(5e-6, 300e-6))
            there.close()
            time.sleep(0.01)
        except Stop:
            pass
        armed.clear()
        there.close()
        waiting.join(20)
        assert not waiting.is_alive()
        assert another.receive(20) is None
        another.close()
    release.set()
    client.close()
print("done")
"""
)

SERVE = (
    COMMON
    + """
def unraisable(found):
    # A signal may strike as a thread leaves the WeakSet of threading, from where nothing comes out.
    if "WeakSet" not in repr(found.object):
        sys.__unraisablehook__(found)
sys.unraisablehook = unraisable
before = threading.active_count()
for turn in range(number):
    over, clients = threading.Event(), []
    def client(address):
        with contextlib.suppress(Exception):  # the server may end before its handshake
            connection = blocking.connect(*address, credentials=credentials, handshake_timeout=5)
            with connection:
                while not over.is_set():
                    connection.send(b"x")
                    with contextlib.suppress(TimeoutError):
                        if connection.receive(0.5) is None:
                            return
    def started(address):
        for _ in range(3):
            thread = threading.Thread(target=client, args=(address,))
            clients.append(thread)
            thread.start()
        # One, or some in a row: the first while it serves, others while it ends.
        arm(draw.uniform(1e-3, 0.1), draw.choice([0, 1e-3, 0.02]))
    try:
        blocking.serve(echo, "127.0.0.1", credentials=credentials, started=started)
    except Stop:
        pass
    else:
        raise SystemExit("serve() ended by itself")
    armed.clear()
    signal.setitimer(signal.ITIMER_REAL, 0)
    over.set()
    deadline = time.monotonic() + 20
    while threading.active_count() > before or any(one.is_alive() for one in clients):
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.001)
print("done")
"""
)


def run(program: str, number: int) -> str:
    """Run a program with a seed and its number of turns; it must not hang, nor say a word."""
    seed = str(seeded().getrandbits(32))
    env = ignoring("ResourceWarning")  # a socket that was struck as it was made
    return python_in_silence(program, seed, str(number), env=env, timeout=120)


def test_client_goes_on_after_whatever_signal_handlers_raised() -> None:
    """Hundreds of exceptions at random in send(), receive() and close(), with another reader."""
    assert run(CLIENT, 200) == "done\n"


def test_connection_of_a_handler_goes_on_after_whatever_signal_handlers_raised() -> None:
    """The same where the main thread uses what a handler has given it."""
    assert run(SERVER_SIDE, 200) == "done\n"


@pytest.mark.slow
def test_serve_ends_by_a_signal_at_any_moment() -> None:
    """At once, with all its threads; also where others follow while it ends."""
    assert run(SERVE, 30) == "done\n"
