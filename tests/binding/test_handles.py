"""HandleTable: numbers lent to C that never find another object than their own."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable
from types import FrameType

import pytest

from gnutls_cookie import HandleTable, Prestate, cookie_send, handles
from gnutls_cookie._ffi import ffi, lib
from gnutls_cookie.handles import TABLE, Transport
from tests.support.common import forking, python_in_silence


class Thing:
    """Something that a weak reference can watch."""


def test_what_a_callback_raised_is_raised_once() -> None:
    """The next call of the same transport begins without it."""
    transport = Transport()
    transport.raised = KeyError("once")
    with pytest.raises(KeyError, match="once"):
        transport.raise_again()
    transport.raise_again()
    assert transport.raised is None


def test_lent_object_is_found_until_reclaimed() -> None:
    """lend, get, reclaim; len counts the open loans."""
    table = HandleTable()
    thing = Thing()
    handle = table.lend(thing)
    assert table.get(handle) is thing
    assert handle in table
    assert len(table) == 1
    table.reclaim(handle)
    assert table.get(handle) is None
    assert handle not in table
    assert len(table) == 0


def test_reclaiming_twice_or_a_stranger_changes_nothing() -> None:
    """A handle that is not lent is left alone."""
    table = HandleTable()
    kept = table.lend("kept")
    gone = table.lend("gone")
    for handle in (gone, gone, 0, -1, 2**70):
        table.reclaim(handle)
    assert (table.get(kept), len(table)) == ("kept", 1)


def test_handle_is_never_given_twice() -> None:
    """Whatever was reclaimed before, and in whichever table: each number is new and positive."""
    seen: set[int] = set()
    tables = [HandleTable(), HandleTable()]
    for turn in range(2000):
        table = tables[turn % 2]
        handle = table.lend(turn)
        assert handle > 0
        assert handle not in seen
        seen.add(handle)
        table.reclaim(handle)


def test_handle_of_one_table_finds_nothing_in_another() -> None:
    """Numbers are unique over all tables, so they cannot be mixed up."""
    one, other = HandleTable(), HandleTable()
    handle = one.lend("one")
    other.lend("other")
    assert other.get(handle) is None


def test_same_object_may_be_lent_twice() -> None:
    """Each loan has a number and an end of its own."""
    table = HandleTable()
    thing = Thing()
    first, second = table.lend(thing), table.lend(thing)
    assert first != second
    table.reclaim(first)
    assert table.get(second) is thing


def test_loan_keeps_the_object_alive_and_its_end_lets_go() -> None:
    """C knows only a number; the table holds the reference."""
    table = HandleTable()
    thing = Thing()
    watch = weakref.ref(thing)
    handle = table.lend(thing)
    del thing
    gc.collect()
    assert table.get(handle) is watch() is not None
    table.reclaim(handle)
    gc.collect()
    assert watch() is None


def test_with_block_ends_the_loan_also_when_it_raises() -> None:
    """lent() reclaims on every way out."""
    table = HandleTable()
    with table.lent("a") as outer:
        try:
            with table.lent("b") as inner:
                assert (table.get(outer), table.get(inner), len(table)) == ("a", "b", 2)
                raise ZeroDivisionError
        except ZeroDivisionError:
            assert len(table) == 1
    assert len(table) == 0


def test_lending_lends_for_the_length_of_a_call() -> None:
    """The handle comes last, finds the object within, and is reclaimed on return and on errors."""
    table = HandleTable()

    def call(first: str, second: str, handle: int) -> tuple[str, str, object, int]:
        return first, second, table.get(handle), len(table)

    def fail(handle: int) -> None:
        assert table.get(handle) == "lent"
        raise ZeroDivisionError

    assert table.lending("lent", call, "a", "b") == ("a", "b", "lent", 1)
    with pytest.raises(ZeroDivisionError):
        table.lending("lent", fail)
    assert len(table) == 0


def test_lendings_within_one_another_have_handles_of_their_own() -> None:
    """A callback may call back into the binding."""
    table = HandleTable()

    def inner(outer: int, handle: int) -> tuple[object, object, int]:
        return table.get(outer), table.get(handle), len(table)

    def call(handle: int) -> object:
        return table.lending("inner", inner, handle)

    assert table.lending("outer", call) == ("outer", "inner", 2)
    assert len(table) == 0


def test_none_can_be_lent() -> None:
    """None as a value is found in the table, though get() cannot tell it from nothing."""
    table = HandleTable()
    handle = table.lend(None)
    assert handle in table
    assert len(table) == 1


def test_numbers_run_out_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pointer holds no more (32-bit machines) it is an OverflowError, never a reuse."""
    last = ffi.new("uintptr_t *", 2 ** (8 * ffi.sizeof("uintptr_t")) - 3)
    assert [lib.gcookie_count_up(last) for _ in range(5)] == [last[0] - 1, last[0], 0, 0, 0]
    monkeypatch.setattr(handles, "_NEXT_HANDLE", lambda: lib.gcookie_count_up(last))
    table = HandleTable()
    with pytest.raises(OverflowError):
        table.lend("one too many")
    with pytest.raises(OverflowError), table.lent("one too many"):
        pass
    with pytest.raises(OverflowError):
        table.lending("one too many", lambda handle: None)
    assert len(table) == 0


def test_threads_get_different_numbers() -> None:
    """8 threads on one table: no number twice, every loan finds its own, none is left."""
    table = HandleTable()
    numbers: list[list[int]] = [[] for _ in range(8)]
    wrong: list[object] = []
    start = threading.Barrier(8)

    def work(which: int) -> None:
        start.wait()
        for turn in range(5000):
            handle = table.lend((which, turn))
            numbers[which].append(handle)
            if table.get(handle) != (which, turn):
                wrong.append((which, turn))
            table.reclaim(handle)
            if table.get(handle) is not None:
                wrong.append((which, turn, "stale"))

    in_threads(work, 8)
    assert wrong == []
    assert len({number for part in numbers for number in part}) == 8 * 5000
    assert len(table) == 0


FORKS = """
import os, signal, threading
from gnutls_cookie import HandleTable
table, stop = HandleTable(), threading.Event()
def busy():
    while not stop.is_set():
        with table.lent("busy"):
            pass
threads = [threading.Thread(target=busy) for _ in range(3)]
for thread in threads:
    thread.start()
for turn in range(100):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        with table.lent("in the child") as handle:
            os._exit(0 if table.get(handle) == "in the child" else 1)
    assert os.waitpid(child, 0)[1] == 0, turn
stop.set()
for thread in threads:
    thread.join()
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="a child of a free-threaded Python hangs in any dict that a thread was changing",
)
def test_child_of_a_fork_can_lend_though_threads_were_lending() -> None:
    """There is no lock for a thread to hold that is not in the child."""
    assert python_in_silence(FORKS, env=forking(), timeout=120) == "done\n"


# --- the callbacks --------------------------------------------------------------------------------


def call_push(handle: int, data: bytes = b"datagram") -> int:
    return int(lib.gcookie_push(ffi.cast("void *", handle), data, len(data)))


def stale() -> int:
    handle = TABLE.lend(Transport())
    TABLE.reclaim(handle)
    return handle


OTHER = HandleTable()
STALE: dict[str, Callable[[], int]] = {
    "NULL": lambda: 0,
    "reclaimed": stale,
    "never given": lambda: 2**31 - 1,
    "the largest": lambda: 2 ** (8 * ffi.sizeof("uintptr_t")) - 1,
    "lent by another table": lambda: OTHER.lend(Transport()),
}


@pytest.mark.parametrize("kind", STALE)
def test_handle_that_is_not_lent_makes_callbacks_fail(
    kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """-1, no crash, no other object, nothing on stderr."""
    with TABLE.lent(Recorder()) as _:
        assert call_push(STALE[kind]()) == -1
    assert capfd.readouterr() == ("", "")


class Recorder(Transport):
    """A transport that works."""

    __slots__ = ("pushed",)

    def __init__(self) -> None:
        super().__init__()
        self.pushed: list[bytes] = []

    def push(self, data: bytes) -> int:
        self.pushed.append(data)
        return len(data)


def test_lent_transport_is_reached() -> None:
    """push comes to the object behind the handle."""
    with TABLE.lent(Recorder()) as handle:
        assert call_push(handle, b"abc") == 3
        assert TABLE.get(handle).pushed == [b"abc"]


def test_transport_by_default_sends_and_knows_nothing() -> None:
    """-1 from push, no identity."""
    with TABLE.lent(Transport()) as handle:
        assert call_push(handle) == -1
    assert Transport().psk(b"somebody") is None


class Failing(Transport):
    """A transport whose push raises."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def push(self, data: bytes) -> int:
        raise self.error


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exception_in_a_callback_is_stored_and_c_sees_a_failure(
    kind: type[BaseException],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The very object is kept for the call that lent the handle; nothing is printed."""
    error = kind()
    transport = Failing(error)
    with TABLE.lent(transport) as handle:
        assert call_push(handle) == -1
    assert transport.raised is error
    assert capfd.readouterr() == ("", "")


# --- signals --------------------------------------------------------------------------------------


def test_interrupt_at_any_place_of_a_send_comes_out_and_leaves_nothing_lent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Tried at each place in turn where CPython runs signal handlers."""
    places = 0
    while interrupted_at(places):
        assert len(TABLE) == 0
        places += 1
    assert places > 10
    assert capfd.readouterr() == ("", "")


def interrupted_at(place: int) -> bool:
    """Send with an interrupt at the place with that number; False where there are fewer.

    The places: as a function is entered, and after a call into C (the profiler's events "call" and
    "c_return").
    """
    passed = 0
    interrupt = KeyboardInterrupt()

    def profiler(frame: FrameType, event: str, argument: object) -> None:
        nonlocal passed
        if event in ("call", "c_return") and frame.f_code is not send_once.__code__:
            if passed == place:
                passed += 1
                raise interrupt
            passed += 1

    def send_once() -> None:
        gc.disable()  # whose callbacks, of others, let nothing out
        sys.setprofile(profiler)
        try:
            cookie_send(b"key", bytearray(b"client"), Prestate(1, 2, 3), None, push)
        finally:
            sys.setprofile(None)
            gc.enable()

    def push(transport: None, data: bytes) -> int:
        return len(data)

    try:
        send_once()
        raised: object = None
    except KeyboardInterrupt as caught:
        raised = caught
    assert raised is (interrupt if passed > place else None)
    return raised is not None


SENDS_UNDER_FIRE = """
import os, random, signal, sys
from gnutls_cookie import Prestate, cookie_send, cookie_verify
from gnutls_cookie.handles import TABLE
from tests.support.common import hello_with, cookie_of, seeded

how, wanted = sys.argv[1], int(sys.argv[2])
random = seeded()
delivered = caught = 0

def handler(number, frame):
    global delivered
    delivered += 1
    raise KeyboardInterrupt(delivered)

def push(transport, data):
    transport.append(len(data))
    return transport.pop()

if how == "timer":
    signal.signal(signal.SIGALRM, handler)
    def order():
        signal.setitimer(signal.ITIMER_REAL, random.uniform(10e-6, 300e-6))
else:
    signal.signal(signal.SIGINT, handler)
    reading, writing = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        # Sends one real SIGINT for each byte, some time after it.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.close(writing)
        while os.read(reading, 1):
            for _ in range(random.randrange(2000)):
                pass
            os.kill(parent, signal.SIGINT)
        os._exit(0)
    os.close(reading)
    def order():
        os.write(writing, b"!")

key, prestate, hello = b"k" * 16, Prestate(), hello_with(cookie_of(b"k" * 16, b"client"))
sends = 0
for turn in range(1, wanted + 1):
    try:
        order()  # at most one signal at a time: the next is ordered when this one is caught
        while True:
            transport = []
            cookie_send(key, b"client", prestate, transport, push)
            sends += 1
            cookie_verify(key, b"client", hello)
    except KeyboardInterrupt as error:
        caught += 1
        assert error.args == (turn,), (error.args, turn)
    assert len(TABLE) == 0, len(TABLE)
assert delivered == caught == wanted, (delivered, caught)
if how != "timer":
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
print("sends", sends > wanted)
"""


@pytest.mark.parametrize("how", ["timer", "SIGINT"])
def test_real_signal_during_sends_is_never_lost(how: str) -> None:
    """Each of thousands at random moments comes out; after each the table is empty."""
    out = python_in_silence(SENDS_UNDER_FIRE, how, "3000", timeout=120)
    assert out.endswith("sends True\n")


def test_ctrl_c_ends_a_program_that_sends() -> None:
    """SIGINT with Python's own handler: the program ends by it, with a KeyboardInterrupt."""
    code = (
        "from gnutls_cookie import *\n"
        "print('ready', flush=True)\n"
        "while True: cookie_send(b'k', None, Prestate(), None, lambda t, d: None)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        try:
            assert child.stdout.readline() == b"ready\n"
            child.send_signal(signal.SIGINT)
            _, said = child.communicate(timeout=60)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGINT
    assert said.strip().endswith(b"KeyboardInterrupt")
    assert said.count(b"Traceback") == 1


def in_threads(work: Callable[[int], None], count: int) -> None:
    """Run work(0), work(1)... in threads, and raise what any of them raised."""
    errors: list[BaseException] = []

    def guarded(which: int) -> None:
        try:
            work(which)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(which,)) for which in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
