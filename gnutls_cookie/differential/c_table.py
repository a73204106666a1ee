"""The vectors of the two C functions as a table in C, for test suites that read no JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .vector_file import COMMAND, Test

__all__ = ["c_table"]

_BYTES_A_LINE = 20

_HEAD = """\
/* Vectors of gnutls_dtls_cookie_verify and gnutls_dtls_cookie_send, with the answers of
 * libgnutls {versions}.
 *
 * Made by: {command} --format c
 *
 * `result` is what the function returns. `pushed` is what the push function has to return, unless
 * `push_all` says that it is the number of bytes that it is given; values beyond 32 bits need an
 * ssize_t of 64. `reply` is what push is given; it is NULL where push is not called. `before` and
 * `after` are record_seq, hsk_read_seq and hsk_write_seq of the prestate. Where client_data is
 * NULL its size is 0. */
#ifndef DTLS_COOKIE_VECTORS_H
#define DTLS_COOKIE_VECTORS_H

#include <stddef.h>

enum dtls_cookie_operation {{ DTLS_COOKIE_VERIFY, DTLS_COOKIE_SEND }};

/* Refused, taken, or taken or refused in a way that RFC 6347 does not ask for. */
enum dtls_cookie_class {{ DTLS_COOKIE_INVALID, DTLS_COOKIE_VALID, DTLS_COOKIE_ACCEPTABLE }};

struct dtls_cookie_vector {{
    unsigned tc_id;
    const char *name;
    const char *flag;
    enum dtls_cookie_operation operation;
    enum dtls_cookie_class kind;
    const unsigned char *key;
    size_t key_size;
    const unsigned char *client_data;
    size_t client_data_size;
    const unsigned char *message;
    size_t message_size;
    unsigned before[3];
    int push_all;
    long long pushed;
    int result;
    const unsigned char *reply;
    size_t reply_size;
    unsigned after[3];
}};
"""


def c_table(tests: Sequence[Test], versions: Iterable[str]) -> str:
    """A header with the vectors of verify and send.

    Args:
        tests: of a file; those of other operations are left out.
        versions: of libgnutls that give these answers.
    """
    asked = [one for one in tests if one.case.operation in ("verify", "send")]
    blobs: dict[bytes, str] = {}
    for one in asked:
        for data in (one.case.key, one.case.client_data, one.case.message, _reply(one)):
            if data is not None and data not in blobs:
                blobs[data] = f"dtls_cookie_bytes_{len(blobs)}"
    lines = [_HEAD.format(versions=", ".join(versions), command=COMMAND)]
    for data, name in blobs.items():
        lines += _array(name, data)
    lines.append("static const struct dtls_cookie_vector dtls_cookie_vectors[] = {")
    for one in asked:
        lines += _row(one, blobs)
    lines += [
        "};",
        "",
        "enum { DTLS_COOKIE_VECTORS = sizeof dtls_cookie_vectors / sizeof *dtls_cookie_vectors };",
        "",
        "#endif",
        "",
    ]
    return "\n".join(lines)


def _reply(one: Test) -> bytes | None:
    reply: bytes = one.expected[2] if one.expected[0] in ("sent", "error") else b""
    return reply or None


def _array(name: str, data: bytes) -> Iterator[str]:
    numbers = list(data) or [0]  # C has no empty arrays
    yield f"static const unsigned char {name}[] = {{"
    for start in range(0, len(numbers), _BYTES_A_LINE):
        yield "    " + ", ".join(map(str, numbers[start : start + _BYTES_A_LINE])) + ","
    yield "};"


def _row(one: Test, blobs: dict[bytes, str]) -> Iterator[str]:
    case, reply = one.case, _reply(one)

    def bytes_of(data: bytes | None) -> str:
        return "NULL, 0" if data is None else f"{blobs[data]}, {len(data)}"

    kind = one.expected[0]
    result = {"prestate": 0}.get(kind, one.expected[1])
    after = one.expected[-1]
    numbers = "{{{}U, {}U, {}U}}"
    yield f"    {{{one.number}, {_quoted(one.name)}, {_quoted(one.flags[0])},"
    yield f"     DTLS_COOKIE_{case.operation.upper()}, DTLS_COOKIE_{one.result.upper()},"
    yield f"     {bytes_of(case.key)}, {bytes_of(case.client_data)}, {bytes_of(case.message)},"
    yield (
        f"     {numbers.format(*case.prestate)}, {int(case.pushed is None)}, "
        f"{_long_long(case.pushed or 0)}, {result}, {bytes_of(reply)}, {numbers.format(*after)}}},"
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _long_long(number: int) -> str:
    # The least one is no literal in C: a minus before what does not fit.
    return f"({number + 1}LL - 1)" if number == -(2**63) else f"{number}LL"
