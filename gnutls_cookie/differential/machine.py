"""A server's cookie stage as a state machine: what is sent, how answers are read, and what differs.

The inputs are a client's, a letter each; the outputs are what a client makes of the answers. Once
there is a ServerHello, only an alert or silence counts: what else a session says is its own matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from gnutls_cookie.reference import gate, wire

__all__ = [
    "LETTERS",
    "NOTHING",
    "OTHER_NUMBER",
    "Client",
    "Difference",
    "Machine",
    "ReferenceServer",
    "differences",
    "is_server_hello",
]

#: What a client may send, by name.
LETTERS = {
    "hello": "a ClientHello without a cookie",
    "cookie": "a ClientHello with the last cookie received, or zeros where there was none",
    "wrong cookie": "a ClientHello with that cookie, one bit of it changed",
    "application data": "a record of application data of epoch 0",
    "later fragment": "the second half of a ClientHello",
    "one byte": "a datagram of one byte",
    "empty": "an empty datagram",
}

NOTHING, GOES_ON, ENDED = "-", "goes on", "ended"
OTHER_NUMBER = "HelloVerifyRequest of another message_seq"

_SUITES = (0x00A8, 0x00AE, 0xC0A8, 0xC02B, 0xC02C, 0xC02F, 0xC0AC)  # PSK, ECDHE, CCM
_EXTENSIONS = (
    (10, bytes.fromhex("0006001d00170018")),  # supported_groups
    (11, bytes.fromhex("0100")),  # ec_point_formats
    (13, bytes.fromhex("00080403050306030804")),  # signature_algorithms
)
_SERVER_HELLO = 2
_ALERT = 21


class Client:
    """A client of one run: makes the datagram of a letter, and reads what comes back.

    Its sequence numbers are those of a real one: the record's goes up with each datagram, and
    message_seq is one more than that of the last HelloVerifyRequest (RFC 6347 4.2.2).
    """

    def __init__(self) -> None:
        self._record_seq = 0
        self._message_seq = 0
        self._cookie = b""
        self._state = ""  # GOES_ON once there was a ServerHello, ENDED after an alert

    def datagram(self, letter: str) -> bytes:
        """What is sent for a letter of LETTERS."""
        if letter == "empty":
            return b""
        if letter == "one byte":
            return b"\x16"
        number, self._record_seq = self._record_seq, self._record_seq + 1
        if letter == "application data":
            record = wire.RecordHeader(23, wire.DTLS_1_2, 0, number, 1)
            return record.encode() + b"x"
        cookie = b""
        if letter != "hello":
            cookie = self._cookie or bytes(16)
        if letter == "wrong cookie":
            cookie = bytes([cookie[0] ^ 1]) + cookie[1:]
        hello = wire.client_hello(
            cookie=cookie,
            random=b"\x11" * 32,
            cipher_suites=_SUITES,
            extensions=_EXTENSIONS,
            record_seq=number,
            message_seq=self._message_seq,
        )
        if letter != "later fragment":
            return hello
        body = hello[25:]
        half = len(body) // 2
        return wire.handshake_record(
            wire.CLIENT_HELLO,
            body[half:],
            length=len(body),
            fragment_offset=half,
            message_seq=self._message_seq,
            record_seq=number,
        )

    def read(self, answers: list[bytes]) -> str:
        """The output for what came back for one letter."""
        outputs = [self._read(one) for one in answers]
        if self._state == ENDED or any(one.startswith("alert") for one in outputs):
            before, self._state = self._state, ENDED
            return next((one for one in outputs if one.startswith("alert")), before or NOTHING)
        if self._state == GOES_ON:
            return GOES_ON
        if "ServerHello" in outputs:
            self._state = GOES_ON
            return "ServerHello"
        if not outputs:
            return NOTHING
        return outputs[0] if len(outputs) == 1 else f"{len(outputs)} times {outputs[0]}"

    def _read(self, datagram: bytes) -> str:
        if len(datagram) < 14:
            return "junk"
        if datagram[0] == _ALERT:
            return f"alert {datagram[14]}" if len(datagram) == 15 else "alert"
        if datagram[0] != wire.CONTENT_HANDSHAKE:
            return f"content type {datagram[0]}"
        if is_server_hello(datagram):
            return "ServerHello"
        if datagram[13] != wire.HELLO_VERIFY_REQUEST or len(datagram) < 28:
            return f"handshake type {datagram[13]}"
        if self._state:
            return "HelloVerifyRequest"
        due, message_seq = self._message_seq, int.from_bytes(datagram[17:19], "big")
        self._cookie = datagram[28 : 28 + datagram[27]]
        self._message_seq = message_seq + 1
        # A client that was asked before waits for the next number, and drops another.
        return "HelloVerifyRequest" if message_seq == due else OTHER_NUMBER


def is_server_hello(datagram: bytes) -> bool:
    """Whether a datagram opens a session."""
    return datagram[:1] == bytes([wire.CONTENT_HANDSHAKE]) and datagram[13:14] == bytes(
        [_SERVER_HELLO]
    )


class ReferenceServer:
    """What a server has to be: the reference gate, and a session that bears all it gets."""

    def __init__(self) -> None:
        self._connected = False

    def answer(self, datagram: bytes, _expected: int | None = None) -> list[bytes]:
        """The datagrams that come back."""
        if self._connected:
            return []
        verdict = gate.receive(datagram, b"client", b"key")
        if isinstance(verdict, gate.Challenge):
            return [verdict.datagram]
        if isinstance(verdict, gate.Verified):
            self._connected = True
            return [wire.handshake_record(_SERVER_HELLO, bytes(38), message_seq=1)]
        return []


class Machine(NamedTuple):
    """A Mealy machine; state 0 is the first.

    Attributes:
        steps: for each state, by letter: the output and the next state.
    """

    steps: tuple[dict[str, tuple[str, int]], ...]

    @classmethod
    def of(cls, step: Callable[[object, str], tuple[str, object]], first: object) -> Machine:
        """Number the states that can be reached, in the order of LETTERS.

        Args:
            step: gives output and next state of a state and a letter.
            first: the first state.
        """
        numbers = {id(first): 0}
        states, steps = [first], []
        for state in states:
            row = {}
            for letter in LETTERS:
                output, after = step(state, letter)
                if id(after) not in numbers:
                    numbers[id(after)] = len(states)
                    states.append(after)
                row[letter] = (output, numbers[id(after)])
            steps.append(row)
        return cls(tuple(steps))

    def table(self) -> str:
        """A line for each state and letter that does something; many lines."""
        lines = []
        for state, row in enumerate(self.steps):
            lines.append(f"state {state}")
            for letter, (output, after) in row.items():
                if output not in (NOTHING, GOES_ON, ENDED) or after != state:
                    to = "" if after == state else f", then state {after}"
                    lines.append(f"  {letter}: {output}{to}")
        return "\n".join(lines)

    def dot(self) -> str:
        """The machine for Graphviz."""
        lines = ["digraph cookie_stage {", "  rankdir=LR;", "  node [shape=circle];"]
        for state, row in enumerate(self.steps):
            arrows: dict[tuple[str, int], list[str]] = {}
            for letter, step in row.items():
                arrows.setdefault(step, []).append(letter)
            for (output, after), letters in arrows.items():
                label = f"{', '.join(letters)} / {output}"
                lines.append(f'  {state} -> {after} [label="{label}"];')
        return "\n".join([*lines, "}"])


@dataclass(frozen=True)
class Difference:
    """A shortest sequence of letters after which two machines answer the last one differently.

    Attributes:
        letters: what is sent.
        expected: the output of the reference for the last one.
        output: the other's.
    """

    letters: tuple[str, ...]
    expected: str
    output: str

    def __str__(self) -> str:
        sent = ", ".join(self.letters)
        return f"after {sent}: {self.output!r} where {self.expected!r} is right"


def differences(reference: Machine, machine: Machine) -> list[Difference]:
    """In what a machine differs, the shortest sequences first; one for each letter and output."""
    found: dict[tuple[str, str, str], Difference] = {}
    seen = {(0, 0)}
    waiting: deque[tuple[int, int, tuple[str, ...]]] = deque([(0, 0, ())])
    while waiting:
        one, other, before = waiting.popleft()
        for letter in LETTERS:
            expected, after = reference.steps[one][letter]
            output, after_other = machine.steps[other][letter]
            if expected != output:
                kind = (letter, expected, output)
                found.setdefault(kind, Difference((*before, letter), expected, output))
            elif (after, after_other) not in seen:
                seen.add((after, after_other))
                waiting.append((after, after_other, (*before, letter)))
    return list(found.values())
