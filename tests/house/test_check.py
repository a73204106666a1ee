"""Checks of arguments: one rule for every function, and errors that name the argument."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

import pytest

from gnutls_cookie import (
    CookieGate,
    CookieListener,
    KeyRing,
    Prestate,
    PSKCredentials,
    Server,
    Session,
    aio,
    blocking,
    client_data,
)
from gnutls_cookie._check import (
    bytes_copy,
    check_key_size,
    fits,
    integer,
    seconds,
    seconds_to_wait,
    utf8,
)

PSK = PSKCredentials("who", b"key")
HUGE = 10**5000  # Python refuses to write it


def name_of(value: object) -> str:
    """What a test's parameter is called."""
    return "huge" if isinstance(value, int) and abs(value) == HUGE else repr(type(value))


class Odd(int):
    """An int that compares and prints as another one."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return False

    def __le__(self, other: object) -> bool:
        return True

    def __ge__(self, other: object) -> bool:
        return True

    def __repr__(self) -> str:
        raise RuntimeError("never asked")


@pytest.mark.parametrize("check", [lambda v: integer("it", v, 0, 9), lambda v: fits("it", v, 9)])
def test_integers_are_the_numbers_themselves(check: Callable[[object], int]) -> None:
    """Both ends of the range, and a subclass gives the number that C would see."""
    assert (check(0), check(9), type(check(Odd(9)))) == (0, 9, int)


@pytest.mark.parametrize("value", [-1, 10, HUGE, -HUGE, Odd(10)], ids=name_of)
def test_integer_out_of_range_names_the_argument(value: int) -> None:
    """ValueError for a limit, OverflowError for a field of C; a number of any length."""
    with pytest.raises(ValueError, match=r"^it must be in 0\.\.9, not "):
        integer("it", value, 0, 9)
    with pytest.raises(OverflowError, match=r"^it must be in 0\.\.9, not "):
        fits("it", value, 9)


def test_integer_without_an_upper_limit() -> None:
    """`least` alone."""
    assert integer("it", HUGE, 1) == HUGE
    with pytest.raises(ValueError, match=r"^it must be at least 1, not 0$"):
        integer("it", 0, 1)


@pytest.mark.parametrize("value", [True, False, 0.0, 1.0, "1", None, b"1"])
def test_nothing_but_an_int_is_an_integer(value: object) -> None:
    """A bool, a float and text are a TypeError, also where they equal a number in range."""
    with pytest.raises(TypeError, match=f"^it must be an int, not {type(value).__name__}$"):
        integer("it", value, 0, 9)
    with pytest.raises(TypeError, match=f"^it must be an int, not {type(value).__name__}$"):
        fits("it", value, 9)


@pytest.mark.parametrize("value", [1, 1.5, 2])
def test_seconds_are_floats(value: float) -> None:
    """Of an int or a float in the range."""
    number = seconds("it", value, 1, 2)
    assert (number, type(number)) == (value, float)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 0.9, 2.1, HUGE, -HUGE], ids=name_of
)
def test_seconds_out_of_range_are_a_value_error(value: float) -> None:
    """NaN and infinity too."""
    with pytest.raises(ValueError, match=r"^it must be in 1\.\.2 seconds, not "):
        seconds("it", value, 1, 2)


def test_infinite_seconds_where_the_limit_is_infinite() -> None:
    """Infinity is in the range then; an int that no float holds is not."""
    assert seconds("it", math.inf, 1, math.inf) == math.inf
    with pytest.raises(ValueError, match=r"^it must be in 1\.\.inf seconds, not a larger number$"):
        seconds("it", HUGE, 1, math.inf)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (math.inf, None),
        (10**9 + 1, None),
        (HUGE, None),
        (10**9, 1e9),
        (0, 0.0),
        (1.5, 1.5),
        (-1, 0.0),
        (-math.inf, 0.0),
        (-HUGE, 0.0),
    ],
    ids=name_of,
)
def test_seconds_to_wait(value: float | None, expected: float | None) -> None:
    """None, infinity and more than thirty years wait forever; below 0 is 0."""
    assert seconds_to_wait("it", value) == expected


@pytest.mark.parametrize("value", [-1, -0.1, -math.inf, -HUGE, math.nan], ids=name_of)
def test_wait_below_its_least_is_a_value_error(value: float) -> None:
    """Where a negative wait is not taken for none."""
    with pytest.raises(ValueError, match=r"^it must be "):
        seconds_to_wait("it", value, least=0)


@pytest.mark.parametrize("value", [True, "1", b"1", 1j, [1]])
def test_nothing_but_a_number_is_seconds(value: object) -> None:
    """A bool and text are a TypeError."""
    checks: tuple[Callable[[], object], ...] = (
        lambda: seconds("it", value, 0, 9),
        lambda: seconds_to_wait("it", value),
    )
    for check in checks:
        with pytest.raises(TypeError, match=r"^it must be a number of seconds, not "):
            check()


def test_bytes_are_copied_and_released() -> None:
    """Of anything bytes-like, contiguous or not; the original is not kept locked."""
    memory = bytearray(b"abcd")
    assert bytes_copy("it", memory) == b"abcd"
    assert bytes_copy("it", memoryview(memory)[::2]) == b"ac"
    memory.clear()
    with pytest.raises(TypeError, match=r"^it must be a bytes-like object, not str$"):
        bytes_copy("it", "text")  # type: ignore[arg-type]


def test_size_is_checked_before_the_copy() -> None:
    """A key too long for C is an OverflowError."""
    check_key_size("it", 2**31 - 1)
    with pytest.raises(OverflowError, match=r"^it must be of at most 2\*\*31-1 bytes, not "):
        check_key_size("it", 2**31)
    sizes: list[tuple[str, int]] = []
    bytes_copy("it", memoryview(bytes(8)).cast("I"), lambda name, size: sizes.append((name, size)))
    assert sizes == [("it", 8)]


def test_text_for_c() -> None:
    """UTF-8, and bytes that were not UTF-8 as they were."""
    assert utf8("it", "é\udcff") == b"\xc3\xa9\xff"
    assert len(utf8("it", "x" * 65535)) == 65535
    assert utf8("it", "", least=0) == b""


@pytest.mark.parametrize("value", ["", "a\0b", "\ud800", "x" * 65536])
def test_text_that_c_cannot_take(value: str) -> None:
    """Too short, NUL, a lone surrogate, too long."""
    with pytest.raises(ValueError, match=r"^it must "):
        utf8("it", value)


def test_text_is_a_str() -> None:
    """bytes are a TypeError."""
    with pytest.raises(TypeError, match=r"^it must be a str, not bytes$"):
        utf8("it", b"x")


def poll(**options: object) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        with CookieListener(sock, CookieGate(b"key")) as listener:
            return listener.poll(**{"timeout": 0, **options})  # type: ignore[arg-type]


def listener(**options: object) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return CookieListener(sock, CookieGate(b"key"), **options)  # type: ignore[arg-type]


NUMBERS: dict[str, Callable[[object], object]] = {
    "record_seq": lambda value: Prestate(value),  # type: ignore[arg-type]
    "hsk_read_seq": lambda value: Prestate(0, value),  # type: ignore[arg-type]
    "hsk_write_seq": lambda value: Prestate(0, 0, value),  # type: ignore[arg-type]
    "port": lambda value: client_data.sockaddr(("127.0.0.1", value)),  # type: ignore[arg-type]
    "flowinfo": lambda value: client_data.sockaddr(("::1", 1, value, 0)),  # type: ignore[arg-type]
    "scope_id": lambda value: client_data.sockaddr(("::1", 1, 0, value)),  # type: ignore[arg-type]
    "period": lambda value: KeyRing.from_secret(bytes(16), value),  # type: ignore[arg-type]
    "batch": lambda value: listener(batch=value),
    "max_peers": lambda value: listener(max_peers=value),
    "limit": lambda value: poll(limit=value),
    "timeout": lambda value: poll(timeout=value),
    "max_sessions": lambda value: Server(PSK, max_sessions=value),  # type: ignore[arg-type]
    "max_queue": lambda value: Server(PSK, max_queue=value),  # type: ignore[arg-type]
    "max_queue_bytes": lambda value: Server(PSK, max_queue_bytes=value),  # type: ignore[arg-type]
    "idle_timeout": lambda value: Server(PSK, idle_timeout=value),  # type: ignore[arg-type]
    "mtu": lambda value: Session("server", PSK, mtu=value),  # type: ignore[arg-type]
    "handshake_timeout": lambda value: Session("server", PSK, handshake_timeout=value),  # type: ignore
    "retransmit_timeout": lambda value: Session("server", PSK, retransmit_timeout=value),  # type: ignore
}


@pytest.mark.parametrize("value", [True, "1", b"1", [1]])
@pytest.mark.parametrize("name", NUMBERS)
def test_no_function_takes_another_type_for_a_number(name: str, value: object) -> None:
    """A bool is a TypeError everywhere, and the text names the argument."""
    with pytest.raises(TypeError, match=rf"\b{name} must be "):
        NUMBERS[name](value)


@pytest.mark.parametrize("value", [-1, HUGE], ids=name_of)
@pytest.mark.parametrize("name", sorted(NUMBERS.keys() - {"timeout"}))
def test_fields_of_c_overflow_and_limits_are_values(name: str, value: int) -> None:
    """OverflowError for the fields of the prestate and of a socket address, ValueError for all
    others."""
    if (name, value) in [("limit", HUGE), ("max_sessions", HUGE), ("max_queue", HUGE)]:
        return  # no upper limit
    if (name, value) == ("max_queue_bytes", HUGE):
        return
    is_field = name.endswith("_seq") or name in {"port", "flowinfo", "scope_id"}
    with pytest.raises(OverflowError if is_field else ValueError, match=rf"\b{name} must be "):
        NUMBERS[name](value)


@pytest.mark.parametrize("port", [True, "1", None])
def test_ports_of_the_adapters(port: object) -> None:
    """A port is an int in blocking and aio alike."""
    with pytest.raises(TypeError, match="port must be an int"):
        blocking.connect("127.0.0.1", port, credentials=PSK)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="port must be an int"):
        aio.connect("127.0.0.1", port, credentials=PSK).send(None)  # type: ignore[arg-type]
