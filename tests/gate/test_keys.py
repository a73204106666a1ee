"""KeyRing: rotation, and keys that a fleet derives from one secret and the time."""

from __future__ import annotations

import gc
import hashlib
import hmac
import threading
import time
from typing import Any

import pytest

from gnutls_cookie import CookieGate, KeyRing, Verified
from gnutls_cookie._ffi import ffi
from gnutls_cookie.keys import _hkdf
from tests.support.common import cookie_of, hello_with

SECRET = b"a secret of more than 16 bytes"


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 2.2 and 2.3, written out."""
    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = hmac.new(extracted, block + info + bytes([number]), hashlib.sha256).digest()
        out, number = out + block, number + 1
    return out[:length]


def test_oracle_is_rfc_5869() -> None:
    """Test case 1 of RFC 5869 A.1, for the oracle of this file."""
    made = hkdf(
        bytes.fromhex("0b" * 22),
        bytes.fromhex("000102030405060708090a0b0c"),
        bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"),
        42,
    )
    assert made.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )


def test_keys_of_a_secret_are_hkdf_of_the_period() -> None:
    """Salt, info and length as documented, for the present period and the one before."""
    ring = KeyRing.from_secret(SECRET, period=100)

    def key(number: int) -> bytes:
        info = b"DTLS cookie key" + number.to_bytes(8, "big")
        assert _hkdf(SECRET, info, 16) == hkdf(SECRET, b"gnutls-cookie", info, 16)
        return hkdf(SECRET, b"gnutls-cookie", info, 16)

    assert ring.keys_at(1000.0) == (key(10), key(9))
    assert ring.keys_at(1099.999) == (key(10), key(9))
    assert ring.keys_at(1100.0) == (key(11), key(10))
    assert ring.keys_at(1000.0) == (key(10), key(9))


def test_same_keys_are_the_same_object() -> None:
    """So that a gate sees by identity whether they changed."""
    for ring in (KeyRing.random(), KeyRing.from_secret(SECRET)):
        assert ring.keys_at(5.0) is ring.keys_at(5.0)


def test_keys_of_one_period_alone_are_kept() -> None:
    """A server that runs for years, or is asked for many times, does not grow."""
    ring = KeyRing.from_secret(SECRET, period=100)
    first = ring.keys_at(5.0)
    ring.keys_at(1000.0)
    assert ring.keys_at(5.0) == first
    assert ring.keys_at(5.0) is not first


def test_nodes_with_one_secret_verify_each_other() -> None:
    """Also over the end of a period; not two periods later, and not with another secret."""
    one, other = (CookieGate(KeyRing.from_secret(SECRET, 100)) for _ in range(2))
    stranger = CookieGate(KeyRing.from_secret(SECRET + b"x", 100))
    reply = one.receive(hello_with(), b"client", now=1050.0)
    hello = hello_with(reply.datagram[-16:])  # type: ignore[union-attr]
    verdicts = [other.receive(hello, b"client", now=now) for now in (1051.0, 1101.0, 1201.0)]
    assert [getattr(verdict, "key_age", None) for verdict in verdicts] == [0, 1, None]
    assert not isinstance(stranger.receive(hello, b"client", now=1051.0), Verified)


def test_gate_asks_the_clock_where_no_time_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """time.time(), at each datagram."""
    gate = CookieGate(KeyRing.from_secret(SECRET, 100))
    told: list[bytes] = []
    for now in (1000.0, 1099.0, 1100.0):
        monkeypatch.setattr("time.time", lambda now=now: now)
        asked, given = gate.receive(hello_with(), b"c"), gate.receive(hello_with(), b"c", now)
        assert asked == given
        told.append(asked.datagram[-16:])  # type: ignore[union-attr]
    assert told[0] == told[1] != told[2]


@pytest.mark.parametrize(
    ("now", "error"),
    [
        (float("nan"), ValueError),
        (float("inf"), OverflowError),
        (1e30, OverflowError),
        (-(2.0**63), OverflowError),
        (10**400, ValueError),
        ("1", TypeError),
        (True, TypeError),
    ],
)
def test_wrong_time_is_an_error_that_names_it(now: Any, error: type[Exception]) -> None:
    """Of the caller, of the ring and of the gate, and the ring goes on."""
    ring = KeyRing.from_secret(SECRET)
    with pytest.raises(error, match=r"^now must be "):
        ring.keys_at(now)
    with pytest.raises(error, match=r"^now must be "):
        CookieGate(ring).receive(b"", b"", now)
    assert ring.keys_at(0.0)[0] != ring.keys_at(0.0)[1]


def test_keys_before_1970_are_keys_too() -> None:
    """A machine whose clock was never set: period -1 is 8 bytes of two's complement."""
    ring = KeyRing.from_secret(SECRET, 100)
    assert ring.keys_at(0.0)[1] == hkdf(
        SECRET, b"gnutls-cookie", b"DTLS cookie key" + b"\xff" * 8, 16
    )
    assert ring.keys_at(-1.0)[0] == ring.keys_at(0.0)[1]


def test_copies_of_keys_in_c_are_wiped() -> None:
    """At each change of keys and at the end, before the memory goes back."""
    ring = KeyRing(b"the first key")
    gate = CookieGate(ring)

    def memory(gate: CookieGate) -> Any:
        gate.receive(b"", None)
        return gate._made[2]  # outlives the pointer that wipes it

    first = memory(gate)
    assert ffi.buffer(first)[:].count(b"the first key") == 1
    ring.rotate(b"the second key")
    second = memory(gate)
    gc.collect()
    assert not any(ffi.buffer(first)[:])
    assert ffi.buffer(second)[:].count(b"the first key") == 1
    assert ffi.buffer(second)[:].count(b"the second key") == 1
    del gate
    gc.collect()
    assert not any(ffi.buffer(second)[:])


def test_rotation_makes_the_current_key_the_previous() -> None:
    """Two keys at most; the one before the previous verifies no more."""
    ring = KeyRing(b"1")
    gate = CookieGate(ring)
    hello = hello_with(cookie_of(b"1", b"c"))
    ages = []
    for key in (None, b"2", b"3"):
        if key is not None:
            ring.rotate(key)
        ages.append(getattr(gate.receive(hello, b"c"), "key_age", None))
    assert ages == [0, 1, None]
    assert ring.keys_at(0) == (b"3", b"2")


def test_random_rings_differ_and_rotate_to_random_keys() -> None:
    """16 bytes each."""
    ring = KeyRing.random()
    first = ring.keys_at(0)
    ring.rotate()
    second = ring.keys_at(0)
    assert first[1] is None
    assert second[1] == first[0]
    assert {len(key) for key in second if key is not None} == {16}
    assert len({first[0], second[0], KeyRing.random().keys_at(0)[0]}) == 3


def test_secrets_do_not_show() -> None:
    """Neither in repr nor in str."""
    for ring in (KeyRing(b"key-one", b"key-two"), KeyRing.from_secret(SECRET)):
        shown = repr(ring) + str(ring) + repr(CookieGate(ring))
        assert not any(secret in shown for secret in ("key-one", "key-two", SECRET.decode()))


def test_ring_of_a_secret_does_not_rotate_by_hand() -> None:
    """Its nodes would disagree."""
    with pytest.raises(RuntimeError, match="from_secret"):
        KeyRing.from_secret(SECRET).rotate()


@pytest.mark.parametrize(
    ("make", "error", "names"),
    [
        (lambda: KeyRing(b""), ValueError, "current"),
        (lambda: KeyRing("key"), TypeError, "current"),  # type: ignore[arg-type]
        (lambda: KeyRing(b"k", b""), ValueError, "previous"),
        (lambda: KeyRing(b"k", 5), TypeError, "previous"),  # type: ignore[arg-type]
        (lambda: KeyRing(b"k").rotate(b""), ValueError, "key"),
        (lambda: KeyRing.from_secret(b"x" * 15), ValueError, "secret"),
        (lambda: KeyRing.from_secret("x" * 16), TypeError, "secret"),  # type: ignore[arg-type]
        (lambda: KeyRing.from_secret(SECRET, 0.5), ValueError, "period"),
        (lambda: KeyRing.from_secret(SECRET, float("nan")), ValueError, "period"),
        (lambda: KeyRing.from_secret(SECRET, float("inf")), ValueError, "period"),
        (lambda: KeyRing.from_secret(SECRET, "1"), TypeError, "period"),  # type: ignore[arg-type]
        (lambda: CookieGate(b""), ValueError, "keys"),
        (lambda: CookieGate("key"), TypeError, "keys"),  # type: ignore[arg-type]
    ],
)
def test_wrong_argument_is_named(make: Any, error: type[Exception], names: str) -> None:
    """TypeError or ValueError."""
    with pytest.raises(error, match=names):
        make()


def test_rotation_while_others_verify_never_misjudges() -> None:
    """A cookie of the current or the previous key is verified, whoever rotates meanwhile."""
    ring = KeyRing.random()
    gate = CookieGate(ring)
    stop = threading.Event()
    wrong: list[object] = []
    ages: list[list[int]] = [[] for _ in range(4)]

    def verify(mine: list[int]) -> None:
        while not stop.is_set():
            current, _ = ring.keys_at(0)
            verdict = gate.receive(hello_with(cookie_of(current, b"c")), b"c")
            if isinstance(verdict, Verified):
                mine.append(verdict.key_age)
            # Two rotations may have come in between; the key of then is forgotten then.
            elif current in ring.keys_at(0):
                wrong.append(verdict)
            if isinstance(gate.receive(hello_with(bytes(16)), b"c"), Verified):
                wrong.append("zeros")

    threads = [threading.Thread(target=verify, args=(mine,)) for mine in ages]
    for thread in threads:
        thread.start()
    rotations = 0
    # Until a rotation was seen to come between a cookie and its judgment, and each had its turn.
    while (rotations < 300 or not all(ages) or {1} - set().union(*ages)) and not wrong:
        ring.rotate()
        rotations += 1
        time.sleep(0.0002)  # lets the others in
        if rotations == 5000:
            break
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert all(ages)
    assert set().union(*ages) == {0, 1}


def test_threads_in_different_periods_do_not_disturb_each_other() -> None:
    """Each at a time of its own, with one gate: the copy of the keys changes at every turn."""
    gate = CookieGate(KeyRing.from_secret(SECRET, 100))
    wrong: list[object] = []

    def verify(now: float) -> None:
        (current, previous) = KeyRing.from_secret(SECRET, 100).keys_at(now)
        assert previous is not None
        for _ in range(500):
            for key, age in (current, 0), (previous, 1), (b"another", None):
                verdict = gate.receive(hello_with(cookie_of(key, b"c")), b"c", now)
                if getattr(verdict, "key_age", None) != age:
                    wrong.append((now, age, verdict))

    threads = [threading.Thread(target=verify, args=(1000.0 + 200 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_fixed_keys_are_those_of_any_time() -> None:
    """And None where the keys depend on the time."""
    ring = KeyRing(b"first")
    before = ring.fixed_keys
    ring.rotate(b"second")
    after = ring.fixed_keys
    assert (before, after) == ((b"first", None), (b"second", b"first"))
    assert after == ring.keys_at(0.0)
    assert KeyRing.from_secret(bytes(16)).fixed_keys is None
