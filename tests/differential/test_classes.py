"""Nothing slips through by construction: each class of classes.py is in the first 20,000 cases."""

from __future__ import annotations

import hashlib
import hmac
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from gnutls_cookie.differential import (
    LIBGNUTLS,
    OPERATIONS,
    Case,
    PythonTarget,
    cases,
    compare_cases,
)
from gnutls_cookie.differential import classes as classes_of
from gnutls_cookie.reference import cookie as reference

SEEDS = (1, 7)
COUNT = 20_000


@cache
def first_cases(seed: int) -> list[Case]:
    return list(cases(seed, count=COUNT))


@cache
def of_operation(seed: int, operation: str) -> list[Case]:
    return [case for case in first_cases(seed) if case.operation == operation]


def cookie_of(case: Case) -> bytes:
    """What stands in the place of the cookie, as libgnutls reads it."""
    message = case.message
    if len(message) < 60:
        return b""
    start = 61 + message[59]
    return message[start : start + message[start - 1]] if start <= len(message) else b""


def mac_of(case: Case) -> bytes:
    return hmac.digest(case.key, case.client_data or b"", "sha1")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_sizes_of_key_and_client_data(seed: int, operation: str) -> None:
    """Each remainder of a hash block, each power of two and its neighbours up to 65,535."""
    found = of_operation(seed, operation)
    wanted = {*classes_of.SIZES, *classes_of.LARGE_SIZES}
    clients = {len(case.client_data) for case in found if case.client_data is not None}
    assert wanted - clients == set()
    assert wanted - {0} - {len(case.key) for case in found} == set()
    assert {size % 64 for size in clients} == set(range(64))
    assert {127, 128, 255, 256, 32767, 32768, 65535} <= wanted
    assert (b"" in {case.key for case in found}) == (operation != "receive")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("operation", ["verify", "receive"])
def test_sizes_of_datagrams_and_session_ids(seed: int, operation: str) -> None:
    """Each size at which something is read; the good cookie is behind each session id."""
    found = of_operation(seed, operation)
    assert set(classes_of.MESSAGE_SIZES) - {len(case.message) for case in found} == set()
    ids = {case.message[59] for case in found if cookie_of(case) == mac_of(case)[:16]}
    assert set(classes_of.SESSION_ID_SIZES) - ids == set()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("operation", ["verify", "receive"])
def test_presented_cookies(seed: int, operation: str) -> None:
    """Cut, padded, shifted, contained, repeated, each bit flipped, of another MAC, and so on."""
    missing = dict(classes_of.PRESENTED)
    for case in of_operation(seed, operation):
        cookie, mac = cookie_of(case), mac_of(case)
        if cookie != mac[:16]:
            who = case.client_data or b""
            for name in [
                name for name, made in missing.items() if made(case.key, who, mac) == cookie
            ]:
                del missing[name]
    # These two are the good cookie itself, unless that has the byte that they are about.
    assert missing.keys() <= {"without zeros at its start", "without zeros at its end"}


@pytest.mark.parametrize("seed", SEEDS)
def test_fields_of_a_good_hello(seed: int) -> None:
    """Each value of each header field, in a hello that libgnutls verifies."""
    good = [
        case.message
        for case in of_operation(seed, "verify")
        if LIBGNUTLS.answer(case)[0] == "prestate"
    ]
    for place, value in classes_of.FIELDS:
        end = place + len(value)
        assert any(message[place:end] == value for message in good), (place, value.hex())


@pytest.mark.parametrize("seed", SEEDS)
def test_results_of_push_and_numbers(seed: int) -> None:
    """Each result that C may narrow, and each limit of a number in each place of a prestate."""
    found = of_operation(seed, "send")
    assert set(classes_of.PUSHED) - {case.pushed for case in found} == set()
    for place in range(3):
        numbers = {case.prestate[place] for case in found}
        assert set(classes_of.NUMBERS) - numbers == set()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_may_be_left_out(seed: int, operation: str) -> None:
    """client_data, the previous key, push's own count, and a prestate of zeros."""
    found = of_operation(seed, operation)
    assert {case.client_data for case in found} >= {None, b""}
    assert any(case.prestate == (0, 0, 0) for case in found)
    if operation == "send":
        assert any(case.pushed is None for case in found)
    if operation == "receive":
        assert {case.previous is None for case in found} == {True, False}


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_as_servers_have_them(seed: int) -> None:
    """Real sockaddrs of both families, padding and scope included, and texts."""
    found = {case.client_data or b"" for case in of_operation(seed, "verify")}
    kinds: dict[str, Callable[[bytes], bool]] = {
        "sockaddr_in": lambda who: who[:2] == b"\2\0" and who[8:] == bytes(8),
        "padding": lambda who: len(who) == 16 and who[:2] == b"\2\0" and any(who[8:]),
        "sockaddr_in6": lambda who: len(who) == 28 and who[:2] == b"\x0a\0",
        "mapped": lambda who: who[:2] == b"\x0a\0" and who[8:20] == bytes(10) + b"\xff\xff",
        "scope": lambda who: len(who) == 28 and who[:2] == b"\x0a\0" and any(who[24:]),
        "flow label": lambda who: len(who) == 28 and who[:2] == b"\x0a\0" and any(who[4:8]),
        "sockaddr_storage": lambda who: len(who) == 128 and not any(who[28:]) and any(who),
        "sockaddr_un": lambda who: who[:3] == b"\1\0/",
        "loopback": lambda who: len(who) == 16 and who[:2] + who[4:8] == b"\2\0\x7f\0\0\1",
        "loopback of IPv6": lambda who: who[:2] + who[8:24] == b"\x0a\0" + bytes(15) + b"\1",
        "link-local": lambda who: who[:2] + who[8:10] == b"\x0a\0\xfe\x80",
        "any": lambda who: len(who) == 16 and who[:2] + who[4:] == b"\2\0" + bytes(12),
        "text": lambda who: who.count(b":") == 1 and who.replace(b":", b".").count(b".") == 4,
        "text of IPv6": lambda who: who[:1] == b"[" and b"]:" in who,
        "line end": lambda who: who.endswith(b"\n") and who[:-1].isascii() and who.count(b".") == 3,
    }
    for name, is_one in kinds.items():
        assert any(is_one(who) for who in found), name


@pytest.mark.parametrize("seed", SEEDS)
def test_cookies_with_a_look_of_their_own(seed: int) -> None:
    """Good ones that begin or end as strings, lengths and numbers do."""
    good = [
        mac
        for case in of_operation(seed, "verify")
        if cookie_of(case) == (mac := mac_of(case))[:16]
    ]
    for name, looks in classes_of.COOKIES_THAT.items():
        assert any(looks(mac) for mac in good), name


@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_cookies_where_the_right_one_has_a_look(seed: int) -> None:
    """Zeros for one that begins with zero, and so on: most of all pairs."""
    found = set()
    for case in of_operation(seed, "verify"):
        mac, cookie = mac_of(case), cookie_of(case)
        who = case.client_data or b""
        for place, plain in enumerate(classes_of.PLAIN):
            if cookie != mac[:16] and cookie == plain(case.key, who, mac):
                looks = classes_of.COOKIES_THAT.items()
                found |= {(name, place) for name, has_it in looks if has_it(mac)}
    assert len(found) > 0.5 * len(classes_of.PLAIN) * len(classes_of.COOKIES_THAT)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_relations_between_calls(seed: int, operation: str) -> None:
    """What a cache may take for the same: one part of a call again, and another one changed."""
    found = of_operation(seed, operation)
    relations = {
        "client under other keys": grouped((case.client_data, case.key) for case in found),
        "key of other clients": grouped((case.key, case.client_data) for case in found),
        "first half of the key": grouped((case.key[:8], case.key) for case in found),
        "last half of the key": grouped((case.key[-8:], case.key) for case in found),
        "key without zeros": grouped((case.key.rstrip(b"\0"), case.key) for case in found),
        "first bytes of client_data": grouped(
            ((case.client_data or b"")[:8], case.client_data) for case in found
        ),
        "last bytes of client_data": grouped(
            ((case.client_data or b"")[-8:], case.client_data) for case in found
        ),
        "both in a row": grouped(
            (case.key + (case.client_data or b""), case.key) for case in found
        ),
        "MAC": grouped((mac_of(case), (case.key, case.client_data)) for case in found),
    }
    if operation != "send":
        relations |= {
            "datagram under other keys": grouped((case.message, case.key) for case in found),
            "datagram of other clients": grouped(
                (case.message, case.client_data) for case in found
            ),
            "cookie under other keys": grouped((cookie_of(case), case.key) for case in found),
            "cookie in other hellos": grouped(
                ((cookie_of(case), case.client_data), case.message) for case in found
            ),
            "other cookie in the same hello": grouped(
                ((case.message[:59], len(case.message)), case.message) for case in found
            ),
        }
    for name, groups in relations.items():
        assert sum(len(group) > 1 for group in groups.values()) > 0, name
    # The same call again: at once, within a scene, and thousands of calls later.
    places: dict[Case, list[int]] = defaultdict(list)
    for number, case in enumerate(found):
        places[case._replace(prestate=(0, 0, 0), pushed=None)].append(number)
    apart = {later - one for same in places.values() for one, later in pairwise(same)}
    assert 1 in apart
    assert any(2 <= one <= 12 for one in apart)
    assert any(one > 2000 for one in apart)


def grouped(pairs: Iterable[tuple[object, object]]) -> dict[object, set[object]]:
    found: dict[object, set[object]] = defaultdict(set)
    for one, other in pairs:
        found[one].add(other)
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_one_client_for_more_calls_than_a_byte_counts(seed: int) -> None:
    """More than 256 in a row that fail, and then one that does not; and as many that succeed."""
    longest = {"error": 0, "prestate": 0}
    run, before = 0, ("", b"", b"")
    after_failures = False
    for case in of_operation(seed, "verify"):
        kind = str(LIBGNUTLS.answer(case)[0])
        now = (kind, case.key, case.client_data or b"")
        after_failures |= run > 256 and before[0] == "error" and kind == "prestate"
        run = run + 1 if now == before else 1
        before = now
        longest[kind] = max(longest[kind], run)
    assert min(longest.values()) > 256
    assert after_failures


@pytest.mark.parametrize("seed", SEEDS)
def test_operations_share_their_clients(seed: int) -> None:
    """A client is sent a cookie, shows it, and meets the gate: under one key."""
    pairs = [
        {(case.key, case.client_data) for case in of_operation(seed, one)} for one in OPERATIONS
    ]
    assert len(set.intersection(*pairs)) > 200


# --- faults of kinds that the classes were not made for -------------------------------------------


def remembering(name_of: Callable[[bytes, bytes], object]) -> Callable[[bytes, bytes], bytes]:
    """Makes cookies, and keeps them by some part of what they are made of."""
    kept: dict[object, bytes] = {}

    def made(key: bytes, who: bytes) -> bytes:
        return kept.setdefault(name_of(key, who), reference.cookie(key, who))

    return made


def counting(most: int) -> Callable[[bytes, bytes], bytes]:
    """Makes cookies, but not more than so many in a row for one client."""
    last: list[tuple[bytes, bytes]] = []

    def made(key: bytes, who: bytes) -> bytes:
        if last and last[-1] != (key, who):
            last.clear()
        last.append((key, who))
        return bytes(16) if len(last) > most else reference.cookie(key, who)

    return made


def ipv4(who: bytes) -> bytes:
    """An IPv4-mapped address is the IPv4 address in it."""
    mapped = who[:2] == b"\x0a\0" and who[8:20] == bytes(10) + b"\xff\xff"
    return b"\2\0" + who[2:4] + who[20:24] + bytes(8) if mapped else who


def without_port(who: bytes) -> bytes:
    """A port of 127.0.0.1 does not count."""
    loopback = len(who) == 16 and who[:2] + who[4:8] == b"\2\0\x7f\0\0\1"
    return who[:2] + bytes(2) + who[4:] if loopback else who


KINDS: dict[str, Callable[[], Callable[[bytes, bytes], bytes]]] = {
    "15 bits of client_data's size": lambda: (
        lambda key, who: reference.cookie(key, who[: len(who) & 0x7FFF])
    ),
    "a size that ends a hash block is padded wrongly": lambda: (
        lambda key, who: reference.cookie(key, who + b"\x80" if len(who) % 64 == 55 else who)
    ),
    "a key of 48 bytes is hashed": lambda: (
        lambda key, who: reference.cookie(
            hashlib.sha1(key).digest() if len(key) == 48 else key, who
        )
    ),
    "a key ends at a zero": lambda: (
        lambda key, who: reference.cookie(key.partition(b"\0")[0] or key, who)
    ),
    "an IPv4-mapped address is IPv4": lambda: lambda key, who: reference.cookie(key, ipv4(who)),
    "loopback is one client": lambda: lambda key, who: reference.cookie(key, without_port(who)),
    "padding is cleared": lambda: (
        lambda key, who: reference.cookie(
            key, who[:8] + bytes(8) if len(who) == 16 and who[:2] == b"\2\0" else who
        )
    ),
    "text is stripped": lambda: (
        lambda key, who: reference.cookie(key, who.strip() if who.isascii() else who)
    ),
    "a cookie is a number": lambda: (
        lambda key, who: reference.cookie(key, who).lstrip(b"\0").ljust(16, b"\0")
    ),
    "a cache by client": lambda: remembering(lambda key, who: who),
    "a cache by key and client in a row": lambda: remembering(lambda key, who: key + who),
    "a cache by the start of the key": lambda: remembering(lambda key, who: (key[:8], who)),
    "a cache by text in small letters": lambda: remembering(lambda key, who: (key, who.lower())),
    "a client has 256 cookies": lambda: counting(256),
}


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", KINDS)
def test_kind_of_fault_is_found(kind: str, seed: int) -> None:
    """In the first 20,000 cases, by what send puts into its reply."""
    made = KINDS[kind]()

    def send(key: bytes, who: bytes | None, *more: Any) -> int:
        prestate, transport, push = more
        if not key:
            raise reference.CookieError(-50)
        return reference.cookie_send(
            key,
            who,
            prestate,
            transport,
            lambda to, data: push(to, data[:28] + made(key, who or b"")),
        )

    faulty = PythonTarget(kind, send=send)
    assert any(compare_cases(faulty, LIBGNUTLS, of_operation(seed, "send")))
