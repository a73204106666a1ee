"""A realtime clock that is set while handshakes are under way: NTP, a user, a device without one.

libgnutls takes that clock for its timers. A preloaded library shows it another one.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest

from tests.support.common import compile_peer, python_in_silence

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library, as on Linux")

HOUR = 3600_000  # milliseconds
YEARS = 56 * 365 * 24 * HOUR  # from 1970 to the day that NTP tells

START = """
import os, struct, sys, time

clock = os.open(sys.argv[1], os.O_RDWR)

def set_clock(milliseconds):
    os.pwrite(clock, struct.pack("=q", milliseconds), 0)

"""

PROGRAM = """
import random
from tests.support.peers import KINDS, LossyNetwork, echoes, pair

steps = [int(step) for step in sys.argv[2].split()]
chance = random.Random(int(sys.argv[3]))

real = time.time()
set_clock(3600_000)
assert time.time() - real > 3500, "the clock cannot be stepped"

networks = []
for number in range(20):
    kind = KINDS[number % 2]  # a certificate is judged by the realtime clock, as it should be
    options = {"verify_peer": False} if kind == "X.509" else {}
    client, server = pair(kind, retransmit_timeout=0.02, handshake_timeout=60.0, **options)
    networks.append((client, server, LossyNetwork(chance, 0.2, client, server)))
deadline = time.monotonic() + 50
turn = 0
now = 0
while going := [one for one in networks if not (one[0].established and one[1].established)]:
    assert time.monotonic() < deadline, f"{len(going)} of them are not done: {going[0][:2]}"
    for client, server, network in going:
        turn += 1
        if turn % 3 == 0:
            now = chance.choice(steps) if sys.argv[4] == "back and forth" else now + steps[0]
            set_clock(now)
        for session in (client, server):
            if session.handshake():
                assert session.receive() is None
            session.handle_timeout()
            timer = session.timeout()
            assert timer is None or timer <= 60.0, timer
        network.carry()
    time.sleep(0.001)
for client, server, network in networks:
    for _ in range(6):
        network.carry()
    for session in (client, server):
        assert session.receive() is None
    assert echoes(client, server)
"""


def run(program: str, folder: Path, *arguments: str) -> str:
    """Run a program whose realtime clock stands in folder/clock, in milliseconds to add."""
    clock = folder / "clock"
    clock.write_bytes(struct.pack("=qq", 0, 0))
    library = compile_peer("stepped_clock.c", "-shared", "-fPIC")
    env = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(clock)}
    return python_in_silence(START + program, str(clock), *arguments, env=env, timeout=120)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "how"),
    [
        (f"0 {HOUR} {-HOUR} {24 * HOUR}", "back and forth"),
        ("0 1000 -1000 20 -20 5 -5 1 -1", "back and forth"),
        (f"0 {YEARS} {-YEARS // 2} {49 * 24 * HOUR} {-50 * 24 * HOUR}", "back and forth"),
        ("61000", "on and on"),
        ("-7", "on and on"),
        ("-61000", "on and on"),
    ],
)
def test_steps_of_the_realtime_clock_end_no_handshake(steps: str, how: str, tmp_path: Path) -> None:
    """20 handshakes over a network that loses, doubles and delays, a step every few calls."""
    run(PROGRAM, tmp_path, steps, "4711", how)


FROZEN = """
from tests.support.peers import client_of

client = client_of("PSK", retransmit_timeout=0.1, handshake_timeout=1.5)
began = time.monotonic()
sent = []

def freeze():
    set_clock(-int((time.monotonic() - began) * 1000))

while not client.closed:
    freeze()
    try:
        client.handshake()
    except TimeoutError:
        break
    sent += [time.monotonic() - began] * len(client.datagrams_to_send())
    time.sleep(max(0.001, client.timeout() or 0))
assert 3 <= len(sent) <= 5, sent  # at 0, 0.1, 0.3, 0.7
assert 0.09 <= sent[1] < sent[2] < sent[3], sent
assert 1.5 <= time.monotonic() - began < 10
"""


def test_a_realtime_clock_that_stands_still_stalls_no_retransmission(tmp_path: Path) -> None:
    """Timers and the total time go on by the monotonic clock."""
    run(FROZEN, tmp_path)


LAST_FLIGHT = """
from tests.support.peers import deliver, echoes, pair, wait_for_timer

for kind in ("PSK", "X.509"):
    set_clock(0)
    client, server = pair(kind)
    while not server.established:
        client.handshake()
        deliver(client, server)
        if not server.handshake():
            deliver(server, client)
    for lost in range(3):
        assert server.datagrams_to_send(), "it is to be sent again"
        set_clock(3600_000 * (lost + 1))
        wait_for_timer(client)
        deliver(client, server)
        assert server.receive() is None
    deliver(server, client)
    assert client.handshake()
    assert echoes(client, server)
"""


def test_a_step_after_the_last_flight_leaves_it_there_to_be_sent_again(tmp_path: Path) -> None:
    """The server is established, and what it sent last is lost, three times."""
    run(LAST_FLIGHT, tmp_path)


BEFORE_IT_BEGAN = """
from gnutls_cookie.errors import TimedOutError
from tests.support.peers import deliver, echoes, pair

ended = 0
for offset in range(0, 500, 5):  # hundredths of milliseconds
    client, server = pair(retransmit_timeout=30.0, handshake_timeout=60.0)
    set_clock(0)
    began = time.time()
    server.handshake()
    client.handshake()
    deliver(client, server)
    set_clock(int((began - time.time()) * 1000) - 5)
    while time.time() < began - 0.005 + offset / 100_000:
        pass
    try:
        for one, other in ((server, client), (client, server), (server, client)):
            one.handshake()
            deliver(one, other)
    except TimedOutError:
        ended += 1
        continue
    assert client.handshake()
    assert echoes(client, server)
print(ended)
"""


def test_a_clock_set_back_to_just_before_a_handshake_began_does_not_end_it(tmp_path: Path) -> None:
    """libgnutls takes a difference of -1 ms for its longest time. On a busy machine the moment may
    lie within a call; without the wait it ends one in twenty of these handshakes."""
    assert int(run(BEFORE_IT_BEGAN, tmp_path)) <= 2


STEPS_ANYWHERE = """
from tests.support.peers import KINDS, echoes, pair, shake

for number in range(60):
    os.pwrite(clock, struct.pack("=q", 2 + number % 30), 8)
    client, server = pair(KINDS[number % 2], handshake_timeout=60.0)
    shake(client, server)
    assert echoes(client, server)
"""


def test_the_clock_may_step_between_any_two_looks_at_it(tmp_path: Path) -> None:
    """Within a call of libgnutls, too: in its first, as a session is made, most of all."""
    run(STEPS_ANYWHERE, tmp_path)
