"""The process beside a server under `run`: writes its counters and its calls to files.

The server's own processes may have closed every descriptor, become another user, entered another
root or a sandbox. So they put what they have to tell into shared memory (native/preload/preload.h),
and this process, which `run` starts with the rights of its caller, writes it. It ends with the
last process that has that memory mapped.

It is started as a script, by an interpreter without site-packages, and imports nothing of the
package: it stays as long as the server does, and is to be small. What is in the memory is taken for
hostile: a server that was broken into can write anything there.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import select
import signal
import stat
import struct
import sys
import time

__all__ = [
    "COUNTERS",
    "FLAGS",
    "HEADER_SIZE",
    "MAGIC",
    "REASONS",
    "UNIT_SIZE",
    "Recorder",
    "Writer",
    "check_own",
    "counters_for",
    "counters_json",
    "counters_text",
    "main",
    "open_for_appending",
    "printable",
    "replace_file",
]

# native/preload/preload.h
MAGIC = b"gnutls-cookie/1\0"
FLAGS = {"children": 1, "keys": 2}
HEADER_SIZE = 4096
UNIT_SIZE = 512
_PAYLOAD = UNIT_SIZE - 8
_MOST_UNITS = 160
_ATTACHED, _HEAD, _TAIL, _LOST = (offset // 8 for offset in (64, 512, 576, 640))
_COUNTERS = 128 // 8

# Of struct gcookie_counters and what follows it. The reasons are those of gate.py's DiscardReason.
REASONS = (
    *("", "record_header", "content_type", "record_version", "epoch", "record_length"),
    *("handshake_header", "handshake_type", "message_seq", "fragment_offset", "fragment_length"),
    *("trailing_data", "session_id", "cookie_field", "internal"),
)
COUNTERS = ("challenged", "presented", "verified", "verified_previous", "left_alone")

# native/preload/record.c: size, is_send, pushed, result, before, after, sizes of the three parts.
_RECORD = struct.Struct("=IIqi3I3I3I8x")
_NO_DATA = 2**32 - 1

# As gnutls_cookie.metrics has it.
_CHALLENGED = "ClientHellos that were answered with a HelloVerifyRequest."
_PRESENTED = "Challenged ClientHellos that carried a cookie: a wrong one, or one of an old key."
_VERIFIED = "ClientHellos with a good cookie, by the key that made it."
_DISCARDED = "Datagrams of unknown clients that got no answer."
_PROM = ".prom"  # the end of the names that node_exporter reads

_STATS_S = 1.0
_BUSY_S, _IDLE_S = 0.02, 0.25  # between two looks at the ring
_STUCK_S = 5.0  # after which an unfinished record is skipped: its writer was killed
_CHUNK = 2048  # units

_F_ADD_SEALS, _F_SEAL_WRITE = 1033, 8  # fcntl(2)
_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGPIPE", "SIGXFSZ", "SIGUSR1", "SIGUSR2")


def printable(text: str) -> str:
    """The text with control characters and line breaks escaped, for a terminal."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape", "surrogatepass").decode()
        for one in text
    )


# --- files ----------------------------------------------------------------------------------------


def open_for_appending(name: str, folder: int) -> int:
    """A file for secrets: a new one, or one of the caller's own that nobody else has prepared.

    Args:
        name: of the file in the folder.
        folder: a descriptor.

    Raises:
        PermissionError: a symbolic or a hard link, the file of another user, or not a file.
        OSError: it cannot be opened.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(name, flags | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    except FileExistsError:
        pass
    found = check_own(name, folder)
    file = os.open(name, flags, dir_fd=folder)
    opened = os.fstat(file)
    if found is None or (opened.st_dev, opened.st_ino) != (found.st_dev, found.st_ino):
        os.close(file)
        raise PermissionError("it was replaced by another one just now")
    os.fchmod(file, 0o600)
    return file


def check_own(name: str, folder: int) -> os.stat_result | None:
    """What is there under a name, if it is a file that the caller may write over.

    Raises:
        PermissionError: a symbolic or a hard link, the file of another user, or not a file.
        OSError: nothing can be said.
    """
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISLNK(found.st_mode):
        raise PermissionError("it is a symbolic link")
    if not stat.S_ISREG(found.st_mode):
        raise PermissionError("it is not a file")
    if found.st_uid != os.geteuid():
        raise PermissionError("it belongs to another user")
    if found.st_nlink != 1:
        raise PermissionError("it has another name too (a hard link)")
    return found


def replace_file(name: str, folder: int, data: bytes) -> None:
    """Replace the file `name` atomically.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    temporary = f".gnutls-cookie-{os.urandom(12).hex()}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o644, dir_fd=folder)
    try:
        try:
            _write(file, data)
        finally:
            os.close(file)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        os.unlink(temporary, dir_fd=folder)
        raise


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


# --- counters -------------------------------------------------------------------------------------


def counters_json(words: memoryview | list[int], now: float, lost: int) -> bytes:
    """The counters as `gnutls-cookie stats` reads them.

    Args:
        words: the header of the memory, as numbers of 64 bits.
        now: seconds since the epoch.
        lost: records that were not written.
    """
    discarded, others = _counted(words)
    parts = [f'"time": {int(now)}']
    parts += [f'"{name}": {number}' for name, number in others.items()]
    if lost:
        parts.append(f'"not_recorded": {lost}')
    found = ", ".join(f'"{name}": {number}' for name, number in discarded.items() if number)
    parts.append(f'"discarded": {{{found}}}')
    return f"{{{', '.join(parts)}}}\n".encode()


def counters_for(name: str, words: memoryview | list[int], lost: int) -> bytes:
    """What is written to a file of that name: JSON, or what node_exporter reads if it ends so."""
    if name.endswith(_PROM):
        return counters_text(words, lost, name.removesuffix(_PROM))
    return counters_json(words, time.time(), lost)


def counters_text(words: memoryview | list[int], lost: int, server: str) -> bytes:
    """The counters for the textfile collector of Prometheus' node_exporter.

    The names are those of gnutls_cookie.metrics.

    Args:
        words: the header of the memory, as numbers of 64 bits.
        lost: records that were not written.
        server: the value of the label that tells several servers of a machine apart.
    """
    for one, escaped in ("\\", "\\\\"), ("\n", "\\n"), ('"', '\\"'):
        server = server.replace(one, escaped)
    discarded, others = _counted(words)
    text = ""
    for name, about, label, values in (
        ("hellos_challenged", _CHALLENGED, "", {"": others["challenged"]}),
        ("hellos_presented", _PRESENTED, "", {"": others["presented"]}),
        (
            "hellos_verified",
            _VERIFIED,
            "key",
            {"current": others["verified"], "previous": others["verified_previous"]},
        ),
        ("datagrams_discarded", _DISCARDED, "reason", discarded),
        (
            "calls_left_alone",
            "Calls that are none of the recipe's.",
            "",
            {"": others["left_alone"]},
        ),
        ("calls_not_recorded", "Calls that came too fast to be recorded.", "", {"": lost}),
    ):
        name = f"gnutls_cookie_{name}_total"
        text += f"# HELP {name} {about}\n# TYPE {name} counter\n"
        for value, number in values.items():
            labels = f'server="{server}"' + (f',{label}="{value}"' if label else "")
            text += f"{name}{{{labels}}} {number}\n"
    return text.encode("utf-8", "replace")


def _counted(words: memoryview | list[int]) -> tuple[dict[str, int], dict[str, int]]:
    """The numbers by reason, and the others by name."""
    numbers = list(words[_COUNTERS:][: len(REASONS) + len(COUNTERS)])
    discarded = dict(zip(REASONS, numbers, strict=False))
    del discarded[""]
    return discarded, dict(zip(COUNTERS, numbers[len(REASONS) :], strict=True))


# --- records --------------------------------------------------------------------------------------


class Recorder:
    """Takes records out of the ring and gives them as lines for the differential bench.

    Attributes:
        lost: records that were never finished, or are malformed.
    """

    def __init__(self, memory: int, unit_count: int) -> None:
        self.lost = 0
        self._memory = memory
        self._count = unit_count
        self._tail = 0
        self._stuck_since: float | None = None

    def take(
        self, words: memoryview | list[int], now: float, is_last: bool = False
    ) -> tuple[int, bytes]:
        """The next records.

        Args:
            words: the header of the memory; the tail in it is set.
            now: seconds of a monotonic clock.
            is_last: whether nobody is left who could finish a record.

        Returns:
            The number of units that were passed, 0 where there is nothing to do yet; the lines.
        """
        head, begin = words[_HEAD], self._tail
        if not 0 <= head - self._tail <= self._count:
            self.lost += 1
            self._tail = head
        available = min(head - self._tail, _CHUNK)
        lines: list[str] = []
        if available:
            # Read twice: a record is whole if its tag was there before the rest of it is read.
            spans = self._finished(self._read(available), available)
            data = self._read(sum(spans))
            at = 0
            for span in spans:
                line = _line(data, at, span)
                self.lost += not line
                lines.append(line)
                at += span
            self._tail += at
            if spans:
                self._stuck_since = None
            else:
                self._pass_over(available, now, is_last)
        words[_TAIL] = self._tail
        return self._tail - begin, "".join(lines).encode("ascii")

    def _read(self, count: int) -> bytes:
        """So many units from the tail on."""
        start = self._tail % self._count
        first = min(count, self._count - start)
        data = os.pread(self._memory, first * UNIT_SIZE, HEADER_SIZE + start * UNIT_SIZE)
        if count > first:
            data += os.pread(self._memory, (count - first) * UNIT_SIZE, HEADER_SIZE)
        return data

    def _finished(self, data: bytes, count: int) -> list[int]:
        """The numbers of units of the finished records at the beginning."""
        spans = []
        at = 0
        while at < count:
            tag, size = struct.unpack_from("=QI", data, at * UNIT_SIZE)
            if tag != (self._tail + at + 1) * 2 + 1:
                break
            span = -(-size // _PAYLOAD)
            if not 0 < span <= min(_MOST_UNITS, count - at):
                if count == _CHUNK and 0 < span <= _MOST_UNITS:
                    break  # the rest of it comes with the next ones
                span = 1  # nonsense, which gives no line
            spans.append(span)
            at += span
        return spans

    def _pass_over(self, available: int, now: float, is_last: bool) -> None:
        """Skip a record that stays unfinished for too long."""
        if self._stuck_since is None:
            self._stuck_since = now
        if not is_last and now - self._stuck_since < _STUCK_S:
            return
        self.lost += 1
        self._stuck_since = None
        data = self._read(available)
        at = 1
        while at < available:
            (tag,) = struct.unpack_from("=Q", data, at * UNIT_SIZE)
            if tag == (self._tail + at + 1) * 2 + 1:
                break
            at += 1
        self._tail += at


def _line(data: bytes, at: int, span: int) -> str:
    """A record as a line; "" if it is malformed."""
    start = at * UNIT_SIZE
    if span == 1:
        record = data[start + 8 : start + UNIT_SIZE]
    else:
        starts = range(start, start + span * UNIT_SIZE, UNIT_SIZE)
        record = b"".join(data[one + 8 : one + UNIT_SIZE] for one in starts)
    size, is_send, pushed, result, *rest = _RECORD.unpack_from(record)
    sizes = [0 if one == _NO_DATA else one for one in rest[6:]]
    if size > len(record) or size != _RECORD.size + sum(sizes):
        return ""
    parts = []
    end = _RECORD.size
    for one in sizes:
        parts.append(record[end : end + one].hex())
        end += one
    key, who, message = parts
    client_data = "null" if rest[7] == _NO_DATA else f'"{who}"'
    begin = f'"key": "{key}", "client_data": {client_data}'
    numbers = f'"prestate": {rest[:3]}, "after": {rest[3:6]}'
    if is_send:
        text = f'"send", {begin}, "pushed": {pushed}, {numbers}, "reply": "{message}"'
    else:
        text = f'"verify", {begin}, "message": "{message}", {numbers}'
    return f'{{"operation": {text}, "result": {result}}}\n'


# --- the process ----------------------------------------------------------------------------------


class Writer:
    """What is written for one server.

    Args:
        memory: a descriptor of the shared memory.
        server: pid of the process that becomes the server.
        folder: a descriptor of the folder of the counters' file, -1 for none.
        stats: name of that file.
        record: a descriptor of the record, -1 for none.
        names: how the two are called in messages, counters first.
    """

    def __init__(
        self, memory: int, server: int, folder: int, stats: str, record: int, names: list[str]
    ) -> None:
        self._memory = memory
        self._server = server
        self._folder, self._stats = folder, stats
        self._record = record
        self._names = names
        self._complained: set[str] = set()
        self._not_written = 0
        self._server_ended = False
        self._server_fd = -1
        self._poll = select.poll()
        try:
            self._server_fd = os.pidfd_open(server)
            self._poll.register(self._server_fd, select.POLLIN)
        except ProcessLookupError:
            self._server_ended = True
        except OSError:
            pass  # Linux before 5.3
        units = max(os.fstat(memory).st_size - HEADER_SIZE, 0) // UNIT_SIZE
        self._recorder = Recorder(memory, units) if record >= 0 and units else None

    def run(self) -> None:
        """Write until no process has the memory mapped any more."""
        pause, next_stats = _BUSY_S, 0.0
        while True:
            ended = self._has_ended()
            now = time.monotonic()
            wrote = self._record_calls(now, ended)
            if self._folder >= 0 and (ended or now >= next_stats):
                self._write_stats()
                next_stats = now + _STATS_S
            if ended:
                return
            pause = _BUSY_S if wrote else min(2 * pause, _IDLE_S)
            self._wait(pause if self._recorder is not None else _STATS_S)

    def _has_ended(self) -> bool:
        """Whether no process has the memory mapped. Nothing can be written to it from then on."""
        if not self._server_ended and self._server_fd < 0:
            self._server_ended = not _is_alive(self._server)
        attached = struct.unpack("=Q", os.pread(self._memory, 8, 8 * _ATTACHED))[0]
        if not attached:
            if self._server_ended:
                self.complain("the library was not loaded into the server: nothing was counted")
            return self._server_ended
        try:
            fcntl.fcntl(self._memory, _F_ADD_SEALS, _F_SEAL_WRITE)
        except OSError as error:
            if error.errno != errno.EBUSY:  # sealed by somebody else; it cannot be known
                return self._server_ended
            if self._server_ended:
                # It has become a daemon. Whoever started it may wait for the end of its output.
                _let_go(2)
            return False
        return True

    def _record_calls(self, now: float, ended: bool) -> bool:
        if self._recorder is None:
            return False
        wrote = False
        deadline = now + _STATS_S / 2
        while ended or time.monotonic() < deadline:
            if ended:
                count, lines = self._recorder.take(self._words(), now, True)
            else:
                # Mapped for a moment: who has it mapped for longer is the server.
                with (
                    mmap.mmap(self._memory, HEADER_SIZE) as page,
                    memoryview(page) as whole,
                    whole.cast("Q") as words,
                ):
                    count, lines = self._recorder.take(words, now)
            if count == 0:
                break
            wrote = True
            try:
                _write(self._record, lines)
            except OSError as error:
                self._not_written += lines.count(b"\n")
                self.complain(f"cannot record calls in {self._names[1]}: {error.strerror}")
        if self._lost():
            self.complain(f"not all calls are in {self._names[1]}: they came too fast")
        return wrote

    def _write_stats(self) -> None:
        lost = self._lost() if self._recorder is not None else 0
        try:
            replace_file(self._stats, self._folder, counters_for(self._stats, self._words(), lost))
        except OSError as error:
            self.complain(f"cannot write counters to {self._names[0]}: {error.strerror}")

    def _lost(self) -> int:
        assert self._recorder is not None
        return self._words()[_LOST] + self._recorder.lost + self._not_written

    def _words(self) -> list[int]:
        return list(struct.unpack(f"={HEADER_SIZE // 8}Q", os.pread(self._memory, HEADER_SIZE, 0)))

    def _wait(self, seconds: float) -> None:
        if self._poll.poll(seconds * 1000):
            self._poll.unregister(self._server_fd)
            self._server_ended = True

    def complain(self, text: str) -> None:
        """A line on stderr, once."""
        if text not in self._complained:
            self._complained.add(text)
            line = f"gnutls-cookie run: {printable(text)}\n"
            with contextlib.suppress(OSError):
                os.write(2, line.encode("utf-8", "backslashreplace"))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _let_go(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, descriptor)
    if nothing != descriptor:
        os.close(nothing)


def main(arguments: list[str]) -> None:
    """Detach from the parent, print the process id on stdout, and write."""
    memory, server, folder, record = map(int, arguments[:4])
    writer = Writer(memory, server, folder, arguments[4], record, arguments[5:7])
    for name in _SIGNALS:  # they are for the server; this one ends when that has ended
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    if os.fork() > 0:
        os._exit(0)
    os.chdir("/")
    os.write(1, f"{os.getpid()}\n".encode())
    _let_go(1)
    try:
        writer.run()
    except OSError as error:
        writer.complain(f"nothing more is written: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
