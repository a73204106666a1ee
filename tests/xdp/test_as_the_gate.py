"""The program in the kernel held against the gate: verdict, reason and every byte of the frame."""

from __future__ import annotations

import hmac
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields

import pytest

from gnutls_cookie import (
    Arrival,
    CertificateCredentials,
    Challenge,
    Client,
    CookieGate,
    Discarded,
    DiscardReason,
    KeyRing,
    Prestate,
    PSKCredentials,
    Server,
    Verified,
    client_data,
)
from gnutls_cookie.differential import LIBGNUTLS, Case, PythonTarget, compare_cases
from gnutls_cookie.differential.datagrams import HELLOS, broken, made, with_cookie
from gnutls_cookie.reference import wire
from gnutls_cookie.xdp import XdpCounters, XdpGate
from tests.support.common import ROOT
from tests.support.xdp import DROP, PASS, TX, answer, datagram_in, frame, tagged, xdp_required

Address = tuple[str, int]

PORT = 5684
TAGS = (b"", b"", bytes.fromhex("81000005"), bytes.fromhex("88a8000781000005"))
FRAME_BYTES_MAX = 3500  # of one page, as the kernel gives it to a program
KEY = b"a key of sixteen"


class Kernel:
    """The program as a target of the bench. client_data says which client the frame comes from.

    Args:
        mapped, layout: as XdpGate's.
    """

    def __init__(self, mapped: bool = False, layout: str = "sockaddr") -> None:
        self.gate = XdpGate(
            [PORT], mapped=mapped, layout="coap" if layout == "coap" else "sockaddr"
        )
        self._keys: tuple[bytes, bytes | None] | None = None
        self._counters = self.gate.counters
        self._calls = 0
        self.seen: Counter[str] = Counter()

    def receive(
        self, datagram: bytes, who: bytes, current: bytes, previous: bytes | None
    ) -> Challenge | Verified | Discarded:
        """What the program makes of a datagram, and that the frame is right to the last byte."""
        if self._keys != (current, previous):
            self.gate.set_keys(current, previous, 3600)
            self._keys = current, previous
        client, server = _addresses(who)
        self._calls += 1
        tags = TAGS[self._calls % len(TAGS)]
        sent = tagged(_marked(frame(datagram, client, server)), tags)
        sent += bytes(self._calls % 7)  # what Ethernet fills up with
        action, got, _ = self.gate.run(sent)
        before, self._counters = self._counters, self.gate.counters
        counted = _difference(before, self._counters)
        self.seen.update(counted)
        if action == TX:
            reply = datagram_in(got)
            assert got == tagged(answer(reply, client, server), tags)
            assert len(got) < len(sent)
            assert counted in ({"challenged": 1}, {"challenged": 1, "presented": 1})
            return Challenge(reply, "presented" in counted)
        assert (action, got) == (PASS, sent)
        (what,) = counted
        if what.startswith("verified"):
            message_seq = int.from_bytes(datagram[17:19], "big")
            record_seq = int.from_bytes(datagram[5:11], "big")
            prestate = Prestate(record_seq, message_seq, max(message_seq, 1) - 1)
            return Verified(prestate, int(what == "verified_previous"))
        return Discarded(DiscardReason[what])


def _marked(sent: bytes) -> bytes:
    """With all that a reply must not take over: class, flow label, hop limit, identification."""
    if sent[12] == 8:
        return _changed(_changed(sent, 15, "b8"), 18, "abcd000003")
    return _changed(_changed(sent, 14, "6b812345"), 21, "03")


def _changed(frame: bytes, at: int, value: str) -> bytes:
    data = bytes.fromhex(value)
    return frame[:at] + data + frame[at + len(data) :]


def _difference(before: XdpCounters, after: XdpCounters) -> dict[str, int]:
    """What was counted in between, by name; a reason by its own."""
    names = [field.name for field in fields(XdpCounters) if field.name != "passed"]
    found = {name: getattr(after, name) - getattr(before, name) for name in names}
    found |= {
        reason.name: number - before.passed.get(reason, 0)
        for reason, number in after.passed.items()
    }
    return {name: number for name, number in found.items() if number}


def _addresses(who: bytes) -> tuple[Address, Address]:
    """The client in a sockaddr or a coap_addr_tuple_t, and the server; an IPv4 one unmapped."""
    remote, local = who, b""
    if len(who) == 64:
        (size,) = struct.unpack("=I", who[:4])
        remote, local = who[4 : 4 + size], who[36 : 36 + size]
    client = _address(remote)
    server = ("2001:db8::9", PORT) if ":" in client[0] else ("10.9.9.9", PORT)
    return client, _address(local) if local else server


def _address(sockaddr: bytes) -> Address:
    port = int.from_bytes(sockaddr[2:4], "big")
    if len(sockaddr) == 16:
        return socket.inet_ntop(socket.AF_INET, sockaddr[4:8]), port
    return socket.inet_ntop(socket.AF_INET6, sockaddr[8:24]).removeprefix("::ffff:"), port


def _coap(client: Address, server: Address, family: int | None) -> bytes:
    parts = [client_data.sockaddr(one, family) for one in (client, server)]
    return b"".join(struct.pack("=I28s", len(one), one) for one in parts)


def generated(
    seed: int, count: int, mapped: bool = False, layout: str = "sockaddr"
) -> Iterator[Case]:
    """Hellos recorded and made, many of them broken, under right, former and wrong cookies."""
    chance = random.Random(seed)
    family = socket.AF_INET6 if mapped else None
    while True:
        key = chance.randbytes(chance.choice([1, 16, 16, 20, 63, 64, 65, 100]))
        previous = chance.choice([None, chance.randbytes(16), chance.randbytes(64)])
        for _ in range(40):
            client, server = _pair(chance)
            who = client_data.sockaddr(client, family)
            if layout == "coap":
                who = _coap(client, server, family)
            cookies = [hmac.digest(one, who, "sha1")[:16] for one in (key, previous) if one]
            for _ in range(25):
                datagram = _datagram(chance, cookies)
                if len(datagram) > FRAME_BYTES_MAX - 100:
                    continue
                yield Case("receive", key, who, datagram, previous=previous)
                count -= 1
                if count == 0:
                    return


def _pair(chance: random.Random) -> tuple[Address, Address]:
    """A client and a server of one family, of addresses that belong to one host each."""
    if chance.random() < 0.5:
        ip = [socket.inet_ntop(socket.AF_INET6, b"\x20" + chance.randbytes(15)) for _ in range(2)]
    else:
        first = chance.choice([1, 10, 100, 126, 128, 169, 172, 192, 223])
        ip = [socket.inet_ntoa(bytes([first]) + chance.randbytes(3)) for _ in range(2)]
    return (ip[0], chance.randrange(1, 65536)), (ip[1], PORT)


def _datagram(chance: random.Random, cookies: list[bytes]) -> bytes:
    datagram = chance.choice(HELLOS) if chance.random() < 0.4 else made(chance)
    if len(datagram) > 61 + 32 and datagram[19:22] == bytes(3) and chance.random() < 0.7:
        cookie = chance.choice(cookies)
        if chance.random() < 0.3:
            cookie = chance.randbytes(chance.choice([0, 1, 15, 16, 17, 20, 32, 255]))
        elif chance.random() < 0.2:
            flipped = bytearray(cookie)
            flipped[chance.randrange(16)] ^= 1 << chance.randrange(8)
            cookie = bytes(flipped)
        datagram = with_cookie(datagram, cookie)
    return broken(chance, datagram) if chance.random() < 0.5 else datagram


def differing(seed: int, count: int, mapped: bool, layout: str) -> tuple[list[object], Kernel]:
    """The cases of a seed in which the kernel and the gate differ, three at most."""
    kernel = Kernel(mapped, layout)
    with kernel.gate:
        target = PythonTarget("xdp", receive=kernel.receive, prestate=Prestate)
        found: list[object] = []
        for one in compare_cases(target, LIBGNUTLS, generated(seed, count, mapped, layout)):
            found.append(one)
            if len(found) == 3:
                break
    return found, kernel


@pytest.mark.parametrize("layout", ["sockaddr", "coap"])
@pytest.mark.parametrize("mapped", [False, True])
def test_generated_datagrams_get_the_verdicts_of_the_gate(mapped: bool, layout: str) -> None:
    """In reason, reply and headers; every verdict and nearly every reason occurs."""
    xdp_required()
    found, kernel = differing(20 + mapped, 2500, mapped, layout)
    assert found == []
    occurred = set(kernel.seen) - {"presented", "dropped", "expired"}
    assert {"challenged", "verified", "verified_previous"} < occurred
    assert set(DiscardReason.__members__) - occurred <= {"INTERNAL", "SESSION_ID"}


@pytest.mark.long
def test_a_million_datagrams_get_the_verdicts_of_the_gate() -> None:
    """GNUTLS_COOKIE_SEED names others."""
    xdp_required()
    seed = int(os.environ.get("GNUTLS_COOKIE_SEED", "1"))
    for number, (mapped, layout) in enumerate(
        [(False, "sockaddr"), (True, "sockaddr"), (False, "coap"), (True, "coap")]
    ):
        found, _ = differing(4 * seed + number, 250_000, mapped, layout)
        assert found == []


def test_a_datagram_that_ends_with_its_cookie_is_challenged() -> None:
    """As by lib/dtls.c, which wants a byte behind the cookie; one byte more, and it is verified."""
    xdp_required()
    kernel = Kernel()
    who = client_data.sockaddr(("192.0.2.1", 4000))
    whole = with_cookie(HELLOS[0], hmac.digest(KEY, who, "sha1")[:16])
    end = 61 + whole[59] + 16
    verdicts = []
    with kernel.gate:
        for size in end, end + 1:
            cut = bytearray(whole[:size])
            cut[11:13] = (size - 13).to_bytes(2, "big")
            cut[22:25] = (size - 25).to_bytes(3, "big")
            verdict = kernel.receive(bytes(cut), who, KEY, None)
            assert verdict == CookieGate(KEY).receive(bytes(cut), who)
            verdicts.append(type(verdict))
    assert verdicts == [Challenge, Verified]


@pytest.mark.parametrize("ip", ["192.0.2.1", "2001:db8::1"])
def test_a_checksum_of_zero_is_sent_as_ffff(ip: str) -> None:
    """0 stands for none (RFC 768). A record sequence, which is echoed, makes it come out so."""
    xdp_required()
    kernel = Kernel()
    who = client_data.sockaddr((ip, 4000))
    sums = []
    with kernel.gate:
        record_seq = 0
        for _ in range(2):
            hello = wire.client_hello(record_seq=record_seq)
            verdict = kernel.receive(hello, who, KEY, None)
            assert isinstance(verdict, Challenge)
            client, server = _addresses(who)
            back = answer(verdict.datagram, client, server)
            sums.append(back[-46:-44])
            # It stands in an odd place of the datagram, so that its bytes are swapped in the sum.
            record_seq = int.from_bytes(sums[0][::-1], "big")
    assert sums[1] == b"\xff\xff" != sums[0]


# --- what is not for the program ------------------------------------------------------------------


HELLO = wire.client_hello()
IPV4 = frame(HELLO)
IPV6 = frame(HELLO, ("2001:db8::3", 40000), ("2001:db8::9", PORT))

#: Frames that the kernel may make something of, and the program must not. Offsets: IP begins at 14,
#: UDP at 34 (IPv4) or 54 (IPv6).
NOT_OURS = {
    "another protocol of Ethernet": _changed(IPV4, 12, "0806"),
    "three tags": tagged(IPV4, TAGS[3] + TAGS[2]),
    "a tag cut off": tagged(IPV4, TAGS[2])[:16],
    "a version that is not IPv4's": _changed(IPV4, 14, "55"),
    "IPv4 options": _changed(IPV4, 14, "46"),
    "TCP": _changed(IPV4, 23, "06"),
    "a first fragment": _changed(IPV4, 20, "2000"),
    "a later fragment": _changed(IPV4, 20, "0001"),
    "the reserved bit": _changed(IPV4, 20, "8000"),
    "another port": _changed(IPV4, 36, "1635"),
    "headers cut off": IPV4[:41],
    "a version that is not IPv6's": _changed(IPV6, 14, "50"),
    "IPv6 hop-by-hop options": _changed(IPV6, 20, "00"),
    "an IPv6 fragment": _changed(IPV6, 20, "2c"),
    "IPv6 headers cut off": IPV6[:61],
}
ODD = {
    "to all of Ethernet": _changed(IPV4, 0, "ffffffffffff"),
    "to a group of Ethernet": _changed(IPV6, 0, "333300000001"),
    "port 0": _changed(IPV4, 34, "0000"),
    "UDP length below 8": _changed(IPV4, 38, "0007"),
    "UDP length less than IP's": _changed(IPV4, 39, f"{len(HELLO) + 7:02x}"),
    "UDP length more than IP's": _changed(IPV4, 39, f"{len(HELLO) + 9:02x}"),
    "IP length less than a header": _changed(IPV4, 16, "0010"),
    "a frame cut off": IPV4[:-1],
    "a long frame cut off": frame(wire.client_hello(extensions=((16, bytes(300)),)))[:-1],
    "IPv6 without a checksum": _changed(IPV6, 60, "0000"),
    "a jumbogram": _changed(_changed(IPV6, 18, "0000"), 58, "0000"),
    **{
        f"from {ip}": frame(HELLO, (ip, 40000), ("2001:db8::9" if ":" in ip else "10.9.9.9", PORT))
        for ip in (
            *("0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "239.1.2.3", "240.0.0.1"),
            *("255.255.255.255", "::", "::1", "::10.1.2.3", "ff02::1", "ff0e::5", "fe80::1"),
            "febf::1",
        )
    },
    **{
        f"to {ip}": frame(HELLO, ("2001:db8::3" if ":" in ip else "10.1.2.3", 40000), (ip, PORT))
        for ip in ("255.255.255.255", "224.0.1.187", "ff02::fd", "fe80::1")
    },
    "from ::ffff:10.1.2.3 in IPv6": IPV6[:22] + bytes(10) + b"\xff\xff\x0a\1\2\3" + IPV6[38:],
}


@pytest.mark.parametrize("drop_junk", [False, True])
def test_odd_frames_pass_untouched(drop_junk: bool) -> None:
    """Whatever they carry; those to the port are counted."""
    xdp_required()
    with XdpGate([PORT], drop_junk=drop_junk) as gate:
        gate.set_keys(KEY, None, 3600)
        assert [gate.run(one)[0] for one in (IPV4, IPV6)] == [TX, TX]
        for name, odd in {**NOT_OURS, **ODD}.items():
            before = gate.counters
            assert gate.run(odd)[:2] == (PASS, odd), name
            expected = {"untouched": 1} if name in ODD else {}
            assert _difference(before, gate.counters) == expected, name


# --- junk -----------------------------------------------------------------------------------------


def is_junk(datagram: bytes) -> bool:
    """Whether neither a handshake nor a session could want a datagram that is no good hello."""
    if len(datagram) < 13:
        return True
    kind, version, epoch = datagram[0], datagram[1:3].hex(), int.from_bytes(datagram[3:5], "big")
    length = int.from_bytes(datagram[11:13], "big")
    if not 20 <= kind <= 24 or version not in ("feff", "fefd", "0100"):
        return True
    if kind != 22:
        return 13 + length > len(datagram) or (epoch == 0 and kind in (23, 24))
    if epoch:
        return False
    if 13 + length > len(datagram) or not 12 <= length <= 16384:
        return True
    # Of a hello: a broken one, or one whose cookie is in the next fragment.
    return datagram[13] == 1 and datagram[17] == 0 and datagram[19:22] == bytes(3)


def test_junk_is_dropped_if_that_is_asked_for() -> None:
    """And no more than junk."""
    xdp_required()
    dropped = 0
    with XdpGate([PORT], drop_junk=True) as gate:
        gate.set_keys(KEY, None, 3600)
        others = random.Random(4)
        for case in generated(3, 4000):
            datagram = case.message
            if others.random() < 0.3:
                kind = others.choice([19, 20, 21, 22, 23, 24, 25, 64])
                datagram = (
                    bytes([kind])
                    + datagram[1:3]
                    + others.choice([bytes(2), b"\0\1"])
                    + datagram[5:]
                )
            verdict = CookieGate(KEY).receive(datagram, b"anybody")
            sent = frame(datagram)
            action, got, _ = gate.run(sent)
            if isinstance(verdict, Discarded):
                junk = is_junk(datagram)
                assert (action, got) == (DROP if junk else PASS, sent), datagram.hex()
                dropped += junk
            else:
                assert action == TX
        assert gate.counters.dropped == dropped > 500


def _sent_by_a_client(
    credentials: PSKCredentials | CertificateCredentials, client: Client
) -> list[bytes]:
    """All that it sends to a server of ours, in memory: hellos, flights, a message, a goodbye."""
    at = ("192.0.2.1", 4000)
    gate = CookieGate(KEY)
    server = Server(credentials, verify_peer=isinstance(credentials, CertificateCredentials))
    sent: list[bytes] = []
    client.connect(0.0)
    for step in range(12):
        if step == 8:
            client.send(b"a message")
        elif step == 10:
            client.close()
        for datagram in client.datagrams_to_send():
            sent.append(datagram)
            verdict = gate.receive(datagram, b"it")
            if isinstance(verdict, Challenge):
                client.receive_datagram(verdict.datagram, 0.0)
            elif at in server:
                server.receive(Arrival(at, datagram, None), 0.0)
            elif isinstance(verdict, Verified):
                server.receive(Arrival(at, datagram, verdict.prestate), 0.0)
        for datagram, _ in server.datagrams_to_send():
            client.receive_datagram(datagram, 0.0)
    return sent


def test_nothing_of_a_session_is_taken_for_junk() -> None:
    """Flights with PSK and with certificates on both sides, a message, a goodbye."""
    xdp_required()
    pair = [
        (ROOT / "tests/certs" / name).read_bytes() for name in ("localhost.pem", "localhost.key")
    ]
    certificates = CertificateCredentials(*pair, trust=pair[0])
    with XdpGate([PORT], drop_junk=True) as gate:
        gate.set_keys(KEY, None, 3600)
        for credentials, client in (
            (PSKCredentials(lookup={"it": KEY}), Client(PSKCredentials("it", KEY))),
            (certificates, Client(certificates, verify_peer=False)),
        ):
            sent = _sent_by_a_client(credentials, client)
            assert len(sent) >= 5
            epochs = set()
            for datagram in sent[2:]:
                epochs.add(datagram[4])
                assert gate.run(frame(datagram))[:2] == (PASS, frame(datagram)), datagram.hex()
            assert epochs == {0, 1}


# --- the very bytes -------------------------------------------------------------------------------


def test_keys_of_a_ring_are_those_of_the_gate() -> None:
    """As a node of a fleet has them, at the change of a period."""
    xdp_required()
    ring = KeyRing.from_secret(bytes(range(32)), 60)
    who = client_data.sockaddr(("192.0.2.1", 4000))
    kernel = Kernel()
    with kernel.gate:
        for now in 0.0, 59.9, 60.0, 119.9:
            assert kernel.receive(HELLO, who, *ring.keys_at(now)) == CookieGate(ring).receive(
                HELLO, who, now
            )
