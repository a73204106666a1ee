"""gnutls-cookie run -- COMMAND...: an unmodified server over libgnutls, with the gate in front.

Looks whether COMMAND can be preloaded into at all, says how in the environment, and becomes it.
native/preload.c is what is preloaded. Also `gnutls-cookie stats FILE`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, NoReturn

from .serve import secret_file

__all__ = ["add_arguments", "add_stats_arguments", "find_preload", "run", "run_stats"]

SETTINGS = "GNUTLS_COOKIE_PRELOAD"  # native/preload.c reads it
LIBRARY = "libgnutls.so.30"

_PT_INTERP = 3  # elf(5)


class _Refused(Exception):
    """COMMAND cannot be run in this way; the text says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("--cookie-secret-file", metavar="FILE", type=Path, help="cookie keys of a fleet")
    add("--rotate", metavar="SECONDS", type=int, help="a cookie key's time (3600)")
    add("--stats", metavar="FILE", type=Path, help="write counters to it once a second, as JSON")
    add("--record", metavar="FILE", type=Path, help="write each call to it; keys are in it")
    add("command_line", metavar="COMMAND", nargs=argparse.REMAINDER, help="the server")


def add_stats_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `stats`."""
    parser.add_argument("file", metavar="FILE", type=Path, help="what `run --stats` writes")
    parser.add_argument("--json", action="store_true", help="as it stands")


def run(options: argparse.Namespace) -> int:
    """Become COMMAND.

    Returns:
        2 where that cannot be, and a line on stderr says why. Otherwise it does not return:
        signals, exit code and files are COMMAND's own.
    """
    command = list(options.command_line)
    if command[:1] == ["--"]:
        del command[0]
    try:
        if not command:
            raise _Refused("a COMMAND is needed, behind --")
        program = _program(command[0])
        library = find_preload()
        _check(program, library)
        environment = _environment(options, library)
    except (_Refused, OSError, ValueError) as error:
        print(f"gnutls-cookie run: {error}", file=sys.stderr)
        return 2
    if options.record is not None:
        print(f"gnutls-cookie run: cookie keys go into {options.record}", file=sys.stderr)
    return _become(program, command, environment)


def _become(program: str, command: list[str], environment: dict[str, str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and COMMAND would inherit that
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.execve(program, command, environment)


def run_stats(options: argparse.Namespace) -> int:
    """Print the counters of a server under `run`.

    Returns:
        0, or 2 where there are none.
    """
    try:
        text = options.file.read_text(encoding="utf-8")
        counters = json.loads(text)
        discarded = counters["discarded"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"gnutls-cookie stats: {options.file}: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(text, end="")
        return 0
    print(
        f"{counters['challenged']} challenged ({counters['presented']} with a cookie), "
        f"{counters['verified']} verified, {counters['verified_previous']} with the previous key, "
        f"{sum(discarded.values())} discarded, {counters['left_alone']} left alone"
    )
    for reason, number in sorted(discarded.items(), key=lambda one: -one[1]):
        print(f"  {number:>10} {reason}")
    return 0


def find_preload() -> Path:
    """The library that is preloaded; it stands in this package.

    Raises:
        FileNotFoundError: it was not built: the system has no LD_PRELOAD.
    """
    path = Path(__file__).resolve().parent / "_preload.so"
    if path.exists():
        return path
    raise FileNotFoundError("the library to preload is not there: it is built on Linux only")


# --- what can be preloaded into -------------------------------------------------------------------


class _Elf(NamedTuple):
    """What matters of an ELF file: see elf(5)."""

    architecture: tuple[int, int, int]  # class, byte order, machine
    interpreter: str | None


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise _Refused(f"{name}: there is no such program")
    return found


def _check(program: str, library: Path) -> None:
    mode = os.stat(program).st_mode
    if mode & (stat.S_ISUID | stat.S_ISGID) or _has_capabilities(program):
        raise _Refused(
            f"{program} is setuid, setgid or has capabilities: nothing is preloaded there"
        )
    elf = _elf(program)
    own = _elf(str(library))
    assert own is not None
    if elf is None:
        raise _Refused(f"{program} is no ELF program; of a script, name the program that it starts")
    if elf.architecture != own.architecture:
        raise _Refused(f"{program} is for another architecture than this package")
    if elf.interpreter is None:
        raise _Refused(f"{program} is statically linked: nothing can be preloaded")
    if not _uses(program, elf.interpreter):
        raise _Refused(f"{program} does not use {LIBRARY}")


def _elf(path: str) -> _Elf | None:
    with open(path, "rb") as file:
        head = file.read(64)
        if (
            len(head) < 52
            or head[:4] != b"\x7fELF"
            or head[4] not in (1, 2)
            or head[5] not in (1, 2)
        ):
            return None
        order = "<" if head[5] == 1 else ">"
        (machine,) = struct.unpack_from(f"{order}H", head, 18)
        if head[4] == 2:
            (offset,) = struct.unpack_from(f"{order}Q", head, 32)
            size, count = struct.unpack_from(f"{order}HH", head, 54)
            place, fields = 8, f"{order}Q"
        else:
            (offset,) = struct.unpack_from(f"{order}I", head, 28)
            size, count = struct.unpack_from(f"{order}HH", head, 42)
            place, fields = 4, f"{order}I"
        interpreter = None
        for number in range(count):
            file.seek(offset + number * size)
            header = file.read(size)
            if len(header) < 56 - 24 * (head[4] == 1):
                return None
            if struct.unpack_from(f"{order}I", header)[0] == _PT_INTERP:
                (start,) = struct.unpack_from(fields, header, place)
                file.seek(start)
                interpreter = file.read(4096).partition(b"\0")[0].decode("utf-8", "replace")
        return _Elf((head[4], head[5], machine), interpreter)


def _has_capabilities(program: str) -> bool:
    try:
        return bool(os.getxattr(program, "security.capability"))
    except (OSError, AttributeError):
        return False


def _uses(program: str, interpreter: str) -> bool:
    """Whether the dynamic loader would load libgnutls with it, by the loader's own word."""
    environment = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
    try:
        done = subprocess.run(
            [interpreter, "--list", program],
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _Refused(f"{program}: its loader gives no answer: {error}") from None
    return any(line.split()[:1] == [LIBRARY] for line in done.stdout.splitlines())


# --- what the library is told ---------------------------------------------------------------------


def _environment(options: argparse.Namespace, library: Path) -> dict[str, str]:
    if any(character in str(library) for character in " :\n"):
        raise _Refused(f"{library}: LD_PRELOAD cannot name a path with a space or colon in it")
    settings: dict[str, str] = {}
    if options.rotate is not None and options.rotate < 1:
        raise _Refused(f"--rotate must be at least 1 second, not {options.rotate}")
    if options.cookie_secret_file is not None:
        secret_file(options.cookie_secret_file)
        settings["secret"] = _path(options.cookie_secret_file)
    elif options.rotate is not None:
        settings["secret"] = ""  # one that the library makes
    if options.rotate is not None:
        settings["period"] = str(options.rotate)
    for name, path in ("stats", options.stats), ("record", options.record):
        if path is not None:
            if not path.absolute().parent.is_dir():
                raise _Refused(f"{path}: there is no such folder")
            settings[name] = _path(path)
    environment = dict(os.environ)
    others = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{library}:{others}" if others else str(library)
    environment[SETTINGS] = "\n".join(f"{name}={value}" for name, value in settings.items())
    return environment


def _path(path: Path) -> str:
    text = str(path.absolute())
    if "\n" in text:
        raise _Refused(f"{text!r}: no path with a line break")
    return text
