"""Prestate: three 32-bit numbers in one C struct, with value semantics."""

from __future__ import annotations

import copy
import pickle
import struct

import pytest

from gnutls_cookie import Prestate

FIELDS = ("record_seq", "hsk_read_seq", "hsk_write_seq")


def test_starts_at_zero() -> None:
    """A new prestate is what the manual's memset makes."""
    assert bytes(Prestate()) == bytes(12)


def test_holds_the_three_numbers_in_the_order_of_the_struct() -> None:
    """bytes() is gnutls_dtls_prestate_st in native byte order: record_seq, read, write."""
    assert bytes(Prestate(105791312, 67166359, 2**32 - 1)) == struct.pack(
        "=III", 105791312, 67166359, 2**32 - 1
    )


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [0, 1, 255, 256, 2**31, 2**32 - 1])
def test_attribute_keeps_every_value_of_32_bits(field: str, value: int) -> None:
    """Each field can be set and read back, by keyword and by assignment, and moves no other."""
    assigned = Prestate(7, 8, 9)
    setattr(assigned, field, value)
    expected = dict(zip(FIELDS, (7, 8, 9), strict=True)) | {field: value}
    assert {name: getattr(assigned, name) for name in FIELDS} == expected
    assert assigned == Prestate(**expected)
    assert type(getattr(assigned, field)) is int


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [-1, 2**32, 2**64, -(2**70)])
def test_number_outside_32_bits_is_an_overflow_that_names_the_field(field: str, value: int) -> None:
    """Where C would cut the number off there is an OverflowError, and the old value stays."""
    prestate = Prestate(7, 8, 9)
    with pytest.raises(OverflowError, match=field):
        setattr(prestate, field, value)
    assert prestate == Prestate(7, 8, 9)
    with pytest.raises(OverflowError, match=field):
        Prestate(**{field: value})


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [None, "1", b"1", 1.0, [1]])
def test_no_int_is_a_type_error_that_names_the_field(field: str, value: object) -> None:
    """Only an int is a number here."""
    prestate = Prestate(7, 8, 9)
    with pytest.raises(TypeError, match=field):
        setattr(prestate, field, value)
    assert prestate == Prestate(7, 8, 9)
    with pytest.raises(TypeError, match=field):
        Prestate(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", FIELDS)
def test_equality_looks_at_every_field(field: str) -> None:
    """Equal by value, different as soon as one number differs."""
    assert Prestate(1, 2, 3) == Prestate(1, 2, 3)
    other = Prestate(1, 2, 3)
    setattr(other, field, 99)
    assert other != Prestate(1, 2, 3)


def test_is_not_equal_to_another_type() -> None:
    """A tuple or the struct's bytes are not a Prestate."""
    assert Prestate() != (0, 0, 0)
    assert Prestate() != bytes(12)


def test_has_no_hash() -> None:
    """Mutable and equal by value: no key of a dict."""
    with pytest.raises(TypeError, match="unhashable"):
        hash(Prestate())


def test_repr_makes_the_same_prestate_again() -> None:
    """repr() is the expression that builds it."""
    prestate = Prestate(1, 2, 2**32 - 1)
    assert repr(prestate) == "Prestate(record_seq=1, hsk_read_seq=2, hsk_write_seq=4294967295)"
    assert eval(repr(prestate)) == prestate


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copy_has_a_struct_of_its_own(duplicate: object) -> None:
    """A change of the copy leaves the original."""
    original = Prestate(1, 2, 3)
    made = duplicate(original)  # type: ignore[operator]
    assert made == original
    made.record_seq = 9
    assert original == Prestate(1, 2, 3)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(protocol: int) -> None:
    """A prestate can go to another process: verify here, serve there."""
    original = Prestate(1, 2, 2**32 - 1)
    assert pickle.loads(pickle.dumps(original, protocol)) == original


def test_subclass_survives_copy_and_pickle() -> None:
    """A user's subclass stays what it is."""
    assert type(copy.copy(Marked(1))) is Marked
    assert pickle.loads(pickle.dumps(Marked(1, 2, 3))) == Marked(1, 2, 3)


class Marked(Prestate):
    """A subclass, at module level for pickle."""


def test_takes_no_other_attribute() -> None:
    """A misspelt field is an error, not a silent nothing."""
    with pytest.raises(AttributeError):
        Prestate().record_sequence = 1  # type: ignore[attr-defined]
