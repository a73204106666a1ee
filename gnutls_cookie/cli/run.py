"""gnutls-cookie run -- COMMAND...: an unmodified server over libgnutls, with the gate in front.

Looks whether COMMAND can be preloaded into at all, makes the memory that the preloaded library
(native/preload/) shares with the writer of its files (writer.py), and becomes COMMAND.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import secrets
import shutil
import signal
import stat
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from gnutls_cookie.keys import key_material

from . import writer
from .console import complain, reason
from .credentials import secret_file
from .options import add_counters_file, add_key_life, file_path, folder_of

__all__ = ["Handed", "add_arguments", "find_preload", "hand_over", "run"]

_PROGRAM = "gnutls-cookie run"

SETTINGS = "GNUTLS_COOKIE_PRELOAD"  # native/preload/settings.c reads it
LIBRARY = "libgnutls.so.30"

_PERIOD_S = 3600.0
_RING_UNITS = 65536  # a power of 2; with 512 bytes each, 32 MiB of address space

_LOADER_S = 10
_WRITER_S = 30

# env(1)
_NOT_RUNNABLE, _NOT_FOUND = 126, 127
_UNUSABLE = 2

_ET_EXEC, _ET_DYN, _PT_INTERP = 2, 3, 3  # elf(5)

_MFD_CLOEXEC, _MFD_ALLOW_SEALING, _MFD_NOEXEC_SEAL = 1, 2, 8  # memfd_create(2)
_F_ADD_SEALS, _F_SEAL_SHRINK, _F_SEAL_GROW = 1033, 2, 4  # fcntl(2)


class _Refused(Exception):
    """COMMAND cannot be run in this way; the text says why."""

    def __init__(self, text: str, code: int = _UNUSABLE) -> None:
        super().__init__(text)
        self.code = code


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add("--cookie-secret-file", metavar="FILE", type=file_path, help="cookie keys of a fleet")
    add_key_life(parser)
    add_counters_file(parser)
    add("--record", metavar="FILE", type=file_path, help="write each call to it; keys are in it")
    add("--children", action="store_true", help="programs that the server starts have it too")
    add("command_line", metavar="COMMAND", nargs=argparse.REMAINDER, help="the server")


def run(options: argparse.Namespace) -> int:
    """Become COMMAND.

    Returns:
        2 where the library cannot be preloaded or an option is unusable, 126 or 127 where COMMAND
        cannot be executed or is not found, as env(1) does; a line on stderr says why. Otherwise it
        does not return: signals, exit code and files are COMMAND's own.
    """
    command = list(options.command_line)
    if command[:1] == ["--"]:
        del command[0]
    try:
        if not command:
            raise _Refused("a COMMAND is needed, after --")
        program = _program(command[0])
        library = find_preload()
        _check(program, library)
        handed = hand_over(options, library)
        if options.record is not None:
            complain(_PROGRAM, f"cookie keys go into {options.record}")
        return _become(program, command, handed)
    except _Refused as error:
        complain(_PROGRAM, str(error))
        return error.code
    except (OSError, ValueError) as error:
        complain(_PROGRAM, reason(error))
        return _UNUSABLE


def _become(program: str, command: list[str], handed: Handed) -> int:
    for name in ("SIGPIPE", "SIGXFSZ"):  # Python ignores them, and COMMAND would inherit that
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    os.set_inheritable(handed.memory, True)
    try:
        os.execve(program, command, handed.environment)
    except OSError as error:
        os.pwrite(handed.memory, struct.pack("=I", 1), 64)  # the writer has nothing to say of it
        raise _Refused(
            f"{program}: {error.strerror}",
            _NOT_FOUND if error.errno == errno.ENOENT else _NOT_RUNNABLE,
        ) from None


def find_preload() -> Path:
    """The library that is preloaded; it stands in this package.

    Raises:
        FileNotFoundError: it was not built: the system has no LD_PRELOAD.
    """
    path = Path(__file__).resolve().parents[1] / "_preload.so"
    if path.exists():
        return path
    raise FileNotFoundError("the library to preload is not there: it is built on Linux only")


# --- what can be preloaded into -------------------------------------------------------------------


class _Elf(NamedTuple):
    """What matters of an ELF file: see elf(5)."""

    architecture: tuple[int, int, int]  # class, byte order, machine
    interpreter: str | None


def _program(name: str) -> str:
    """The file that execvp(3) would execute."""
    found = shutil.which(name)
    if found is not None:
        if not stat.S_ISREG(os.stat(found).st_mode):
            raise _Refused(f"{name} is not a program", _NOT_RUNNABLE)
        return found
    if "/" in name:
        places = [name]
    else:
        folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
        places = [os.path.join(folder, name) for folder in folders]
    if name and any(map(os.path.exists, places)):
        what = "is a folder" if all(map(os.path.isdir, places)) else "is not executable"
        raise _Refused(f"{name} {what}", _NOT_RUNNABLE)
    raise _Refused(f"{name or repr(name)}: there is no such program", _NOT_FOUND)


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
        raise _Refused(f"{program} is not an ELF program{_script(program)}")
    if elf.architecture != own.architecture:
        raise _Refused(f"{program} is for another architecture than this package")
    if elf.interpreter is None:
        raise _Refused(f"{program} is statically linked: nothing can be preloaded")
    _ask_loader(program, elf.interpreter, library)


def _script(program: str) -> str:
    with open(program, "rb") as file:
        if file.read(2) == b"#!":
            return ", but a script; name the program that it starts"
    return ""


def _elf(path: str) -> _Elf | None:
    """None for what is not an ELF program, or has headers that lead out of the file."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size

        def read(offset: int, count: int) -> bytes:
            if not 0 <= offset <= size - count:
                raise ValueError
            file.seek(offset)
            data = file.read(count)
            if len(data) != count:
                raise ValueError
            return data

        try:
            head = read(0, 52)
            if head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] not in (1, 2):
                return None
            order = "<" if head[5] == 1 else ">"
            kind, machine = struct.unpack_from(f"{order}HH", head, 16)
            if kind not in (_ET_EXEC, _ET_DYN):
                return None
            architecture = (head[4], head[5], machine)
            if head[4] == 2:
                head = read(0, 64)
                (start,) = struct.unpack_from(f"{order}Q", head, 32)
                entry, count = struct.unpack_from(f"{order}HH", head, 54)
                header = struct.Struct(f"{order}I4xQ16xQ16x")
            else:
                (start,) = struct.unpack_from(f"{order}I", head, 28)
                entry, count = struct.unpack_from(f"{order}HH", head, 42)
                header = struct.Struct(f"{order}II8xI12x")
            if entry != header.size:  # Linux takes no other
                return None
            interpreter = None
            for number in range(count):
                found, place, length = header.unpack(read(start + number * entry, entry))
                if found == _PT_INTERP:
                    if not 1 < length <= 4096:
                        return None
                    interpreter = os.fsdecode(read(place, length).partition(b"\0")[0])
        except ValueError:
            return None
        return _Elf(architecture, interpreter)


def _has_capabilities(program: str) -> bool:
    try:
        return bool(os.getxattr(program, "security.capability"))
    except (OSError, AttributeError):
        return False


def _ask_loader(program: str, interpreter: str, library: Path) -> None:
    """Whether the dynamic loader can start it, with libgnutls and with the library to preload.

    The loader lists what it would load and runs nothing of it. Only it can tell: a library that is
    missing, an old C library, another one (musl).
    """
    loader = os.path.abspath(interpreter)
    try:
        done = subprocess.run(
            [loader, "--list", program],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=_environment(library),
            timeout=_LOADER_S,
        )
    except subprocess.TimeoutExpired:
        raise _Refused(f"{program}: its loader {interpreter} gives no answer") from None
    except OSError as error:
        raise _Refused(
            f"{program}: its loader {interpreter} cannot be executed: {error.strerror}"
        ) from None
    listed = [os.fsdecode(line).split() for line in done.stdout.splitlines()]
    missing = [line[0] for line in listed if line[1:] == ["=>", "not", "found"]]
    if missing:
        raise _Refused(f"{program} cannot be started: {', '.join(missing)} is missing")
    said = [os.fsdecode(line).strip() for line in done.stderr.splitlines()]
    reason = next((line for line in said if line), "it says nothing")[:500]
    if done.returncode != 0:
        raise _Refused(f"{program} cannot be started by its loader: {reason}")
    if not any(line[:1] == [LIBRARY] or line[:1] == [f"/{LIBRARY}"] for line in listed):
        raise _Refused(f"{program} does not use {LIBRARY}")
    if not any(line[:1] == [str(library)] for line in listed):
        raise _Refused(f"{program}: its loader does not take {library}: {reason}")


# --- what the library is given --------------------------------------------------------------------


class Handed(NamedTuple):
    """What a server is to be started with.

    Attributes:
        environment: its environment.
        memory: the descriptor of the shared memory, which it must inherit under this number.
    """

    environment: dict[str, str]
    memory: int


def hand_over(options: argparse.Namespace, library: Path) -> Handed:
    """Make the shared memory, open the files, and start their writer, if there are any.

    Raises:
        _Refused, ValueError, OSError: an option is unusable, or a file cannot be written.
    """
    material, period = _keys(options)
    folder, record = -1, -1
    try:
        if options.stats is not None:
            folder = _high(folder_of(options.stats))
        if options.record is not None:
            if options.stats is not None and _same(options.stats, options.record):
                raise _Refused("--stats and --record need a file each")
            record = _record(options.record)
        memory = _memory(
            flags=writer.FLAGS["children"] * bool(options.children)
            | writer.FLAGS["keys"] * (material is not None),
            units=0 if record < 0 else _RING_UNITS,
            period=period,
            material=material or b"",
        )
        status = os.fstat(memory)
        settings = [memory, status.st_dev, status.st_ino]
        if folder >= 0 or record >= 0 or options.children:
            if folder >= 0:
                _first_stats(options.stats, folder)
            settings += [_start_writer(options, memory, folder, record), memory]
    finally:
        for descriptor in (folder, record):
            if descriptor >= 0:
                os.close(descriptor)
    environment = _environment(library)
    environment[SETTINGS] = " ".join(map(str, settings))
    return Handed(environment, memory)


def _environment(library: Path) -> dict[str, str]:
    if any(character in str(library) for character in " :$"):
        raise _Refused(f"{library}: LD_PRELOAD cannot name a path with a space, a colon or $")
    environment = dict(os.environ)
    others = environment.get("LD_PRELOAD")
    environment["LD_PRELOAD"] = f"{library}:{others}" if others else str(library)
    environment.pop(SETTINGS, None)
    return environment


def _keys(options: argparse.Namespace) -> tuple[bytes | None, float]:
    """What the cookie keys are made of, or None for the server's own; the period in seconds."""
    period = _PERIOD_S if options.rotate is None else options.rotate
    if options.cookie_secret_file is not None:
        return key_material(secret_file(options.cookie_secret_file)), period
    if options.rotate is not None:
        return key_material(secrets.token_bytes(32)), period
    return None, period


def _same(one: Path, other: Path) -> bool:
    return one.name == other.name and os.path.samefile(
        one.absolute().parent, other.absolute().parent
    )


def _record(path: Path) -> int:
    folder = _high(folder_of(path))
    try:
        return _high(writer.open_for_appending(path.name, folder))
    except OSError as error:
        raise _Refused(f"--record {path}: {error.strerror or error}") from None
    finally:
        os.close(folder)


def _first_stats(path: Path, folder: int) -> None:
    """All zero: whether they can be written is known before the server starts."""
    try:
        writer.check_own(path.name, folder)
        none = writer.counters_for(path.name, [0] * (writer.HEADER_SIZE // 8), 0)
        writer.replace_file(path.name, folder, none)
    except OSError as error:
        raise _Refused(f"--stats {path}: {error.strerror or error}") from None


def _memory(*, flags: int, units: int, period: float, material: bytes) -> int:
    """The memory of native/preload/preload.h."""
    try:
        try:
            memory = os.memfd_create("gnutls-cookie", _MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
        except OSError:  # Linux before 6.3
            memory = os.memfd_create("gnutls-cookie", _MFD_CLOEXEC | _MFD_ALLOW_SEALING)
        memory = _high(memory)
        os.ftruncate(memory, writer.HEADER_SIZE + units * writer.UNIT_SIZE)
    except OSError as error:
        raise _Refused(f"no memory to share with the server: {error.strerror}") from None
    header = struct.pack("=16sIId32s", writer.MAGIC, flags, units, period, material)
    os.pwrite(memory, header, 0)
    fcntl.fcntl(memory, _F_ADD_SEALS, _F_SEAL_SHRINK | _F_SEAL_GROW)
    return memory


def _high(descriptor: int) -> int:
    """The same under a number above stderr's: where that is closed, a new file would take it."""
    if descriptor > 2:
        return descriptor
    try:
        return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(descriptor)


def _start_writer(options: argparse.Namespace, memory: int, folder: int, record: int) -> int:
    """Start writer.py; it is not to be the server's child. Returns its pid."""
    keep = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "PATH") if name in os.environ}
    stats, names = "", [str(options.stats), str(options.record)]
    if options.stats is not None:
        stats = options.stats.name
    numbers = map(str, (memory, os.getpid(), folder, record))
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-B", writer.__file__, *numbers, stats, *names],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        pass_fds=[one for one in (memory, folder, record) if one >= 0],
        start_new_session=True,
        env=keep,
    )
    try:
        said, _ = child.communicate(timeout=_WRITER_S)
        return int(said)
    except (ValueError, subprocess.TimeoutExpired):
        child.kill()
        child.wait()
        raise _Refused("the process that writes the files does not start") from None
