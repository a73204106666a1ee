"""Draws exchange.svg and house.svg from the text below: python docs/pictures.py.

No tool draws them at build time, and a forge shows them as they are. The ground is light, so that
they can be read on a dark page too.
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

FOLDER = Path(__file__).resolve().parent

# Who takes part; then the messages: from, to, text. One that stays with its sender is a note.
PARTIES = ("client", "server, without state", "session")
MESSAGES = (
    (0, 1, "ClientHello, no cookie (record_seq r, message_seq m)"),
    (1, 1, "cookie_verify: no cookie; cookie = HMAC(key, client_data)"),
    (1, 0, "HelloVerifyRequest, 44 bytes (record_seq r, message_seq m)"),
    (1, 1, "nothing is kept"),
    (0, 1, "ClientHello with the cookie (record_seq r+1, message_seq m+1)"),
    (1, 1, "cookie_verify: a Prestate"),
    (1, 2, "prestate_set, then the same datagram"),
    (2, 0, "ServerHello, ... (message_seq m+1)"),
    (0, 2, "ClientKeyExchange, ..., Finished"),
    (2, 0, "Finished"),
)

# The house from the top down; no floor knows those above it.
FLOORS = (
    ("the command line", ("cli/", "cli/probe/")),
    ("the bench", ("differential/", "reference/")),
    ("adapters: sockets, clocks, threads", ("aio/", "blocking/", "endpoint.py")),
    ("sessions, without input and output", ("server.py", "client.py", "session.py")),
    ("the gate", ("gate.py", "keys.py", "listener.py")),
    ("the binding", ("cookie.py", "handles.py", "errors.py")),
    ("C", ("native/gate.c", "native/udp.c", "native/server.c", "native/xdp/")),
    ("libgnutls", ("cookies, handshakes, records",)),
)

INK, LINE, SHADE, ACCENT = "#1f2933", "#9aa5b1", "#e4ebf3", "#1d5fa8"


def main() -> None:
    """Write both."""
    for name, picture in {"exchange.svg": exchange(), "house.svg": house()}.items():
        (FOLDER / name).write_text(picture, encoding="utf-8")
        print(FOLDER / name, file=sys.stderr)


def exchange() -> str:
    """The messages of one handshake, from the top down."""
    width, step = 870, 40
    places = (110, 510, 760)
    bottom = 66 + step * len(MESSAGES)
    parts = []
    for name, x in zip(PARTIES, places, strict=True):
        parts.append(line(x, 48, x, bottom))
        parts.append(box(x - 95, 14, 190, 34, name))
    for number, (source, target, words) in enumerate(MESSAGES):
        y = 84 + step * number
        if source == target:
            wide = 7 * len(words) + 24
            parts.append(box(places[source] - wide / 2, y - 17, wide, 26, words, "#fff8e1"))
            continue
        start, end = places[source], places[target]
        towards = 1 if end > start else -1
        parts.append(line(start, y + 4, end - 7 * towards, y + 4, ACCENT))
        tip = f"{end},{y + 4} {end - 9 * towards},{y} {end - 9 * towards},{y + 8}"
        parts.append(f'<polygon points="{tip}" fill="{ACCENT}"/>')
        parts.append(text((start + end) / 2, y - 4, words, halo=True))
    return svg(width, bottom + 14, "The cookie exchange", parts)


def house() -> str:
    """The floors, one above the other."""
    width, height = 800, 46
    parts = []
    for number, (name, rooms) in enumerate(FLOORS):
        y = 14 + (height + 8) * number
        parts.append(box(14, y, width - 28, height, "", SHADE))
        parts.append(text(28, y + 28, name, anchor="start"))
        room = (width - 340) / len(rooms)
        for place, one in enumerate(rooms):
            parts.append(box(310 + room * place, y + 8, room - 10, height - 16, one))
    return svg(width, 20 + (height + 8) * len(FLOORS), "The rooms of the project", parts)


def svg(width: float, height: float, title: str, parts: list[str]) -> str:
    inner = "\n".join([box(0, 0, width, height, "", "#ffffff", "none"), *parts])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'font-family="sans-serif" font-size="13" role="img">\n'
        f"<title>{title}</title>\n{inner}\n</svg>\n"
    )


def box(
    x: float,
    y: float,
    wide: float,
    high: float,
    words: str,
    fill: str = "#ffffff",
    edge: str = LINE,
) -> str:
    shape = (
        f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" rx="5" fill="{fill}" '
        f'stroke="{edge}"/>'
    )
    return shape + (text(x + wide / 2, y + high / 2 + 4.5, words) if words else "")


def line(x: float, y: float, to_x: float, to_y: float, colour: str = LINE) -> str:
    return f'<line x1="{x:g}" y1="{y:g}" x2="{to_x:g}" y2="{to_y:g}" stroke="{colour}"/>'


def text(x: float, y: float, words: str, anchor: str = "middle", halo: bool = False) -> str:
    around = ' stroke="#ffffff" stroke-width="4" paint-order="stroke"' if halo else ""
    place = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text {place} fill="{INK}"{around}>{escape(words)}</text>'


if __name__ == "__main__":
    main()
