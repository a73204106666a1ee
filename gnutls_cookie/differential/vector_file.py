"""The file of vectors: libgnutls' answers to the set of vectors.py, in the manner of Wycheproof.

It is package data, vectors.json, with vectors.schema.json beside it, one test a line. A test has a
tcId that stays with its name, flags that point to notes, and a result: "valid" (taken), "invalid"
(refused or ignored), or "acceptable" (libgnutls departs from the RFC, or goes beyond it: another
answer may be right as well).
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from gnutls_cookie.cookie import library_version
from gnutls_cookie.errors import naming

from .cases import VECTOR_OPERATIONS, Case, case_of_json
from .notes import notes
from .outcomes import Outcome, Target, Wrong
from .targets import LIBGNUTLS, outcome_of
from .vectors import Vector, vectors

__all__ = ["COMMAND", "FILE", "SCHEMA", "Test", "answer", "document", "read", "text_of"]

COMMAND = "gnutls-cookie vectors"
FILE = Path(__file__).resolve().parent / "vectors.json"
SCHEMA = FILE.with_name("vectors.schema.json")

_GROUPS = {
    "verify": ("CookieVerify", "gnutls_dtls_cookie_verify"),
    "send": ("CookieSend", "gnutls_dtls_cookie_send, with what its push function gives and gets"),
    "receive": ("Gate", "the judgement of gnutls_cookie.CookieGate, which stands on both"),
    "client": (
        "HelloVerifyRequest",
        "what libgnutls' client makes of the answer to its first ClientHello (message_seq 0)",
    ),
}
_ABOUT = [
    "Cases of the DTLS cookie exchange (RFC 6347 4.2.1), with what libgnutls answers: each version",
    "that is named here was asked. A version that answers otherwise has a file of its own.",
    "Bytes are hexadecimal; case and answer are question and answer of docs/differential.md.",
    "A result of push beyond 32 bits needs an ssize_t of 64.",
]

# Flags by what stands in name and reason, where the vector names none.
_FLAGS = (
    (r"^verify: .*(datagram [2-9])", "LaterFragment"),
    (r"^verify: .*(, 0 behind it|cookie cut by)", "EndsWithCookie"),
    (r"^verify: .*\| not looked at", "FixedOffsets"),
    (r"^verify: .*(bytes of zero|bytes of a hello|session id of 32 in)", "TwoErrorCodes"),
    (r"^verify: session id of (33|64|255)", "SessionIdTooLong"),
    (r"^verify: cookie (of \d|said)", "CookieOfAnotherSize"),
    (r"empty key", "EmptyKey"),
    (r"client_data (NULL|empty)", "NoClientData"),
    (r"^verify: (record|message)_seq (2[5-9]\d|\d{4,})", "LowBytesRead"),
    (r"^verify: prestate", "FailureKeepsPrestate"),
    (r"^send: prestate \(.*\d{3,}", "LowBytesWritten"),
    (r"^send: .*narrowed", "ResultNarrowed"),
    (r"^send: .*any error of push", "ErrnoLost"),
    (r"^send: .*(nothing|part of it) was sent", "NothingSent"),
    (r"^receive: .*(fragment)", "LaterFragment"),
    (r"^receive: ends with its cookie", "EndsWithCookie"),
    (r"^receive: session id of (33|255)", "SessionIdTooLong"),
    (r"^client: cookie of (33|64|255)", "CookieOver32"),
    (
        r"^client: (record_seq|.*server_version|message_seq|.*there|.* behind the cookie)",
        "RequestRead",
    ),
    (r"", "Normal"),
)
_NORMAL = {
    "title": "As RFC 6347 has it",
    "description": "libgnutls does what the RFC asks for, or what it leaves open.",
}


class Test(NamedTuple):
    """One of the file.

    Attributes:
        number: tcId.
        name: its own.
        why: what an implementation may get wrong here.
        flags: names of notes.
        result: "valid", "invalid" or "acceptable".
        case: what is asked.
        expected: the outcome of libgnutls.
    """

    number: int
    name: str
    why: str
    flags: tuple[str, ...]
    result: str
    case: Case
    expected: Outcome


def answer(target: Target, case: Case) -> dict[str, Any]:
    """What a target makes of a case, as a program answers it in a line of JSON.

    The members are those of docs/differential.md.

    Raises:
        ValueError: the target's outcome is none that libgnutls could have.
    """
    return _as_answer(target.answer(case))


def text_of(path: Path, most: int) -> str:
    """The text of a file of at most so many bytes.

    Raises:
        ValueError: it has more (a device has no end), or is not UTF-8; the text names it.
        OSError: it cannot be read.
    """
    with open(path, "rb") as file, naming(path):
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: {error}") from None


def read(text: str | None = None) -> list[Test]:
    """The tests of a file.

    Args:
        text: of the file; None for the one of this package.

    Raises:
        ValueError: it is not such a file; the text says why.
    """
    try:
        found = json.loads(FILE.read_text(encoding="utf-8") if text is None else text)
        return [_test(one) for group in found["testGroups"] for one in group["tests"]]
    except (KeyError, TypeError, RecursionError, Wrong) as error:
        raise ValueError(f"no file of vectors: {type(error).__name__}: {error}") from None


def _test(found: dict[str, Any]) -> Test:
    case = case_of_json(json.dumps(found["case"]))
    expected = outcome_of(case, found["answer"])
    if expected[0] == "wrong":
        raise ValueError(f"no answer: {expected[1]}")
    flags = tuple(found["flags"])
    return Test(
        found["tcId"], found["name"], found["comment"], flags, found["result"], case, expected
    )


def document(former: str = "") -> str:
    """The file: the set with the answers of the libgnutls in use, one test a line.

    Args:
        former: a file as it was. Its names keep their tcId; where the answers are the same, the
            versions that it names stay.
    """
    versions = {library_version()}
    numbers: dict[str, int] = {}
    before: dict[str, Any] = {}
    if former:
        before = json.loads(former)
        numbers = {one["name"]: one["tcId"] for g in before["testGroups"] for one in g["tests"]}
    listed = {operation: [] for operation in VECTOR_OPERATIONS}  # type: dict[str, list[Any]]
    free = max(numbers.values(), default=0) + 1
    for one in vectors():
        if one.name not in numbers:
            numbers[one.name], free = free, free + 1
        listed[one.case.operation].append(_entry(numbers[one.name], one))
    if [g["tests"] for g in before.get("testGroups", ())] == list(listed.values()):
        versions |= set(before["libgnutls"])
    used = {flag for tests in listed.values() for one in tests for flag in one["flags"]}
    head = {
        "$schema": SCHEMA.name,
        "algorithm": "DTLS cookie exchange of libgnutls",
        "command": COMMAND,
        "libgnutls": sorted(versions, key=_parts),
        "header": _ABOUT,
        "notes": _notes(used),
        "numberOfTests": sum(map(len, listed.values())),
    }
    groups = []
    for operation, tests in listed.items():
        kind, source = _GROUPS[operation]
        lines = ",\n    ".join(map(json.dumps, tests))
        start = json.dumps({"type": kind, "operation": operation, "source": source})
        groups.append(f'{start[:-1]}, "tests": [\n    {lines}\n  ]}}')
    joined = ",\n  ".join(groups)
    return json.dumps(head, indent=1)[:-2] + f',\n "testGroups": [\n  {joined}\n ]\n}}\n'


def _entry(number: int, one: Vector) -> dict[str, Any]:
    found = answer(LIBGNUTLS, one.case)
    flag = one.flag or next(
        flag for pattern, flag in _FLAGS if re.search(pattern, f"{one.name} | {one.why}")
    )
    return {
        "tcId": number,
        "name": one.name,
        "comment": one.why,
        "flags": [flag],
        "case": one.case.as_dict(),
        "result": _result(one.case.operation, flag, found),
        "answer": found,
    }


def _result(operation: str, flag: str, found: dict[str, Any]) -> str:
    if operation in ("verify", "send") and flag in _acceptable():
        return "acceptable"
    taken = found.get("result", -1) >= 0 or found.get("verdict") in (
        "challenge", "verified", "hello",
    )  # fmt: skip
    return "valid" if taken else "invalid"


@cache
def _acceptable() -> frozenset[str]:
    return frozenset(one.flag for one in notes() if one.acceptable)


def _notes(used: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"Normal": _NORMAL}
    for one in notes():
        if one.flag in used:
            found[one.flag] = {
                "title": one.title,
                "description": one.text,
                "source": one.source,
                "quirk": one.number,
            }
    return found


def _parts(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


def _as_answer(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case ("prestate", after):
            return {"result": 0, "prestate": list(after)}
        case ("error", code, reply, after):
            found: dict[str, Any] = {"result": code, "prestate": list(after)}
            return found | ({"pushed": reply.hex()} if reply else {})
        case ("sent", result, reply, after):
            return {"result": result, "pushed": reply.hex(), "prestate": list(after)}
        case ("challenge", datagram, presented):
            return {
                "verdict": "challenge",
                "datagram": datagram.hex(),
                "presented_cookie": presented,
            }
        case ("verified", age, prestate):
            return {"verdict": "verified", "key_age": age, "prestate": list(prestate)}
        case ("discarded", reason):
            return {"verdict": "discarded", "reason": reason}
        case ("hello", cookie):
            return {"verdict": "hello", "cookie": cookie.hex()}
        case ("ignored",):
            return {"verdict": "ignored"}
        case ("failed", code):
            return {"verdict": "failed", "code": code}
    raise ValueError(f"no answer of libgnutls: {outcome!r}")
