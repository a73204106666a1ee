"""Builds the fuzz targets with clang's libFuzzer, makes their seeds and runs them.

python checks/fuzz/fuzz.py [SECONDS] [TARGET...] [--planted] [--folder FOLDER]

Each runs for so many seconds (60 unless said), as many at once as there are processors. A finding
gives exit code 1 and leaves its input in FOLDER/found; the corpus grows in FOLDER/corpus, so that
the next run begins where this one ended. Exit code 2: there is nothing to build with.

With --planted a fault is put into a copy of the C under test: then a target must find something.
"""

from __future__ import annotations

import argparse
import hmac
import itertools
import json
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

from build_ffi import find_libgnutls  # noqa: E402

NATIVE = ROOT / "gnutls_cookie" / "native"
HELLOS = ROOT / "gnutls_cookie" / "differential" / "hellos.json"
INSTALL = "no clang with libFuzzer here: apt install clang libclang-rt-dev llvm"

FLAGS = [
    *("-std=gnu11", "-O1", "-g", "-fno-omit-frame-pointer", "-Wall", "-Wextra"),
    *("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"),
]
# Nothing is suppressed: what libgnutls keeps for the life of a process is reachable to its end, and
# so no leak to the sanitizer. Freed memory is kept back in smaller amounts than the default, which
# is what the memory of a run goes to.
ASAN = "quarantine_size_mb=32:allocator_may_return_null=1"
LIMITS = ["-max_len=4096", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1"]


class Fault(NamedTuple):
    """A text that stands exactly once in a file of native/, and what is put in its place."""

    file: str
    text: str
    instead: str


class Target(NamedTuple):
    """One program: its source, the files of native/ under test, macros for all of it."""

    source: str
    native: list[str]
    fault: Fault
    macros: tuple[str, ...] = ()


# What native/ calls in a target's place, by file.
SYSTEM = {
    "udp.c": [
        *("recvmmsg", "sendmmsg", "recvmsg", "sendmsg"),
        *("poll", "clock_gettime", "calloc"),
    ],
    "send.c": ["sendmmsg", "sendmsg", "poll"],
    "serve.c": ["clock_gettime"],
    "source.c": ["getsockname", "setsockopt"],
    "peers.c": ["calloc"],
    "table.c": ["realloc"],
    "wire.c": ["gcookie_guard_next"],
    "flight.c": ["malloc"],
    "seat.c": ["realloc"],
    "guard.c": ["malloc", "calloc"],
    "opening.c": ["calloc"],
    "turn.c": ["malloc", "realloc"],
    "connections.c": ["realloc"],
    "shares.c": ["calloc"],
    "waiting.c": ["malloc"],
    "preload/hooks.c": ["gnutls_dtls_cookie_verify", "gnutls_dtls_cookie_send"],
}

_SERVER = [
    *("server.c", "connections.c", "admission.c", "shares.c", "turn.c", "address.c"),
    *("table.c", "wire.c", "flight.c", "seat.c", "opening.c", "settings.c", "guard.c", "costs.c"),
    *("gate.c", "transport.c", "waiting.c"),
]
_USE_AFTER_FREE = Fault("peers.c", "if (!peer->listed) { /* else", "if (1) { /* else")
TARGETS = {
    "gate": Target(
        "gate.c",
        ["gate.c", "transport.c"],
        Fault("gate.c", "fragment_length < cookie_field + 1 + cookie_size", "0"),
    ),
    "listener": Target(
        "listener.c",
        ["udp.c", "source.c", "peers.c", "address.c", "table.c", "gate.c", "transport.c"],
        _USE_AFTER_FREE,
    ),
    "listener-portable": Target(
        "listener.c",
        ["udp.c", "source.c", "peers.c", "address.c", "table.c", "gate.c", "transport.c"],
        _USE_AFTER_FREE,
        ("GCOOKIE_PORTABLE_LOOP",),
    ),
    "session": Target(
        "session.c",
        [
            "wire.c",
            "flight.c",
            "seat.c",
            "opening.c",
            "settings.c",
            "guard.c",
            "costs.c",
            "gate.c",
            "transport.c",
        ],
        Fault("guard.c", "one->length == fragment->length)", "1)"),
    ),
    "server": Target(
        "server.c",
        _SERVER,
        Fault(
            "connections.c",
            "    unschedule(all, one);\n    gcookie_ring_take_out",
            "    gcookie_ring_take_out",
        ),
    ),
    "serve": Target(
        "server.c",
        [*_SERVER, "serve.c", "send.c", "udp.c", "source.c", "peers.c"],
        Fault("serve.c", "        gcookie_udp_count_arrival(serve->udp);\n", ""),
        ("GCOOKIE_SERVE",),
    ),
    "preload": Target(
        "preload.c",
        [
            *("preload/hooks.c", "preload/keys.c", "preload/record.c", "preload/settings.c"),
            *("gate.c", "transport.c"),
        ],
        Fault("preload/hooks.c", "size < sizeof start ? size : sizeof start", "sizeof start"),
    ),
}


# --- building -------------------------------------------------------------------------------------


def find_compiler() -> list[str] | None:
    """CC, or clang: the first that can build for libFuzzer."""
    probe = "int LLVMFuzzerTestOneInput(const char *d, long n){(void)d;(void)n;return 0;}"
    for command in (shlex.split(os.environ.get("CC", "")), ["clang"]):
        if not command or shutil.which(command[0]) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            build = [*command, *FLAGS, "-x", "c", "-", "-o", f"{folder}/probe"]
            if subprocess.run(build, input=probe, text=True, capture_output=True).returncode == 0:
                return command
    return None


def build(compiler: list[str], name: str, folder: Path, planted: bool) -> Path:
    """The program of a target, in `folder`."""
    target = TARGETS[name]
    folder.mkdir(parents=True, exist_ok=True)
    native = NATIVE
    if planted:
        native = folder / "planted"
        shutil.rmtree(native, ignore_errors=True)
        shutil.copytree(NATIVE, native)
        plant(native, target.fault)
    cflags, libs = find_libgnutls()
    common = [*compiler, *FLAGS, *cflags, f"-I{native}", f"-I{HERE}"]
    common += [f"-D{macro}" for macro in target.macros]
    objects = []
    sources = [HERE / target.source, *(native / file for file in target.native)]
    if target.source not in ("session.c", "server.c"):  # that one stands in for Python itself
        sources.append(HERE.parent / "sanitize" / "no_python.c")
    for number, source in enumerate(sources):
        inside = source.is_relative_to(native)
        instead = SYSTEM.get(str(source.relative_to(native)), []) if inside else []
        objects.append(str(folder / f"{number}.o"))
        call([*common, *(f"-D{one}=fuzz_{one}" for one in instead)], "-c", source, objects[-1])
    program = folder / "fuzz"
    call([*common, *objects, *libs], "-o", program)
    return program


def call(command: list[str], *rest: str | Path) -> None:
    words = [*command, *map(str, rest)]
    if rest[0] == "-c":
        words.insert(-1, "-o")
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(words)}\n{done.stderr}")


def plant(native: Path, fault: Fault) -> None:
    file = native / fault.file
    text = file.read_text(encoding="utf-8")
    if text.count(fault.text) != 1:
        raise SystemExit(f"{fault.file} has {text.count(fault.text)} times: {fault.text}")
    file.write_text(text.replace(fault.text, fault.instead), encoding="utf-8")


# --- seeds ----------------------------------------------------------------------------------------


def real_hellos() -> list[list[bytes]]:
    """First flights of real clients, as the generator of cases has them."""
    recorded = json.loads(HELLOS.read_text(encoding="utf-8"))
    return [[bytes.fromhex(one) for one in flight] for flight in recorded.values()]


def with_cookie(hello: bytes) -> bytes:
    """The second hello: message_seq and record sequence 1, and room for a cookie."""
    at = 60 + hello[59]
    longer = bytearray(hello[:at] + b"\x10" + bytes(16) + hello[at + 1 :])
    longer[10] = longer[18] = 1
    for place, size in ((11, 2), (14, 3), (22, 3)):
        length = int.from_bytes(longer[place : place + size], "big") + 16
        longer[place : place + size] = length.to_bytes(size, "big")
    return bytes(longer)


def gate_seeds() -> Iterator[bytes]:
    """Each hello alone, and with the right cookie of either key."""
    for flight in real_hellos():
        for hello in flight:
            yield bytes([16, 0, 16, 0]) + bytes(16) + hello
        for size in range(25, 64):
            yield bytes([16, 0, 0, 8]) + flight[0][:size]
        for flags in (1, 2):
            yield bytes([16, 32, 4, flags]) + bytes(4) + with_cookie(flight[0])


def listener_seeds() -> Iterator[bytes]:
    """Hellos through the whole exchange, fragments, junk, and what an admitted peer sends."""

    def datagram(source: int, data: bytes) -> bytes:
        return bytes([3, source]) + len(data).to_bytes(2, "big") + data

    run = bytes([0, 8, 10, 10])
    start = bytes([7, 3, 4, 0])
    wild = bytes([7, 3, 4 + 8 * 2, 0])  # the wildcard address of IPv6
    key, port = b"k" * 16, (5684).to_bytes(2, "big")
    address = (2).to_bytes(2, sys.byteorder) + port + bytes([127, 0, 0, 1]) + bytes(8)
    cookie = hmac.digest(key, address, "sha1")[:16]
    for flight in real_hellos():
        calls = [datagram(number % 12, one) for number, one in enumerate(flight)]
        yield start + b"".join(calls) + run
        yield wild + b"".join(calls) + run
        second = with_cookie(flight[0]).replace(b"\x10" + bytes(16), b"\x10" + cookie, 1)
        parts = [datagram(0, second), *(datagram(0, one) for one in flight[1:]), run]
        parts += [bytes([9, 0]), datagram(0, b"\x17\xfe\xfd" + bytes(20)), run]
        yield start + b"".join(parts) + bytes([11, 10, 0]) + datagram(0, b"x") + run
    hello = bytes([5, 7, 0, 1, 1])
    yield start + hello * 3 + bytes([13, 1, 13, 5]) + run + bytes([11, 10, 7, 11]) + hello + run
    yield start + hello + run + bytes([10, 7, 11]) + run
    yield start + bytes([8, 0, 7, 1, 3, 14, 1]) + run + bytes([15, 1, 66]) + hello + run
    for callocs in range(1, 8):
        yield bytes([7, 3, 4, callocs]) + hello + run
    yield start + bytes([15, 0, 100, 16, 12, 0, 15, 255, 7, 13, 2])


def session_seeds() -> Iterator[bytes]:
    """Hellos of third-party clients, and whole sessions of our own, by every option."""
    for flight in real_hellos():
        acts = [bytes([0x87]) + len(one).to_bytes(2, "big") + one for one in flight]
        yield b"\0" + b"".join(acts) + bytes([15, 0])
    talk = bytes([9, 40, 0x89, 200, 15, 10, 0x30, 0, 15, 0x8A, 0x38, 40, 15])
    for options in range(256):
        goodbye = bytes([11, 15, 0x8B, 15]) if options % 2 else bytes([12, 0, 90, 15])
        yield bytes([options, 15]) + talk + goodbye
    for size in (16384, 20000, 65535):
        record = b"\x17\xfe\xfd" + bytes(8) + b"\xff\xff"
        yield bytes([2, 15, 0x8E]) + size.to_bytes(2, "big") + bytes([13]) + record + talk
    for options in (0, 1, 4, 8, 9):
        small, last_first = bytes([0x3F, 20, 0, 0xBF, 20, 0]), bytes([0x3F, 9, 1, 0xBF, 9, 1])
        yield bytes([options]) + small * 9 + last_first * 9 + talk
        for made_up in (0x9F, 0x1F, 0xAF, 0x2F):
            for kind, length, offset in ((10, 300, 0), (10, 900, 40), (5, 300, 200), (11, 12, 0)):
                fields = b"".join(each.to_bytes(2, "big") for each in (length, offset, 12))
                one = bytes([made_up, kind, 2]) + fields + bytes([12, 1])
                yield bytes([options, 0x80, 0]) + one + bytes([0x80]) + one * 2 + bytes([0, 15, 15])
        yield bytes([options, 0x1D, 0x9D, 15, 0x1D, 0x9D]) + talk
        yield bytes([options]) + bytes([0x80, 0x81, 0, 1, 0x86, 6, 0x84, 13, 0x8D, 15]) + talk
        yield bytes([options, 0x82, 0, 60, 4, 1, 2, 3, 4, 3, 0x80, 30, 0x88, 0, 0, 13, 0xFF, 15])


def server_seeds() -> Iterator[bytes]:
    """Clients that connect, talk, start again, keep silent and part, by every option."""

    def all_of(kind: int, *more: int) -> bytes:
        return b"".join(bytes([peer << 4 | kind, *more]) for peer in range(6))

    connect = all_of(0) + all_of(1) + all_of(1)  # the second, where hellos wait for an act
    talk = all_of(10, 1, 44) + all_of(1) + bytes([12, 1, 1, 0, 40, 12, 2, 3, 1, 0]) + all_of(1)
    for options in range(256):
        yield bytes([options]) + connect + talk + all_of(11) + all_of(1) + bytes([9, 60])
        yield bytes([options]) + connect + all_of(0) + all_of(8, 20) + connect + talk + b"\xff"
        yield bytes([options]) + all_of(0) + all_of(3) + all_of(14, 1, 9, 2) + all_of(1) + connect
        yield bytes([options]) + connect + bytes([13, 1, 0x8D, 1, 0x8D, 2, 0xEF]) + connect + talk
        yield bytes([options]) + all_of(0) + all_of(1) + all_of(9, 5) + bytes([0x1F, 1, 0x9F]) * 4
    for flight in real_hellos():
        for one in flight:
            yield b"\0" + connect + bytes([7, min(len(one), 255)]) + one[:255] + talk


def serve_seeds() -> Iterator[bytes]:
    """The same by a socket with every habit; floods, and many messages in one call."""

    def all_of(kind: int, *more: int) -> bytes:
        return b"".join(bytes([peer << 4 | kind, *more]) for peer in range(6))

    send = bytes([0x8C, 70, 4, 100, *range(1, 18)])
    for number, seed in enumerate(itertools.islice(server_seeds(), 0, None, 7)):
        yield seed[:1] + bytes([number % 128]) + seed[1:]
    for habits in range(0, 128, 3):
        start = bytes([habits % 2 * 128, habits]) + all_of(0) + all_of(1) * 3
        yield start + send + all_of(1) + bytes([0x0A, 1, 44, 0x83]) + send * 2 + bytes([9, 60])
        yield start + all_of(0) + all_of(3) + bytes([0x83, 0x93, 8, 20]) + send + all_of(1) * 2


def preload_seeds() -> Iterator[bytes]:
    """Each hello, alone and with room for a cookie, in each way to call."""

    def call(flags: int, data: bytes, *more: int) -> bytes:
        return bytes([flags, 4]) + b"1234" + len(data).to_bytes(2, "big") + data + bytes(more)

    for flight in real_hellos():
        second = with_cookie(flight[0])
        yield b"".join(call(0, one) for one in flight) + call(4, second)
        for flags in (1, 2, 8, 32, 64, 9, 4, 5, 6):
            yield call(0, flight[0]) + call(flags, second, 1, 2) + call(4, second)
        for size in (20, 24, 25, 60, 61, 90, 128, 255):
            yield call(16, flight[0], size) + call(20, second, size)


SEEDS = {
    "preload": preload_seeds,
    "gate": gate_seeds,
    "listener": listener_seeds,
    "listener-portable": listener_seeds,
    "session": session_seeds,
    "server": server_seeds,
    "serve": serve_seeds,
}


# --- running --------------------------------------------------------------------------------------


def run(program: Path, name: str, seconds: int, folder: Path, seed: int) -> bool:
    """Fuzz with one target; whether nothing was found."""
    corpus, seeds, found = (folder / part / name for part in ("corpus", "seeds", "found"))
    for part in (corpus, seeds, found):
        part.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(SEEDS[name]()):
        (seeds / f"{number:03}").write_bytes(data)
    log = folder / f"{name}.log"
    command = [str(program), *LIMITS, f"-max_total_time={seconds}", f"-seed={seed}"]
    command += [f"-artifact_prefix={found}/", str(corpus), str(seeds)]
    with log.open("wb") as out:
        code = subprocess.run(
            command, stdout=out, stderr=out, env={**os.environ, "ASAN_OPTIONS": ASAN}
        ).returncode
    said = log.read_text(encoding="utf-8", errors="replace")
    runs, rate = (figure(said, key) for key in ("number_of_executed_units", "average_exec_per_sec"))
    line = f"{name:<18} {runs:>12} runs {rate:>9} a second   seed {seed:<11} "
    if code == 0:
        print(f"{line}nothing found\n", end="", flush=True)
        return True
    inputs = " ".join(re.findall(r"Test unit written to (.*)", said))
    line += f"FOUND: {summary(said)}\n  again: {program} {inputs}\n  all of it: {log}\n"
    print(line, end="", flush=True)
    return False


def figure(said: str, key: str) -> str:
    match = re.search(rf"stat::{key}:\s*(\d+)", said)
    return f"{int(match[1]):,}" if match else "?"


def summary(said: str) -> str:
    """What went wrong, in a line: a claim of the target's, or the sanitizer's summary."""
    match = re.search(r".*does not hold: .*|SUMMARY: (?!libFuzzer).*|ERROR: libFuzzer: .*", said)
    return match[0] if match else said[-400:]


def main() -> int:
    """Build and run; see above."""
    parser = argparse.ArgumentParser(prog="fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("words", nargs="*", metavar="SECONDS | TARGET", help=", ".join(TARGETS))
    parser.add_argument("--planted", action="store_true", help="with a fault that must be found")
    parser.add_argument("--folder", type=Path, default=ROOT / ".dev" / "fuzz")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1, 2**31))
    options = parser.parse_args()
    seconds = next((int(word) for word in options.words if word.isdigit()), 60)
    names = [word for word in options.words if not word.isdigit()] or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"no target is called {', '.join(unknown)}: {', '.join(TARGETS)}")
    compiler = find_compiler()
    if compiler is None:
        print(INSTALL, file=sys.stderr)
        return 2
    folder = options.folder.resolve()

    def build_and_run(name: str) -> bool:
        program = build(compiler, name, folder / "build" / name, options.planted)
        return run(program, name, seconds, folder, options.seed)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for processes
        return 0 if all(list(pool.map(build_and_run, names))) else 1


if __name__ == "__main__":
    sys.exit(main())
