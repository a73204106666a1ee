"""What would crash C or lose an exception: every wrong argument, every push that misbehaves.

Errors must name the argument; nothing may be written to stderr. The worst runs in a child, whose
exit code and stderr are looked at.
"""

from __future__ import annotations

import array
import ctypes
import gc
import mmap
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gnutls_cookie import (
    BadCookieError,
    CookieGate,
    InvalidRequestError,
    KeyRing,
    Prestate,
    PushError,
    UnexpectedPacketLengthError,
    cookie_send,
    cookie_verify,
    prestate_set,
)
from gnutls_cookie._ffi import ffi, lib
from gnutls_cookie.cookie import cookie_reply
from gnutls_cookie.handles import TABLE
from gnutls_cookie.reference import cookie as reference
from tests.support.common import (
    cookie_of,
    forking,
    hello_with,
    libgnutls,
    missing,
    python_in_silence,
)

KEY, CLIENT = b"k" * 16, b"client"
HELLO = hello_with(cookie_of(KEY, CLIENT))


@pytest.fixture(autouse=True)
def _silent(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing on stderr, from Python, cffi or C."""
    yield
    assert capfd.readouterr().err == ""


def push(transport: object, data: bytes) -> int:
    return len(data)


def send(**changed: Any) -> int:
    arguments = {
        "key": KEY,
        "client_data": CLIENT,
        "prestate": Prestate(),
        "transport": None,
        "push": push,
    }
    return cookie_send(**{**arguments, **changed})


def verify(**changed: Any) -> Prestate:
    arguments: dict[str, Any] = {"key": KEY, "client_data": CLIENT, "message": HELLO}
    return cookie_verify(**{**arguments, **changed})


def reply(**changed: Any) -> bytes:
    arguments: dict[str, Any] = {"key": KEY, "client_data": CLIENT, "prestate": Prestate()}
    return cookie_reply(**{**arguments, **changed})


BUFFERS = [
    (send, "key"),
    (send, "client_data"),
    (verify, "key"),
    (verify, "client_data"),
    (verify, "message"),
    (reply, "key"),
    (reply, "client_data"),
]


# --- wrong arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize(("call", "argument"), BUFFERS)
@pytest.mark.parametrize(
    "value", ["text", 5, 0, -1, 2**70, 1.0, [1, 2], (1,), {}, object(), bytes, Ellipsis, ffi.NULL]
)
def test_no_bytes_like_object_is_a_type_error_that_names_the_argument(
    call: Callable[..., object], argument: str, value: object
) -> None:
    """Wrong types never reach C; a number is neither a length nor an address."""
    with pytest.raises(TypeError, match=rf"\b{argument}\b"):
        call(**{argument: value})


@pytest.mark.parametrize(
    ("call", "argument"), [item for item in BUFFERS if item[1] != "client_data"]
)
def test_none_stands_for_client_data_only(call: Callable[..., object], argument: str) -> None:
    """None as client_data is NULL, 0; as key or message it is a TypeError that names it."""
    with pytest.raises(TypeError, match=rf"\b{argument}\b"):
        call(**{argument: None})


@pytest.mark.parametrize(("call", "argument"), BUFFERS)
@pytest.mark.parametrize(
    "view",
    [
        memoryview(bytes(200))[::2],
        memoryview(bytes(200))[::-1],
        memoryview(bytearray(200)).cast("B", [10, 20])[::3],
    ],
    ids=["every second", "backwards", "every third row"],
)
def test_gaps_are_a_value_error_that_names_the_argument(
    call: Callable[..., object], argument: str, view: memoryview
) -> None:
    """C would read the bytes between: not contiguous is a ValueError."""
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        call(**{argument: view})


@pytest.mark.parametrize(("call", "argument"), BUFFERS)
def test_closed_buffer_is_a_value_error_that_names_the_argument(
    call: Callable[..., object], argument: str
) -> None:
    """A released view and a closed mmap have no bytes any more."""
    released = memoryview(bytes(16))
    released.release()
    closed = mmap.mmap(-1, 16)
    closed.close()
    for value in (released, closed):
        with pytest.raises(ValueError, match=rf"\b{argument}\b"):
            call(**{argument: value})


@pytest.mark.parametrize(("call", "argument"), BUFFERS)
def test_read_only_buffers_are_fine(call: Callable[..., object], argument: str) -> None:
    """C reads only, so a read-only view is as good as any."""
    value = {"key": KEY, "client_data": CLIENT, "message": HELLO}[argument]
    call(**{argument: memoryview(bytearray(value)).toreadonly()})


def test_failing_buffer_protocol_names_the_argument() -> None:
    """An array whose memory cannot be had now is an error of the caller's, not a crash."""
    numbers = array.array("B", KEY)
    with memoryview(numbers):
        assert send(key=numbers) == 44
        with pytest.raises(BufferError):
            numbers.append(1)


@pytest.mark.parametrize(
    ("call", "argument"), [item for item in BUFFERS if item[1] in ("key", "message")]
)
def test_more_than_4_gib(call: Callable[..., object], argument: str) -> None:
    """A key beyond gnutls_datum_t is an OverflowError that names it; a message is fine."""
    if sys.maxsize < 2**33:
        pytest.skip("no such sizes on this machine")
    try:
        # Read-only pages of zeros that are never touched: no memory is used.
        huge = mmap.mmap(-1, 2**32 + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError) as error:
        missing(f"4 GiB cannot be mapped: {error}")
    with huge:
        if argument == "key":
            with pytest.raises(OverflowError, match=r"\bkey\b"):
                call(key=huge)
        else:
            with pytest.raises(BadCookieError):
                call(message=huge)


@pytest.mark.parametrize("function", [send, verify, reply])
def test_bytes_of_more_than_4_gib_as_key(function: Callable[..., object]) -> None:
    """bytes take a path of their own, without a view, and are measured there too."""
    if sys.maxsize < 2**33:
        pytest.skip("no such sizes on this machine")
    try:
        huge = bytes(2**32 + 1)  # zeros of calloc(), never touched
    except MemoryError as error:
        missing(f"no 4 GiB of addresses: {error}")
    with pytest.raises(OverflowError, match=r"\bkey\b"):
        function(key=huge)


@pytest.mark.parametrize("function", [send, verify, reply])
def test_empty_key_is_an_error_of_libgnutls(function: Callable[..., object]) -> None:
    """Where C has an answer of its own, that answer is given."""
    for key in (b"", bytearray(), memoryview(b"")):
        with pytest.raises(InvalidRequestError):
            function(key=key)


@pytest.mark.parametrize("call", [send, verify, reply])
@pytest.mark.parametrize(
    "prestate", [0, 1, b"\0" * 12, (0, 0, 0), ffi.NULL, object(), Prestate, "p"]
)
def test_no_prestate_is_a_type_error(call: Callable[..., object], prestate: object) -> None:
    """NULL or any other memory in place of the struct would be written through."""
    with pytest.raises(TypeError, match=r"\bprestate\b"):
        call(prestate=prestate)


def test_send_refuses_none_as_prestate() -> None:
    """verify makes a new one for None; C's send would crash on NULL."""
    for call in (send, reply):
        with pytest.raises(TypeError, match=r"\bprestate\b"):
            call(prestate=None)


@pytest.mark.parametrize("value", [None, 0, "push", b"", [], object()])
def test_no_callable_is_a_type_error(value: object) -> None:
    """C would jump to it."""
    with pytest.raises(TypeError, match=r"\bpush\b"):
        send(push=value)


@pytest.mark.parametrize(
    "transport", [None, 0, "x", object(), -1, 2**70, ffi.NULL, lambda: None, float("nan")]
)
def test_transport_may_be_anything(transport: object) -> None:
    """It is given back as it is, and C never sees it."""
    given: list[object] = []
    send(transport=transport, push=lambda got, data: given.append(got))
    assert given[0] is transport


@pytest.mark.parametrize("function", [cookie_send, cookie_verify, cookie_reply, prestate_set])
def test_wrong_number_of_arguments_is_a_type_error(function: Callable[..., object]) -> None:
    """Python's own check."""
    for arguments in ((), (1,), (1,) * 7):
        with pytest.raises(TypeError):
            function(*arguments)


@pytest.mark.parametrize("size", [*range(62), 77])
def test_short_message_at_the_very_end_of_memory(size: int) -> None:
    """C reads no byte beyond the datagram: it lies in front of a page that cannot be read."""
    with guarded(HELLO[:size]) as message, pytest.raises(UnexpectedPacketLengthError):
        verify(message=message)


@pytest.mark.parametrize("size", [78, 79, 100, len(HELLO)])
def test_good_message_at_the_very_end_of_memory(size: int) -> None:
    """Nor beyond one that verifies; nor beyond key and client_data."""
    with guarded(HELLO[:size]) as message, guarded(KEY) as key, guarded(CLIENT) as client:
        assert verify(message=message, key=key, client_data=client) == Prestate(1, 1, 0)
        assert send(key=key, client_data=client) == 44


class guarded:
    """Some bytes whose end is the end of readable memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __enter__(self) -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        self._memory = mmap.mmap(-1, 2 * mmap.PAGESIZE)
        view = (ctypes.c_char * (2 * mmap.PAGESIZE)).from_buffer(self._memory)
        start = ctypes.addressof(view)
        end = ctypes.c_void_p(start + mmap.PAGESIZE)
        assert libc.mprotect(end, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
        self._memory[mmap.PAGESIZE - len(self._data) : mmap.PAGESIZE] = self._data
        kept = (ctypes.c_char * len(self._data)).from_address(
            start + mmap.PAGESIZE - len(self._data)
        )
        kept.owner = view  # type: ignore[attr-defined]
        return kept

    def __exit__(self, *_: object) -> None:
        pass


# --- sessions -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "session",
    [
        0,
        ffi.NULL,
        ffi.cast("gnutls_session_t", 0),
        ctypes.c_void_p(),
        ctypes.c_void_p(0),
        ctypes.POINTER(ctypes.c_char)(),
    ],
    ids=["0", "cffi NULL", "typed cffi NULL", "empty c_void_p", "c_void_p(0)", "ctypes NULL"],
)
def test_null_session_is_a_value_error(session: object) -> None:
    """Each way to say NULL."""
    with pytest.raises(ValueError, match=r"\bsession\b"):
        prestate_set(session, Prestate())


@pytest.mark.parametrize("session", [-1, -(2**63), 2**64, 2**70])
def test_number_that_is_not_an_address_is_an_overflow(session: int) -> None:
    """A pointer holds 0..UINTPTR_MAX."""
    with pytest.raises(OverflowError, match=r"\bsession\b"):
        prestate_set(session, Prestate())


@pytest.mark.parametrize("session", [1, 8, 4095, 2**20 + 1, ctypes.c_void_p(8)])
def test_address_where_nothing_can_be_is_a_value_error(session: object) -> None:
    """The first page is never mapped, and what libgnutls allocates is aligned."""
    with pytest.raises(ValueError, match=r"\bsession\b"):
        prestate_set(session, Prestate())


def wrong_sessions() -> list[Any]:
    number = ctypes.c_uint64(1)
    return [
        None,
        True,
        "session",
        b"12345678",
        1.0,
        object(),
        [1],
        Prestate(),
        number,
        ctypes.pointer(ctypes.c_void_p(1)),
        ctypes.pointer(ctypes.pointer(number)),
        ffi.new("gnutls_session_t *"),
        ffi.cast("uintptr_t", 1),
        ffi.new("gnutls_datum_t *")[0],
        ffi.new("unsigned char[8]"),
        ffi.new("int *"),
        ffi.cast("char *", 2**20),
        lib.gnutls_memset,
    ]


@pytest.mark.parametrize("index", range(len(wrong_sessions())))
def test_what_is_not_a_session_is_a_type_error(index: int) -> None:
    """Other types, values that are not pointers, and pointers to a pointer."""
    with pytest.raises(TypeError, match=r"\bsession\b"):
        prestate_set(wrong_sessions()[index], Prestate())


@pytest.mark.parametrize("prestate", [None, 0, b"\0" * 12, (0, 0, 0), ffi.NULL])
def test_no_prestate_for_a_session_is_a_type_error(prestate: Any) -> None:
    """C would read through it."""
    session = ctypes.c_void_p()
    assert libgnutls().gnutls_init(ctypes.byref(session), 1 | 4) == 0
    try:
        with pytest.raises(TypeError, match=r"\bprestate\b"):
            prestate_set(session, prestate)
        prestate_set(session, Prestate(1, 1, 0))
    finally:
        libgnutls().gnutls_deinit(session)


@pytest.fixture(scope="module")
def huge() -> Iterator[memoryview]:
    """2**31 bytes and one more, of which no page is ever touched."""
    if sys.maxsize < 2**32:
        pytest.skip("32 bits")
    with mmap.mmap(-1, 2**31 + 1) as memory, memoryview(memory) as seen:
        yield seen


@pytest.mark.parametrize("size", [2**31, 2**31 + 1])
@pytest.mark.parametrize(
    ("name", "take"),
    [
        ("key", lambda key: send(key=key)),
        ("key", lambda key: verify(key=key)),
        ("key", lambda key: reply(key=key)),
        ("current", KeyRing),
        ("previous", lambda key: KeyRing(KEY, key)),
        ("key", lambda key: KeyRing(KEY).rotate(key)),
        ("secret", KeyRing.from_secret),
        ("keys", CookieGate),
        ("key", lambda key: reference.cookie(key, CLIENT)),
    ],
    ids=[
        *("send", "verify", "reply", "current", "previous", "rotate", "secret", "gate"),
        "reference",
    ],
)
def test_key_beyond_c_s_int_is_an_overflow(
    name: str, take: Callable[[Any], object], size: int, huge: memoryview
) -> None:
    """lib/dtls.c makes an int of the size, and crashes; nothing is copied, C is not asked."""
    with huge[:size] as key, pytest.raises(OverflowError, match=rf"^{name} .*2\*\*31-1.*{size}"):
        take(key)


# --- a push that misbehaves -----------------------------------------------------------------------


class Odd(BaseException):
    """Neither an Exception nor anything that Python knows."""


@pytest.mark.parametrize(
    "error",
    [
        ValueError("mine"),
        OSError(101, "Network is unreachable"),
        KeyboardInterrupt(),
        SystemExit(3),
        GeneratorExit(),
        StopIteration(),
        MemoryError(),
        RecursionError(),
        PushError(-53),
        BadCookieError(-214),
        Odd(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_push_raises_comes_out_as_the_same_object(error: BaseException) -> None:
    """Not wrapped, not copied, not printed; twice in a row, with every kind of argument."""

    def failing(transport: object, data: bytes) -> int:
        raise error

    for key in (KEY, bytearray(KEY)):
        with pytest.raises(type(error)) as caught:
            send(key=key, push=failing)
        assert caught.value is error
        names = [entry.name for entry in caught.traceback]
        assert names[-1] == "failing"
    assert len(TABLE) == 0
    assert send() == 44


def test_context_of_what_push_raises_is_kept() -> None:
    """`raise ... from` in a push is seen by the caller."""

    def failing(transport: object, data: bytes) -> int:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error

    with pytest.raises(ValueError, match="second") as caught:
        send(push=failing)
    assert isinstance(caught.value.__cause__, KeyError)


RECURSION = """
import sys
from gnutls_cookie import PSKCredentials, Prestate, Session, cookie_send
from gnutls_cookie.handles import TABLE

reached = pushed = 0
def push(transport, data):
    global pushed
    pushed += 1
    cookie_send(b"k", b"c", Prestate(), None, push)

def handshake():
    server = Session("server", PSKCredentials(lookup=lambda identity: handshake()))
    client = Session("client", PSKCredentials("i", b"k"))
    while not server.handshake():
        client.handshake()
        for one, other in (client, server), (server, client):
            for datagram in one.datagrams_to_send():
                other.receive_datagram(datagram)

def at(depth, function, *arguments):
    if depth:
        return at(depth - 1, function, *arguments)
    function(*arguments)

for limit, function, arguments in [
    *((limit, cookie_send, (b"k", b"c", Prestate(), None, push)) for limit in (300, 1000, 3000)),
    (300, handshake, ()),
]:
    sys.setrecursionlimit(limit)
    for depth in range(40):
        try:
            at(depth, function, *arguments)
        except RecursionError:
            reached += 1
    assert len(TABLE) == 0
sys.setrecursionlimit(1000)
print(reached, pushed > reached)
"""


def test_recursion_at_whatever_depth_comes_out() -> None:
    """A push that sends, a lookup that shakes hands: where the stack ends, C is not blamed."""
    assert python_in_silence(RECURSION, timeout=120) == "160 True\n"


def test_endless_recursion_in_push_comes_out() -> None:
    """A RecursionError is an exception like others."""

    def endless(transport: object, data: bytes) -> int:
        return endless(transport, data)

    with pytest.raises(RecursionError):
        send(push=endless)


@pytest.mark.parametrize(
    ("value", "result"),
    [(None, 44), (True, 1), (False, 0), (0, 0), (10, 10), (2**32 + 5, 5), (2**31 - 1, 2**31 - 1)],
)
def test_value_that_c_takes_comes_back(value: Any, result: int) -> None:
    """As C narrows it."""
    assert send(push=lambda transport, data: value) == result


@pytest.mark.parametrize(
    "value",
    [-1, -(2**31), -(2**70), 2**31, 2**63, 2**70, "x", b"", 1.5, [], {}, object(), ffi.NULL],
)
def test_value_that_c_cannot_take_is_a_push_error(value: Any) -> None:
    """Negative for C, too large or not an int: PushError, and the next call is as good as new."""
    with pytest.raises(PushError) as caught:
        send(push=lambda transport, data: value)
    assert caught.value.code == -53
    assert send() == 44


def test_integer_of_a_subclass_cannot_lie() -> None:
    """What an int subclass says of itself does not reach C unconverted."""

    class Liar(int):
        def __gt__(self, other: object) -> bool:
            return False

        def __lt__(self, other: object) -> bool:
            return False

        def __index__(self) -> int:
            return 2**70

        __int__ = __index__

    assert send(push=lambda transport, data: Liar(7)) == 7
    for value in (Liar(-7), Liar(2**70), Liar(-(2**70))):
        with pytest.raises(PushError):
            send(push=lambda transport, data, value=value: value)
    assert Prestate(Liar(7)) == Prestate(7)
    with pytest.raises(OverflowError, match="record_seq"):
        Prestate(Liar(2**70))


def test_push_with_the_wrong_signature_is_a_type_error() -> None:
    """Raised inside of the callback, comes out of the call."""
    with pytest.raises(TypeError, match="argument"):
        send(push=lambda: None)


def test_push_may_send_again() -> None:
    """A push that calls cookie_send gets its own transport, and so does the inner one."""
    seen: list[tuple[int, int]] = []

    def nested(depth: int, data: bytes) -> int:
        seen.append((depth, data[10]))
        if depth < 20:
            inner = cookie_send(KEY, CLIENT, Prestate(depth + 1), depth + 1, nested)
            assert inner == depth + 101
        assert len(TABLE) == depth + 1
        return depth + 100

    assert cookie_send(KEY, CLIENT, Prestate(0), 0, nested) == 100
    assert seen == [(depth, depth) for depth in range(21)]


def test_exception_of_an_inner_send_is_the_inner_one_s() -> None:
    """Caught inside of the push it does not come out again."""
    error = ValueError("inner")

    def inner(transport: object, data: bytes) -> int:
        raise error

    def outer(transport: object, data: bytes) -> int:
        with pytest.raises(ValueError, match="inner") as caught:
            send(push=inner)
        assert caught.value is error
        return 7

    assert send(push=outer) == 7


def test_push_may_verify_and_change_the_prestate() -> None:
    """The struct may be written while C is in the call: it has been read by then."""
    prestate = Prestate(3)

    def busy(transport: object, data: bytes) -> int:
        prestate.record_seq = 9
        return verify(prestate=prestate).record_seq

    assert send(prestate=prestate, push=busy) == 1
    assert prestate == Prestate(1, 1, 0)


class Transport:
    """Something that a weak reference can watch."""


def test_transport_lives_until_the_call_ends_and_no_longer() -> None:
    """Its last other reference goes away inside of push: it is alive there, and gone afterwards."""
    box = [Transport()]
    watch = weakref.ref(box[0])
    alive: list[bool] = []

    def dropping(transport: Transport, data: bytes) -> int:
        del transport
        gc.collect()
        alive.append(watch() is not None)
        return len(data)

    gc.disable()
    try:
        assert cookie_send(KEY, CLIENT, Prestate(), box.pop(), dropping) == 44
        assert (alive, watch()) == ([True], None)
    finally:
        gc.enable()


def test_failed_push_keeps_its_transport_no_longer_than_the_exception() -> None:
    """No cycle between the exception's frames and the call: gone without a garbage collection."""
    box = [Transport()]
    watch = weakref.ref(box[0])

    def failing(transport: Transport, data: bytes) -> int:
        raise ValueError

    gc.collect()
    gc.disable()
    try:
        try:
            cookie_send(KEY, CLIENT, Prestate(), box.pop(), failing)
        except ValueError:
            assert watch() is not None  # in the traceback
        assert watch() is None
    finally:
        gc.enable()


def test_buffers_are_pinned_for_the_call() -> None:
    """A push that shrinks the key under C gets a BufferError, and C keeps its memory."""
    key = bytearray(KEY)

    def shrinking(transport: object, data: bytes) -> int:
        key.clear()
        return 1

    with pytest.raises(BufferError):
        send(key=key, push=shrinking)
    assert key == KEY
    key.clear()  # and free again afterwards


# --- threads and processes ------------------------------------------------------------------------


def test_8_threads_send_and_verify() -> None:
    """Each gets its own cookies, verifies its own hellos, and its own exceptions."""
    wrong: list[object] = []
    start = threading.Barrier(8)

    def work(which: int) -> None:
        who = b"client %d" % which
        cookie = cookie_of(KEY, who)
        error = ValueError(which)

        def failing(transport: object, data: bytes) -> int:
            raise error

        start.wait()
        for turn in range(1500):
            sent: list[bytes] = []
            cookie_send(KEY, who, Prestate(turn), sent, lambda to, data: to.append(data))
            if sent[0][28:] != cookie or sent[0][10] != turn & 0xFF:
                wrong.append((which, turn, sent))
            if cookie_verify(KEY, who, hello_with(cookie, seq=which)) != Prestate(which, which, 0):
                wrong.append((which, turn, "verify"))
            try:
                cookie_verify(KEY, who, HELLO)
                wrong.append((which, turn, "verified"))
            except BadCookieError:
                pass
            try:
                cookie_send(KEY, who, Prestate(), None, failing)
                wrong.append((which, turn, "sent"))
            except ValueError as caught:
                if caught is not error:
                    wrong.append((which, turn, caught))

    threads = [threading.Thread(target=work, args=(which,)) for which in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(TABLE) == 0


FORKS = """
import os, sys, threading
from gnutls_cookie import BadCookieError, Prestate, cookie_send, cookie_verify, generate_key
from gnutls_cookie.handles import TABLE
from tests.support.common import hello_with

key, sent = generate_key(), []
stop = threading.Event()
def busy():
    while not stop.is_set():
        cookie_send(key, b"busy", Prestate(), None, lambda transport, data: None)
threads = [threading.Thread(target=busy) for _ in range(int(sys.argv[1]))]
for thread in threads:
    thread.start()
cookie_send(key, b"client", Prestate(), sent, lambda to, data: to.append(data))
hello = hello_with(sent[0][28:])
for turn in range(30):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # Sent by the parent, verified here; then an exchange of its own.
            ok = cookie_verify(key, b"client", hello) == Prestate(1, 1, 0)
            own = []
            ok &= cookie_send(key, b"own", Prestate(), own, lambda to, data: to.append(data)) == 44
            ok &= cookie_verify(key, b"own", hello_with(own[0][28:])) == Prestate(1, 1, 0)
            try:
                cookie_verify(key, b"other", hello)
                ok = False
            except BadCookieError:
                pass
            status = 0 if ok else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, turn
    assert cookie_verify(key, b"client", hello) == Prestate(1, 1, 0)
stop.set()
for thread in threads:
    thread.join()
assert len(TABLE) == 0
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("threads", [0, 3])
def test_fork_between_send_and_verify(threads: int) -> None:
    """The child verifies what the parent sent, also where threads of the parent are in a call."""
    assert python_in_silence(FORKS, str(threads), env=forking(), timeout=120) == "done\n"


WORST = """
import ctypes, gc, itertools, sys
from gnutls_cookie import *
from gnutls_cookie.handles import TABLE
from gnutls_cookie._ffi import ffi, lib

class Evil:
    def __call__(self, *a): raise SystemExit(9)
    def __index__(self): raise KeyboardInterrupt
    def __bytes__(self): raise MemoryError
    def __len__(self): return -1
    def __getattr__(self, name): raise RuntimeError(name)

values = [None, 0, 1, -1, True, 2**63, 2**70, "x", b"", b"x", bytearray(), b"y" * 70, 1.5, [], {},
          memoryview(b"zz")[::2], memoryview(b""), b"\\0" * 62, object(), Evil(), Evil, print,
          ffi.NULL, Prestate(), Prestate, Ellipsis, ctypes.c_int(0), range(3), slice(None)]
calls = 0
for function, count in ((cookie_verify, 3), (cookie_verify, 4), (prestate_set, 2)):
    for arguments in itertools.product(values, repeat=count):
        if function is prestate_set and isinstance(arguments[0], int) and arguments[0] > 0:
            continue  # an int is taken at its word: it is an address
        calls += 1
        try:
            function(*arguments)
        except (TypeError, ValueError, OverflowError):
            pass
def ok(transport, data): return len(data)
for arguments in itertools.product(values, values, values, [None, Evil()], [*values, ok]):
    if arguments[4] is print:
        continue
    calls += 1
    try:
        cookie_send(*arguments)
    except (TypeError, ValueError, OverflowError, PushError):
        pass
    except SystemExit as error:
        assert error.code == 9
for number in [0, 1, 2, 99, 2**31, 2**63, 2**64 - 1]:
    assert lib.gcookie_push(ffi.cast("void *", number), b"datagram", 8) == -1
    assert lib.gcookie_push(ffi.cast("void *", number), ffi.NULL, 0) == -1
assert len(TABLE) == 0
gc.collect()
print(calls > 50000)
"""


def test_every_mixture_of_wrong_arguments_in_a_child() -> None:
    """Very many calls with nonsense: only the errors that are promised, no crash."""
    assert python_in_silence(WORST, timeout=300) == "True\n"


def test_the_child_would_show_a_crash() -> None:
    """What these tests look at does change when C is given a NULL: the detector detects."""
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
        "from gnutls_cookie._ffi import ffi, lib\n"
        "lib.gnutls_dtls_prestate_set(ffi.NULL, ffi.new('gnutls_dtls_prestate_st *'))"
    )
    with pytest.raises(AssertionError, match=r"-\d+: Fatal Python error"):
        python_in_silence(code)
