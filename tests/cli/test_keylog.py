"""SSLKEYLOGFILE: libgnutls writes the keys of sessions, and Wireshark reads records by them."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

from gnutls_cookie import Session
from gnutls_cookie.session import Credentials
from tests.support.common import Address, running
from tests.support.peers import IDENTITY, PSK_KEY, psk, trusting
from tests.support.serve import CERT, SECONDS, Served, command

MESSAGE = b"what only the two of them know"

_LINKTYPE_RAW = 101  # IPv4 packets without a frame around them


class Tap:
    """Datagrams of one client, kept as a capture that Wireshark reads."""

    def __init__(self) -> None:
        self._packets: list[bytes] = []

    def add(self, source: Address, target: Address, datagram: bytes) -> None:
        """A datagram that was seen on its way."""
        udp = struct.pack("!HHHH", source[1], target[1], 8 + len(datagram), 0) + datagram
        ends = socket.inet_aton(source[0]) + socket.inet_aton(target[0])
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, socket.IPPROTO_UDP, 0)
        self._packets.append(head + ends + udp)

    def write(self, path: Path) -> None:
        """As a file of libpcap's format."""
        with path.open("wb") as file:
            file.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, _LINKTYPE_RAW))
            for number, packet in enumerate(self._packets):
                file.write(struct.pack("=IIII", number, 0, len(packet), len(packet)) + packet)


def talk(port: int, credentials: Credentials, tap: Tap) -> None:
    """A handshake and an echo, with every datagram seen by the tap."""
    # Wireshark 4.0 does not decrypt ECDHE-PSK with ChaCha20, our first choice.
    priority = "NORMAL:-VERS-ALL:+VERS-DTLS1.2:+PSK:-CHACHA20-POLY1305"
    session = Session("client", credentials, server_name="localhost", priority=priority)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        ours, theirs = sock.getsockname(), sock.getpeername()
        sock.settimeout(0.1)
        deadline = time.monotonic() + SECONDS
        echoed = None
        said = False
        while echoed is None:
            assert time.monotonic() < deadline, "no echo"
            if session.handshake() and not said:
                session.send(MESSAGE)
                said = True
            for datagram in session.datagrams_to_send():
                tap.add(ours, theirs, datagram)
                sock.send(datagram)
            try:
                datagram = sock.recv(65535)
            except TimeoutError:
                session.handle_timeout()
                continue
            tap.add(theirs, ours, datagram)
            session.receive_datagram(datagram)
            if said:
                echoed = session.receive()
        assert echoed == MESSAGE


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["certificate", "PSK"])
def test_wireshark_decrypts_by_the_key_log(kind: str, tmp_path: Path) -> None:
    """The server's log is enough, and without it there is nothing to be read; by one worker or by
    several."""
    tshark = shutil.which("tshark")
    if tshark is None:
        pytest.skip("tshark is missing (120 MB): apt install tshark")
    keys, capture, secret = (tmp_path / name for name in ("keys", "capture", "psk"))
    secret.touch(0o600)
    secret.write_text(f"{IDENTITY}:{PSK_KEY.hex()}\n")
    options = CERT if kind == "certificate" else ["--pskpasswd", str(secret), "--workers", "2"]
    credentials = trusting() if kind == "certificate" else psk()
    tap = Tap()
    with running(command(*options), env={**os.environ, "SSLKEYLOGFILE": str(keys)}) as child:
        served = Served(child, 0)
        port = int(served.wait_for(r"serving on \S+ port (\d+)\n")[1])
        talk(port, credentials, tap)
        assert served.end() == 0
    tap.write(capture)
    assert keys.read_text().startswith("CLIENT_RANDOM ")
    for log, messages in (keys, 2), (Path(os.devnull), 0):
        words = [tshark, "-r", str(capture), "-d", f"udp.port=={port},dtls", "-Y", "data"]
        words += ["-T", "fields", "-e", "data.data", "-o", f"tls.keylog_file:{log}"]
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == [MESSAGE.hex()] * messages, done.stdout
