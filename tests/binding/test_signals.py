"""Ctrl-C at any moment: every thread goes on, and nothing stays locked, lent or under way."""

from __future__ import annotations

import pytest

from tests.support.common import python_in_silence

UNDER_FIRE = """
import contextlib, faulthandler, os, signal, socket, sys, threading, time
from gnutls_cookie import CookieGate, CookieListener, Prestate, PSKCredentials, blocking
from gnutls_cookie import cookie_send
from gnutls_cookie.handles import TABLE
from gnutls_cookie.reference import wire
from tests.support.common import seeded

wanted = int(sys.argv[1])
draw = seeded()
credentials = PSKCredentials("sensor", b"0123456789abcdef")
stop, addresses, over = threading.Event(), [], threading.Event()

def echo(connection):
    for message in connection:
        connection.send(message)

def serve():
    blocking.serve(echo, "127.0.0.1", credentials=credentials, stop=stop, started=told)

def told(address):
    addresses.append(address)
    over.set()

server = threading.Thread(target=serve)
server.start()
assert over.wait(20)
over.clear()

connection = blocking.connect(*addresses[0], credentials=credentials)
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("127.0.0.1", 0))
listener = CookieListener(sock, CookieGate(b"k" * 16))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect(sock.getsockname())

def send():
    assert cookie_send(b"key", b"client", Prestate(), None, lambda to, data: len(data)) == 44

def poll():
    client.send(wire.client_hello())
    with contextlib.suppress(RuntimeError):  # the other thread's is under way
        listener.poll(timeout=0.0005)

def receive():
    connection.send(b"hello")
    with contextlib.suppress(TimeoutError):
        assert connection.receive(timeout=0.0005) in (b"hello", None)

turns = {send: 0, poll: 0, receive: 0}

def work(what):
    while not over.is_set():
        what()
        turns[what] += 1
        time.sleep(0.0005)

threads = [threading.Thread(target=work, args=(what,)) for what in turns]
for thread in threads:
    thread.start()

class Interrupt(BaseException):
    pass

def handler(number, frame):
    raise Interrupt

signal.signal(signal.SIGALRM, handler)
faulthandler.enable()

def all_go_on():
    before, end = dict(turns), time.monotonic() + 20
    while any(turns[what] == before[what] for what in turns):
        if time.monotonic() > end:
            hang = [what.__name__ for what in turns if turns[what] == before[what]]
            print("after", caught, "exceptions", hang, "hang", flush=True)
            faulthandler.dump_traceback(all_threads=True)
            os._exit(1)
        time.sleep(0.001)

caught = 0
while caught < wanted:
    what = draw.choice([send, send, poll, receive])
    try:
        signal.setitimer(signal.ITIMER_REAL, draw.uniform(10e-6, 300e-6))
        while True:
            what()
    except (Interrupt, KeyboardInterrupt):
        caught += 1
    if caught == wanted // 2:
        signal.signal(signal.SIGALRM, signal.default_int_handler)  # what Ctrl-C runs: no frame
    if caught % 250 == 0:
        all_go_on()
signal.setitimer(signal.ITIMER_REAL, 0)
all_go_on()
over.set()
for thread in threads:
    thread.join(20)
connection.close()
stop.set()
server.join(20)
listener.close()
sock.close()
client.close()
assert len(TABLE) == 0
print("caught", caught, [thread.is_alive() for thread in (*threads, server)])
"""


def under_fire(count: int, timeout: float) -> None:
    said = python_in_silence(UNDER_FIRE, str(count), timeout=timeout, dev=False)
    assert said.endswith(f"caught {count} {[False] * 4}\n")


@pytest.mark.slow
def test_three_threads_go_on_whatever_a_signal_handler_raises() -> None:
    """1,000 exceptions at random in sends, polls and receives, on objects that threads share."""
    under_fire(1000, timeout=240)


@pytest.mark.long
def test_three_threads_go_on_after_50000_exceptions() -> None:
    """The long run of the same."""
    under_fire(50_000, timeout=7200)
