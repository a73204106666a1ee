"""A finding for people: the case field by field, and both answers beside each other."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from .cases import Case
from .harness import Finding, Report
from .targets import Outcome

__all__ = ["as_dict", "junit", "text"]

_WIDTH = 22
_BYTES_A_LINE = 16
_BEFORE_MAX = 100  # lines that are printed of what came before a case

# name, size: the fields of a datagram with a ClientHello up to the length of its session id
# (RFC 6347 4.1, 4.2.2, 4.2.1).
_HEAD = (
    ("record header", (("type", 1), ("version", 2), ("epoch", 2), ("sequence_number", 6),
                       ("length", 2))),
    ("handshake header", (("msg_type", 1), ("length", 3), ("message_seq", 2),
                          ("fragment_offset", 3), ("fragment_length", 3))),
    ("ClientHello", (("client_version", 2), ("random", 32))),
)  # fmt: skip


def text(finding: Finding) -> str:
    """All of a finding, many lines.

    Raises:
        TypeError: it is not a Finding.
    """
    if not isinstance(finding, Finding):
        raise TypeError(f"finding must be a Finding, not {type(finding).__name__}")
    case = finding.case
    lines = [f"{_NAMES[case.operation]}: the answers differ{_place(finding)}"]
    if finding.before:
        count = len(finding.before)
        lines.append(
            f"alone the case shows nothing: the target remembers what came before it, "
            f"{count} case{'s' if count > 1 else ''} at least"
        )
    if finding.note:
        lines.append(finding.note)
    lines += ["", *_inputs(case), "", *_answers(finding.expected, finding.answer), ""]
    before = finding.before
    if len(before) > _BEFORE_MAX:
        lines.append(
            f"{len(before) + 1} lines, to be run again with --replay FILE: --corpus DIR keeps them "
            f"in a file, --json prints them; the last:"
        )
        before = ()
    elif before:
        lines.append(f"as {len(before) + 1} lines, to be run again with --replay FILE:")
    else:
        lines.append("as one line, to be run again with --case:")
    return "\n".join([*lines, *(one.as_json() for one in before), case.as_json()])


def _place(finding: Finding) -> str:
    if finding.seed is None or finding.number < 0:
        return ""
    return f" ({finding.case.operation} case {finding.number} of seed {finding.seed})"


def as_dict(report: Report) -> dict[str, Any]:
    """A report as JSON can hold it."""
    return {
        "target": report.target,
        "against": report.oracle,
        "seed": report.seed,
        "compared": report.compared,
        "seconds": round(report.seconds, 3),
        "repeated": report.repeated,
        "ended": report.ended,
        "findings": [
            {
                "case": finding.case.as_dict(),
                "expected": _plain(finding.expected),
                "answer": _plain(finding.answer),
                "number": finding.number,
                "seed": finding.seed,
                "alone": finding.alone,
                "before": [one.as_dict() for one in finding.before],
                "shown": list(finding.shown),
                "note": finding.note,
                "original": finding.original.as_dict(),
            }
            for finding in report.findings
        ],
    }


def junit(report: Report, error: str = "", command: str = "diff") -> str:
    """A report in the XML that CI systems read: one test case for each finding, or for the run.

    Names are the same in each run, so that a test case has a history.

    Args:
        report: what was found.
        error: why the run did not come to its end; "" where it did.
        command: that made it.
    """
    from xml.sax.saxutils import escape, quoteattr

    found = report.findings
    errors = 1 if error else 0
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        f'<testsuite name="gnutls-cookie {command}" tests="{max(1, len(found) + errors)}" '
        f'failures="{len(found)}" errors="{errors}" time="{report.seconds:.3f}">',
    ]
    name = quoteattr(_printable(f"{report.target} against {report.oracle}"))
    if not found and not error:
        lines.append(f'  <testcase classname="differential" name={name}/>')
    for finding in found:
        lines.append(f'  <testcase classname="differential" name={name}>')
        message = quoteattr(f"{finding.case.operation}: the answers differ")
        lines.append(
            f"    <failure message={message}>{escape(_printable(text(finding)))}</failure>"
        )
        lines.append("  </testcase>")
    if error:
        lines.append(f'  <testcase classname="differential" name={name}>')
        lines.append(f"    <error message={quoteattr(_printable(error))}/>")
        lines.append("  </testcase>")
    return "\n".join([*lines, "</testsuite>", ""])


_NAMES = {
    "verify": "gnutls_dtls_cookie_verify",
    "send": "gnutls_dtls_cookie_send",
    "receive": "the gate's receive",
    "client": "the client's reading of a HelloVerifyRequest",
}


def _inputs(case: Case) -> Iterator[str]:
    if case.operation == "client":
        yield _row("datagram", f"{len(case.message)} bytes")
        yield from _field("", case.message)
        return
    yield from _field("key" if case.previous is None else "current key", case.key)
    if case.previous is not None:
        yield from _field("previous key", case.previous)
    if case.client_data is None:
        yield _row("client_data", "NULL, 0 bytes")
    else:
        yield from _field("client_data", case.client_data)
    if case.operation == "send":
        pushed = (
            "44, the number of bytes that it is given" if case.pushed is None else str(case.pushed)
        )
        yield _row("push returns", pushed)
    if case.operation != "receive":
        yield _row("prestate before", _numbers(case.prestate))
    if case.operation != "send":
        yield _row("datagram", f"{len(case.message)} bytes")
        yield from _datagram(case.message)


def _datagram(datagram: bytes) -> Iterator[str]:
    at = 0
    for title, fields in _HEAD:
        for number, (name, size) in enumerate(fields):
            part = datagram[at : at + size]
            if not part:
                return
            if number == 0:
                yield _row(f"  {title}", f"at {at}")
            yield from _field(f"    {name}", part, short=len(part) < size)
            at += size
    for name in ("session_id", "cookie"):
        if at >= len(datagram):
            return
        size = datagram[at]
        yield _row(f"    {name} length", str(size))
        part = datagram[at + 1 : at + 1 + size]
        if part:
            yield from _field(f"    {name}", part, short=len(part) < size)
        at += 1 + size
    if at < len(datagram):
        yield from _field("    the rest", datagram[at:])


def _answers(expected: Outcome, answer: Outcome) -> Iterator[str]:
    yield f"{'':{_WIDTH}}{'expected':<40}target"
    names = _FIELDS.get(expected[0], ())
    both = expected[0] == answer[0] and len(expected) == len(answer)
    if both:
        yield f"{'answer':{_WIDTH}}{expected[0]:<40}{answer[0]}"
        for name, one, other in zip(names, expected[1:], answer[1:], strict=False):
            left, right = _value(one), _value(other)
            mark = "" if one == other or other is None else "   <--"
            if len(left) > 38 or len(right) > 38:
                yield f"{name:{_WIDTH}}{left}"
                yield f"{'':{_WIDTH}}{right}{mark}"
            else:
                yield f"{name:{_WIDTH}}{left:<40}{right}{mark}"
        return
    yield f"{'answer':{_WIDTH}}{expected[0]:<40}{answer[0]}   <--"
    for title, outcome in ("expected", expected), ("target", answer):
        for name, one in zip(_FIELDS.get(outcome[0], ("detail",)), outcome[1:], strict=False):
            yield _row(f"  {title} {name}", _value(one))


_FIELDS: dict[str, tuple[str, ...]] = {
    "prestate": ("prestate after",),  # the answer of a verify that succeeds
    "sent": ("result", "pushed", "prestate after"),
    "error": ("code", "pushed", "prestate after"),
    "challenge": ("datagram", "presented_cookie"),
    "verified": ("key_age", "prestate"),
    "discarded": ("reason",),
    "hello": ("cookie",),
    "failed": ("code",),
}


def _field(name: str, data: bytes, short: bool = False) -> Iterator[str]:
    more = " (cut off)" if short else ""
    if not data:
        yield _row(name, "empty")
        return
    for start in range(0, len(data), _BYTES_A_LINE):
        line = data[start : start + _BYTES_A_LINE].hex(" ")
        if start == 0:
            note = f"   {len(data)} bytes" if len(data) > 8 else ""
            yield _row(name, line + note + more)
        else:
            yield _row("", line)


def _row(name: str, value: str) -> str:
    return f"{name:<{_WIDTH - 1}} {value}".rstrip()


def _numbers(prestate: Any) -> str:
    return "record_seq {}, hsk_read_seq {}, hsk_write_seq {}".format(*prestate)


def _value(value: Any) -> str:
    if isinstance(value, bytes):
        return value.hex(" ") if value else "nothing"
    if isinstance(value, tuple) and len(value) == 3:
        return _numbers(value)
    return "not told" if value is None else str(value)


def _plain(outcome: Outcome) -> list[Any]:
    return json.loads(json.dumps([one.hex() if isinstance(one, bytes) else one for one in outcome]))  # type: ignore[no-any-return]


def _printable(said: str) -> str:
    """XML has no place for control characters."""
    return "".join(one if one.isprintable() or one == "\n" else "?" for one in said)
