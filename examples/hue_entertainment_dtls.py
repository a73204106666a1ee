"""Hue Entertainment over DTLS: the bridge's side, and a client that streams colours to one.

python hue_entertainment_dtls.py bridge 127.0.0.1 my-app-key 00112233445566778899aabbccddeeff
python hue_entertainment_dtls.py stream 127.0.0.1 my-app-key 00112233445566778899aabbccddeeff \
    --area 1a8d99cc-967b-44f2-9202-43f976c0fa6b

The identity is the application key and the key is the client key that pairing gave. Before a real
bridge answers, the area has to be started, and it goes dark ten seconds after the last frame:

curl -k -X PUT -H "hue-application-key: my-app-key" -d '{"action": "start"}' \
    https://BRIDGE/clip/v2/resource/entertainment_configuration/AREA
"""

import argparse
import asyncio
import colorsys
import contextlib
import struct
from typing import NamedTuple

from gnutls_cookie import GnuTLSError, PSKCredentials, aio

PORT = 2100
#: TLS_PSK_WITH_AES_128_GCM_SHA256 and nothing else, as bridges have it.
PRIORITY = "NORMAL:-VERS-ALL:+VERS-DTLS1.2:-KX-ALL:+PSK:-CIPHER-ALL:+AES-128-GCM"
FRAMES_A_SECOND = 25
CHANNELS_MAX = 20

# "HueStream", version 2.0, a number, two reserved bytes, the colour space (0 is RGB), one reserved
# byte, the area's UUID as text; then for each channel its number and 16 bits a colour.
_HEAD = struct.Struct("!9s2sB2xBx36s")
_CHANNEL = struct.Struct("!B3H")
_RGB = 0


class Frame(NamedTuple):
    """Colours for an area.

    Attributes:
        area: the entertainment configuration's UUID.
        colours: by channel: red, green and blue, 0..65535.
        number: counts the frames, modulo 256.
    """

    area: str
    colours: dict[int, tuple[int, int, int]]
    number: int = 0

    def encode(self):
        head = _HEAD.pack(b"HueStream", b"\2\0", self.number, _RGB, self.area.encode())
        return head + b"".join(
            _CHANNEL.pack(channel, *colour) for channel, colour in self.colours.items()
        )

    @classmethod
    def decode(cls, message):
        """Read a message of a stream.

        Raises:
            ValueError: it is not a frame of version 2 in RGB.
        """
        if len(message) < _HEAD.size:
            raise ValueError(f"{len(message)} bytes are not a frame")
        name, version, number, space, area = _HEAD.unpack_from(message)
        channels = message[_HEAD.size :]
        if name != b"HueStream" or version[0] != 2 or space != _RGB:
            raise ValueError("not a frame of version 2 in RGB")
        if len(channels) % _CHANNEL.size or len(channels) > CHANNELS_MAX * _CHANNEL.size:
            raise ValueError(f"{len(channels)} bytes of channels")
        colours = {channel: tuple(rgb) for channel, *rgb in _CHANNEL.iter_unpack(channels)}
        return cls(area.decode("ascii"), colours, number)


class Stream(aio.Protocol):
    """One streaming application, at the bridge."""

    def __init__(self, show):
        self._show = show

    def connected(self, connection):
        self._connection = connection

    def message_received(self, message):
        try:
            frame = Frame.decode(message)
        except ValueError:
            return  # a bridge says nothing, ever
        self._show(self._connection.session.psk_identity, frame)


def start_bridge(host, port, applications, show, **options):
    """Start a bridge: `async with start_bridge(...) as server`.

    Args:
        applications: client keys (bytes) by application key.
        show: called with the application key and each Frame.
        options: what aio.start_server takes besides.
    """
    return aio.start_server(
        host=host,
        port=port,
        protocol_factory=lambda: Stream(show),
        credentials=PSKCredentials(lookup=applications),
        **{"priority": PRIORITY, "idle_timeout": 10.0, **options},
    )


async def stream(host, port, application, key, frames):
    """Send the frames of an iterator, FRAMES_A_SECOND."""
    credentials = PSKCredentials(application, key)
    async with aio.connect(host, port, credentials=credentials, priority=PRIORITY) as connection:
        for number, (area, colours) in enumerate(frames):
            await connection.send(Frame(area, colours, number % 256).encode())
            await asyncio.sleep(1 / FRAMES_A_SECOND)


def rainbow(area, channels, seconds):
    """All colours in turn, each channel a bit later than the one before."""
    for number in range(int(seconds * FRAMES_A_SECOND)):
        colours = {}
        for channel in range(channels):
            hue = (number / 100 + channel / channels) % 1
            colours[channel] = tuple(int(65535 * one) for one in colorsys.hsv_to_rgb(hue, 1, 1))
        yield area, colours


async def bridge(options):
    def show(application, frame):
        colours = frame.colours.values()
        lights = " ".join("#" + bytes(one >> 8 for one in rgb).hex() for rgb in colours)
        print(f"{application} {frame.area} {lights}", flush=True)

    applications = {options.application: options.key}
    async with start_bridge(options.host, options.port, applications, show) as server:
        print(f"bridge on {server.address[0]} port {server.address[1]}", flush=True)
        await server.serve_forever()


async def send(options):
    frames = rainbow(options.area, options.channels, options.seconds)
    await stream(options.host, options.port, options.application, options.key, frames)


def hexadecimal(text):
    """A key, for argparse."""
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if not key:
        raise argparse.ArgumentTypeError(f"a key in hexadecimal is needed, not {text!r}")
    return key


def port_number(text):
    """A port, for argparse."""
    if text.isascii() and text.isdecimal() and int(text[:6]) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"a port in 0..65535 is needed, not {text!r}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, run in ("bridge", bridge), ("stream", send):
        one = commands.add_parser(name)
        one.add_argument("host")
        one.add_argument("application", help="the application key")
        one.add_argument("key", type=hexadecimal, help="the client key, in hexadecimal")
        one.add_argument("--port", type=port_number, default=PORT)
        one.set_defaults(run=run)
    one.add_argument("--area", required=True, help="UUID of the entertainment configuration")
    one.add_argument("--channels", type=int, default=3)
    one.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(options.run(options))
        except (OSError, ValueError, GnuTLSError) as error:
            parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
