"""What a server answered: exchanges, and the messages in a datagram. Pure functions of bytes."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

from gnutls_cookie.reference import wire

__all__ = ["Exchange", "Message", "read_messages"]

_NAMES = {wire.SERVER_HELLO: "ServerHello", wire.HELLO_VERIFY_REQUEST: "HelloVerifyRequest"}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a datagram, as far as it can be read without a key.

    Attributes:
        kind: "ServerHello", "HelloVerifyRequest", "alert 40" and so on.
        record_seq: of its record, 48 bits; -1 if there is no record.
        message_seq: of the handshake message, 16 bits; -1 if it is not one.
        version: server_version of a ServerHello or HelloVerifyRequest; 0 for all others.
    """

    kind: str
    record_seq: int = -1
    message_seq: int = -1
    version: int = 0


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was sent in a step, and what came back.

    Attributes:
        step: its name.
        sent: datagrams, in order.
        received: datagrams, in order; empty if the server was silent.
        refused: the server's system reported that the port is closed (ICMP).
    """

    step: str
    sent: tuple[bytes, ...] = ()
    received: tuple[bytes, ...] = ()
    refused: bool = False

    def joined(self, later: Exchange) -> Exchange:
        """This exchange and a later one of the same step, as one."""
        return replace(
            self,
            sent=self.sent + later.sent,
            received=self.received + later.received,
            refused=later.refused,
        )

    def messages(self) -> list[Message]:
        """All messages received, in order."""
        return [message for datagram in self.received for message in read_messages(datagram)]

    def first(self, kind: str) -> Message | None:
        """The first message received of that kind."""
        return next((message for message in self.messages() if message.kind == kind), None)

    def requests(self) -> list[wire.HelloVerifyRequest]:
        """The well-formed HelloVerifyRequests received, in order."""
        found = []
        for datagram in self.received:
            with contextlib.suppress(wire.WireError):
                found.append(wire.HelloVerifyRequest.decode(datagram))
        return found

    def cookie(self) -> bytes | None:
        """The cookie of the last HelloVerifyRequest, which a client continues with."""
        found = self.requests()
        return found[-1].cookie if found else None

    def describe(self) -> str:
        """What came, in words: "ServerHello, handshake message 11"; "silence"."""
        kinds = list(dict.fromkeys(message.kind for message in self.messages()))
        if not kinds:
            return "the port is closed" if self.refused else "silence"
        return ", ".join(kinds)


def read_messages(datagram: bytes) -> list[Message]:
    """The messages in a datagram, in order. Never raises, whatever the bytes.

    What cannot be read is a message of its own, and the last one.
    """
    found: list[Message] = []
    while datagram:
        try:
            record = wire.RecordHeader.decode(datagram)
        except wire.WireError:
            return [*found, Message("bytes that are not a record")]
        end = wire.RECORD_HEADER_SIZE + record.length
        fragment, datagram = datagram[wire.RECORD_HEADER_SIZE : end], datagram[end:]
        found += _messages_of(record, fragment)
    return found


def _messages_of(record: wire.RecordHeader, fragment: bytes) -> list[Message]:
    if len(fragment) < record.length:
        return [Message("a record cut short", record.record_seq)]
    if record.epoch:
        return [Message("an encrypted record", record.record_seq)]
    if record.content_type == wire.CONTENT_ALERT and len(fragment) == 2:
        return [Message(f"alert {fragment[1]}", record.record_seq)]
    if record.content_type != wire.CONTENT_HANDSHAKE:
        return [Message(f"a record of type {record.content_type}", record.record_seq)]
    found: list[Message] = []
    while fragment:
        try:
            header = wire.HandshakeHeader.decode(fragment)
        except wire.WireError:
            return [*found, Message("a handshake message cut short", record.record_seq)]
        end = wire.HANDSHAKE_HEADER_SIZE + header.fragment_length
        body, fragment = fragment[wire.HANDSHAKE_HEADER_SIZE : end], fragment[end:]
        name = _NAMES.get(header.msg_type, f"handshake message {header.msg_type}")
        version = int.from_bytes(body[:2], "big") if header.msg_type in _NAMES else 0
        if header.fragment_offset:
            name, version = f"{name}, continued", 0
        found.append(Message(name, record.record_seq, header.message_seq, version))
    return found
