"""Calls leave no memory and no loan behind, whichever way they end."""

from __future__ import annotations

import sys

import pytest

from tests.support.common import python_in_silence

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/statm"),
]

MIB = 1024 * 1024

# One turn is one send and one verify. The last argument plants a leak, to prove the detector.
CALLS = """
import gc, os, sys
from gnutls_cookie import (BadCookieError, InvalidRequestError, Prestate, PushError, cookie_send,
                           cookie_verify, UnexpectedPacketLengthError)
from gnutls_cookie.handles import TABLE
from tests.support.common import cookie_of, hello_with

how, turns, planted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
key, who, prestate = b"k" * 16, b"client", Prestate()
good, bad = hello_with(cookie_of(key, who)), hello_with(bytes(16))
buffers = bytearray(key), memoryview(who), bytearray(good)
class Transport: pass
leaked = []

def push(transport, data):
    return len(data)

def failing(transport, data):
    raise ValueError(transport)

def fine(turn):
    cookie_send(key, who, prestate, Transport(), push)
    cookie_verify(key, who, good)

def views(turn):
    cookie_send(buffers[0], buffers[1], prestate, Transport(), push)
    cookie_verify(buffers[0], None, buffers[2]) if turn < 0 else cookie_verify(*buffers, prestate)

def raising(turn):
    try: cookie_send(key, who, prestate, Transport(), failing)
    except ValueError: pass
    try: cookie_verify(key, who, bad)
    except BadCookieError: pass

def refused(turn):
    try: cookie_send(key, who, prestate, Transport(), lambda transport, data: "x")
    except PushError: pass
    try: cookie_verify(key, who, good[:40])
    except UnexpectedPacketLengthError: pass

def wrong(turn):
    try: cookie_send(b"", who, prestate, Transport(), push)
    except InvalidRequestError: pass
    try: cookie_send(key, 5, prestate, Transport(), push)
    except TypeError: pass
    try: cookie_verify("x", who, good)
    except TypeError: pass

def mixed(turn):
    (fine, views, raising, refused, wrong)[turn % 5](turn)

def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

def run(count):
    call = globals()[how]
    for turn in range(count):
        call(turn)
        if planted and turn % planted == 0:
            leaked.append(bytearray(100))

gc.disable()  # what only the garbage collector would find is a leak too
run(20_000)
before = rss()
run(turns)
print(rss() - before, len(TABLE))
"""


def grown(how: str, turns: int, planted: int = 0) -> int:
    """Bytes by which a process grew over that many sends and verifies, after a warm-up."""
    out = python_in_plain_memory(how, turns, planted)
    growth, lent = map(int, out.split())
    assert lent == 0
    print(f"{how}: {growth} bytes after {turns} turns")
    return growth


def python_in_plain_memory(how: str, turns: int, planted: int) -> str:
    # malloc's own arenas and thresholds made constant, so that RSS tells of our memory alone.
    env = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072"}
    return python_in_silence(CALLS, how, str(turns), str(planted), env=env, timeout=500, dev=False)


@pytest.mark.parametrize("turns", [150_000, pytest.param(1_000_000, marks=pytest.mark.long)])
@pytest.mark.parametrize("how", ["fine", "mixed"])
def test_many_sends_and_verifies_leave_rss_within_1_mib(how: str, turns: int) -> None:
    """7 bytes lost in each would show. All successes, and mostly failures of every kind."""
    assert grown(how, turns) < MIB


@pytest.mark.parametrize("how", ["views", "raising", "refused", "wrong"])
def test_each_way_to_end_leaves_nothing(how: str) -> None:
    """One by one, so that a leak in one cannot hide among the others."""
    assert grown(how, 60_000) < MIB


def test_a_planted_leak_is_detected() -> None:
    """100 bytes lost in every fourth turn are seen, so the detector detects."""
    assert grown("fine", 60_000, planted=4) > MIB
