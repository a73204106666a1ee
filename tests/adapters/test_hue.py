"""examples/hue_entertainment_dtls.py: a bridge and a client, with third-party peers."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.common import ROOT, free_udp_port, lacks, openssl
from tests.support.servers import SECONDS, asynchronous

EXAMPLE = ROOT / "examples" / "hue_entertainment_dtls.py"
APPLICATION, KEY = "my-app-key", bytes(range(16))
AREA = "1a8d99cc-967b-44f2-9202-43f976c0fa6b"
RED_AND_BLUE = {0: (65535, 0, 0), 3: (0, 0, 0x1234)}


@pytest.fixture(scope="module")
def hue() -> Any:
    """The module."""
    spec = importlib.util.spec_from_file_location("hue_entertainment_dtls", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Shown:
    """What a bridge was told to show."""

    def __init__(self) -> None:
        self.frames: list[tuple[str, Any]] = []
        self._more = asyncio.Event()

    def __call__(self, application: str, frame: Any) -> None:
        self.frames.append((application, frame))
        self._more.set()

    async def until(self, enough: Callable[[list[tuple[str, Any]]], bool]) -> None:
        """Wait until there are frames enough; the test's time is bounded."""
        while not enough(self.frames):
            self._more.clear()
            await self._more.wait()


@asynchronous
async def test_colours_of_our_client(hue: Any) -> None:
    """In order and numbered, in the application's name; a wrong key is never answered."""
    shown = Shown()
    async with hue.start_bridge("127.0.0.1", 0, {APPLICATION: KEY}, shown) as server:
        frames = [(AREA, {0: (number, 2, 3)}) for number in range(5)]
        await hue.stream(*server.address, APPLICATION, KEY, iter(frames))
        await shown.until(lambda frames: len(frames) == 5)
        assert [frame.number for _, frame in shown.frames] == list(range(5))
        assert [(frame.area, frame.colours) for _, frame in shown.frames] == frames
        assert {application for application, _ in shown.frames} == {APPLICATION}
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await hue.stream(*server.address, APPLICATION, KEY[::-1], iter(frames))


@pytest.mark.parametrize(
    "damage",
    [
        lambda message: message[:-1],
        lambda message: message[:20],
        lambda message: b"h" + message[1:],
        lambda message: message[:9] + b"\1" + message[10:],
        lambda message: message[:14] + b"\1" + message[15:],
        lambda message: message + message[52:] * 20,
        lambda message: message[:16] + b"\xff" * 36 + message[52:],
    ],
)
def test_what_is_not_a_frame(hue: Any, damage: Callable[[bytes], bytes]) -> None:
    """A ValueError; what was encoded can be read."""
    frame = hue.Frame(AREA, RED_AND_BLUE, 7)
    assert hue.Frame.decode(frame.encode()) == frame
    with pytest.raises(ValueError):  # noqa: PT011 - UnicodeDecodeError is one, too
        hue.Frame.decode(damage(frame.encode()))


@pytest.mark.peer
@asynchronous
async def test_hue_entertainment_streams_to_our_bridge(hue: Any) -> None:
    """Its second hello has the sequence numbers of the first, and is taken all the same."""
    if importlib.util.find_spec("hue_entertainment") is None:
        lacks("hue-entertainment")
    streamer = importlib.import_module("hue_entertainment.dtls").HueDtlsStreamer()
    command = importlib.import_module("hue_entertainment.models").LightColorCommand
    # It knows port 2100 alone: an address of our own.
    host = f"127.{random.randrange(1, 250)}.{random.randrange(250)}.{random.randrange(1, 250)}"
    shown = Shown()
    async with hue.start_bridge(host, hue.PORT, {APPLICATION: KEY}, shown):
        connect = (host, APPLICATION, KEY.hex(), AREA)
        await asyncio.get_running_loop().run_in_executor(None, streamer.connect, *connect)
        try:
            streamer.send_colors([command(0, 255, 0, 0), command(3, 0, 0, 0x12)])
            await shown.until(lambda frames: len(frames) > 0)
        finally:
            await asyncio.get_running_loop().run_in_executor(None, streamer.disconnect)
    application, frame = shown.frames[0]
    assert application == APPLICATION
    assert frame.area == AREA
    assert frame.colours == {0: (0xFFFF, 0, 0), 3: (0, 0, 0x1212)}


@pytest.mark.peer
@asynchronous
async def test_our_client_streams_to_openssl(hue: Any) -> None:
    """Which takes the one cipher suite, and prints what it gets."""
    port = free_udp_port()
    server = await asyncio.create_subprocess_exec(
        openssl(), "s_server", "-dtls1_2", "-listen", "-quiet", "-nocert", "-accept",
        f"127.0.0.1:{port}", "-psk", KEY.hex(), "-psk_identity", APPLICATION,
        "-cipher", "PSK-AES128-GCM-SHA256",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert server.stdout is not None
        frames = [(AREA, RED_AND_BLUE)] * 3
        while True:  # until it listens
            try:
                await hue.stream("127.0.0.1", port, APPLICATION, KEY, iter(frames))
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.05)
        expected = b"".join(hue.Frame(AREA, RED_AND_BLUE, number).encode() for number in range(3))
        assert await server.stdout.readexactly(len(expected)) == expected
    finally:
        if server.returncode is None:
            server.kill()
        await server.communicate()


@asynchronous
async def test_as_a_program() -> None:
    """`bridge` and `stream`, as its first lines have them."""
    port = str(free_udp_port())
    given = ["127.0.0.1", APPLICATION, KEY.hex(), "--port", port]
    command = [sys.executable, str(EXAMPLE)]
    bridge = await asyncio.create_subprocess_exec(
        *command, "bridge", *given, stdout=subprocess.PIPE
    )
    try:
        assert bridge.stdout is not None
        assert await bridge.stdout.readline() == f"bridge on 127.0.0.1 port {port}\n".encode()
        client = await asyncio.create_subprocess_exec(
            *command, "stream", *given, "--area", AREA, "--seconds", "0.2"
        )
        assert await asyncio.wait_for(client.wait(), SECONDS) == 0
        line = f"{APPLICATION} {AREA} #ff0000 #00ff00 #0000ff\n"
        assert await bridge.stdout.readline() == line.encode()
    finally:
        if bridge.returncode is None:
            bridge.kill()
        await bridge.communicate()
