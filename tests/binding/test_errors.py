"""GnuTLSError: code, name and text of libgnutls, as exceptions that Python code expects."""

from __future__ import annotations

import pickle

import pytest

import gnutls_cookie
from gnutls_cookie import (
    BadCookieError,
    GnuTLSError,
    InvalidRequestError,
    PushError,
    UnexpectedPacketLengthError,
    errors,
)
from tests.support.common import libgnutls

KINDS: list[tuple[int, str, type[GnuTLSError], type[Exception]]] = [
    (-214, "GNUTLS_E_BAD_COOKIE", BadCookieError, ValueError),
    (-9, "GNUTLS_E_UNEXPECTED_PACKET_LENGTH", UnexpectedPacketLengthError, ValueError),
    (-50, "GNUTLS_E_INVALID_REQUEST", InvalidRequestError, ValueError),
    (-53, "GNUTLS_E_PUSH_ERROR", PushError, OSError),
    (-7, "GNUTLS_E_LARGE_PACKET", errors.LargePacketError, ValueError),
    (-319, "GNUTLS_E_TIMEDOUT", errors.TimedOutError, TimeoutError),
    (-12, "GNUTLS_E_FATAL_ALERT_RECEIVED", errors.FatalAlertError, ConnectionError),
    (
        -348,
        "GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR",
        errors.CertificateVerificationError,
        ValueError,
    ),
    (-54, "GNUTLS_E_PULL_ERROR", GnuTLSError, Exception),
]
CODES = [code for code, _, _, _ in KINDS]


@pytest.mark.parametrize(("code", "name", "kind", "builtin"), KINDS)
def test_code_becomes_its_kind(
    code: int, name: str, kind: type[GnuTLSError], builtin: type[Exception]
) -> None:
    """Each code has its exception, which also is the builtin that fits, with code and name."""
    error = errors.error_from_code(code)
    assert type(error) is kind
    assert isinstance(error, GnuTLSError)
    assert isinstance(error, builtin)
    assert (error.code, error.name, error.detail) == (code, name, "")
    assert error.args == (code, "")


def test_name_and_text_are_those_of_the_library() -> None:
    """For every code that libgnutls knows, the same words as gnutls_strerror and its name."""
    known = 0
    for code in range(-500, 0):
        error = errors.error_from_code(code)
        name = libgnutls().gnutls_strerror_name(code)
        if name is None:
            assert error.name == "GNUTLS_E_UNKNOWN"
            continue
        known += 1
        assert error.name == name.decode()
        assert str(error) == f"{libgnutls().gnutls_strerror(code).decode()} [{error.name}, {code}]"
    assert known > 100


def test_detail_follows_the_text() -> None:
    """What is known beyond the code is said last."""
    error = errors.error_from_code(-53, "push gave nonsense")
    assert str(error).endswith("[GNUTLS_E_PUSH_ERROR, -53]: push gave nonsense")
    assert error.detail == "push gave nonsense"


def test_unknown_code_has_a_text_all_the_same() -> None:
    """A code of a later library is an error like others, not a crash."""
    error = errors.error_from_code(-99999)
    assert (type(error), error.code, error.name) == (GnuTLSError, -99999, "GNUTLS_E_UNKNOWN")
    assert str(error)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("detail", ["", "more"])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles(code: int, detail: str, protocol: int) -> None:
    """An error can come out of another process as what it was."""
    error = errors.error_from_code(code, detail)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (again.code, again.name, again.detail) == (error.code, error.name, detail)
    assert str(again) == str(error)


@pytest.mark.parametrize("code", CODES)
def test_repr_names_the_kind_and_the_code(code: int) -> None:
    """Short, and without the library's sentence."""
    kind = type(errors.error_from_code(code)).__name__
    assert repr(errors.error_from_code(code)) == f"{kind}({code})"
    assert repr(errors.error_from_code(code, "why")) == f"{kind}({code}, 'why')"


@pytest.mark.parametrize("result", [0, 1, 44, 2**31 - 1])
def test_check_gives_a_result_back(result: int) -> None:
    """Nothing that is not negative is an error."""
    assert errors.check(result) == result


@pytest.mark.parametrize("code", CODES)
def test_check_raises_a_negative_result(code: int) -> None:
    """A negative result is raised as its kind, with the detail."""
    with pytest.raises(GnuTLSError, match="why") as caught:
        errors.check(code, "why")
    assert caught.value.code == code


def test_public_kinds_are_caught_by_their_base() -> None:
    """One except clause is enough for whoever does not care which."""
    for name in gnutls_cookie.__all__:
        kind = getattr(gnutls_cookie, name)
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert issubclass(kind, GnuTLSError)
