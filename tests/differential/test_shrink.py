"""How a case is made smaller: shrunk() by itself, with made-up differences."""

from __future__ import annotations

import hmac

import pytest

from gnutls_cookie.differential.cases import Case
from gnutls_cookie.differential.shrink import shrunk

COOKIE = hmac.digest(b"a key", b"a client", "sha1")[:16]
RECEIVE = Case("receive", b"a key", b"a client", b"head" + COOKIE + b"tail", previous=b"old")
VERIFY = Case("verify", b"a key", b"a client", b"head" + COOKIE + b"tail", (5, 2**31, 7))
SEND = Case("send", b"a key", b"a client", prestate=(256, 0, 2**32 - 1), pushed=-5)


@pytest.mark.parametrize("case", [RECEIVE, VERIFY, SEND], ids=lambda case: case.operation)
def test_where_all_cases_differ_nothing_is_left(case: Case) -> None:
    """One byte of a key, which must not be empty, and no previous key."""
    assert shrunk(case, lambda _: True) == Case(case.operation, b"\0", b"")


def test_null_is_not_what_bytes_become() -> None:
    """The other way round: NULL becomes no bytes, if that differs too."""
    case = VERIFY._replace(client_data=None)
    assert shrunk(case, lambda _: True).client_data == b""
    assert shrunk(case, lambda one: one.client_data is None).client_data is None


def test_previous_key_stays_where_it_matters() -> None:
    """As one byte, then."""
    assert shrunk(RECEIVE, lambda one: one.previous is not None).previous == b"\0"


@pytest.mark.parametrize("place", range(3))
def test_number_of_the_prestate_is_made_small(place: int) -> None:
    """A limit below it is found among the powers of two; the others become 0."""
    case = VERIFY._replace(prestate=(2**31 + 5,) * 3)
    found = shrunk(case, lambda one: one.prestate[place] >= 2**16).prestate
    assert found[place] == 2**16
    assert sum(found) == 2**16


def test_result_of_push_is_made_plain() -> None:
    """None (all bytes), 0, 44 and so on, in this order; what is not plain stays if it has to."""
    assert shrunk(SEND, lambda one: one.pushed is not None).pushed == 0
    assert shrunk(SEND, lambda one: (one.pushed or 0) < 0).pushed == -1
    assert shrunk(SEND, lambda one: one.pushed == -5).pushed == -5


def test_cookie_in_the_datagram_goes_with_its_key_and_client() -> None:
    """A smaller key makes another cookie, which takes the place of the former."""
    found = shrunk(
        VERIFY,
        lambda one: (
            hmac.digest(one.key, one.client_data or b"", "sha1")[:16] in one.message
            if one.key
            else False
        ),
    )
    assert (found.key, found.client_data) == (b"\0", b"")
    assert found.message == hmac.digest(b"\0", b"", "sha1")[:16]


def test_no_byte_can_be_spared() -> None:
    """Bytes that do not matter are left out; where only the length matters they become zero."""
    found = shrunk(VERIFY, lambda one: len(one.message) >= 5 and one.message[2] > 16)
    assert found.message == b"\0\0\x11\0\0"


def test_budget_bounds_how_often_it_asks() -> None:
    """What was found by then is given."""
    asked: list[Case] = []

    def differs(case: Case) -> bool:
        asked.append(case)
        return True

    found = shrunk(VERIFY, differs, budget=3)
    assert len(asked) == 3
    assert found == asked[-1]
