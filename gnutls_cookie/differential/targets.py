"""What is held against what: objects in Python and programs that answer lines of JSON.

A target answers a Case with an Outcome, a tuple to be compared: first a word, then everything that
the caller of such a function can see.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import time
from collections.abc import Sequence
from typing import Any

from gnutls_cookie._check import flag
from gnutls_cookie._check import text as is_text
from gnutls_cookie.cookie import Prestate, cookie_send, cookie_verify
from gnutls_cookie.credentials import PSKCredentials
from gnutls_cookie.errors import GnuTLSError
from gnutls_cookie.gate import CookieGate
from gnutls_cookie.keys import KeyRing
from gnutls_cookie.reference import client as reference_client
from gnutls_cookie.reference import cookie as reference
from gnutls_cookie.reference import gate as reference_gate
from gnutls_cookie.reference import wire
from gnutls_cookie.session import Session

from .cases import VECTOR_OPERATIONS, Case
from .outcomes import (
    Outcome,
    Target,
    TargetDied,
    TargetHangs,
    Unusable,
    Wrong,
    integer,
    numbers,
    shown,
)
from .processes import Batched, Warden, check_limits, module_warden, program_warden
from .python_target import PythonTarget

__all__ = [
    "LIBGNUTLS",
    "REFERENCE",
    "ExecTarget",
    "ModuleTarget",
    "Outcome",
    "PythonTarget",
    "Target",
    "TargetDied",
    "TargetHangs",
    "Unusable",
    "load",
    "outcome_of",
]

_LINE_SIZE_MAX = 1 << 20  # bytes of a program's answer
_PART_SECONDS = 0.25  # after which the bench looks at the answers that there are
_SETTLE_SECONDS = 0.05  # for a second answer to arrive


def _libgnutls_receive(
    datagram: bytes, client_data: bytes | None, current: bytes, previous: bytes | None
) -> object:
    return CookieGate(KeyRing(current, previous)).receive(datagram, client_data)


def _libgnutls_client(datagram: bytes) -> bytes | None:
    """A handshake of libgnutls' client, up to what it makes of the answer to its first hello."""
    session = Session("client", PSKCredentials("client", bytes(16)))
    try:
        session.handshake()
        session.datagrams_to_send()
        session.receive_datagram(datagram)
        session.handshake()
        sent = session.datagrams_to_send()
    finally:
        session.close()
    return wire.decode_client_hello(sent[0])[2].cookie if sent else None


class _LibGnuTLS(PythonTarget):
    """The oracle: the thin wrapper and the gate, with less asking around than for strangers."""

    def __init__(self) -> None:
        super().__init__(
            "libgnutls", cookie_verify, cookie_send, _libgnutls_receive, Prestate,
            client=_libgnutls_client,
        )  # fmt: skip

    def _verified(self, case: Case) -> Outcome:
        prestate = Prestate(*case.prestate)
        try:
            cookie_verify(case.key, case.client_data, case.message, prestate)
        except GnuTLSError as error:
            return ("error", error.code, b"", _of(prestate))
        return ("prestate", _of(prestate))

    def _sent(self, case: Case) -> Outcome:
        prestate = Prestate(*case.prestate)
        replies: list[bytes] = []
        pushed = case.pushed

        def push(to: list[bytes], datagram: bytes) -> int:
            to.append(datagram)
            return len(datagram) if pushed is None else pushed

        try:
            result = cookie_send(case.key, case.client_data, prestate, replies, push)
        except GnuTLSError as error:
            reply = replies[0] if replies else b""
            return ("error", error.code, reply, _of(prestate))
        return ("sent", result, replies[0], _of(prestate))


def _of(prestate: Prestate) -> tuple[int, int, int]:
    return (prestate.record_seq, prestate.hsk_read_seq, prestate.hsk_write_seq)


#: The real one. "receive" is answered by CookieGate, which stands on it.
LIBGNUTLS: Target = _LibGnuTLS()

#: gnutls_cookie.reference.
REFERENCE: Target = PythonTarget(
    "reference",
    reference.cookie_verify,
    reference.cookie_send,
    reference_gate.receive,
    client=reference_client.client_receive,
)


def _told(outcome: Outcome) -> Outcome:
    """An outcome as Target.answer() gives it: the end of a process is raised."""
    if outcome[0] == "died":
        raise TargetDied(outcome[1])
    if outcome[0] == "hangs":
        raise TargetHangs(outcome[1])
    return outcome


# --- modules --------------------------------------------------------------------------------------


class ModuleTarget(Batched):
    """A module in a process of its own, imported there alone.

    Args:
        text: `module` or `module:object`.
        timeout: seconds for one case, and for the import; 0.001 to 86400.
        memory: address space in MiB, 2**20 at most; 0: no limit.
        verbose: whether the traceback of an import that fails is printed.

    Raises:
        Unusable: it cannot be imported, or has none of the functions.
        TypeError, ValueError: an argument is of another type, or out of range.
    """

    def __init__(
        self, text: str, timeout: float = 10.0, memory: int = 0, verbose: bool = False
    ) -> None:
        flag("verbose", verbose)
        is_text("text", text)
        check_limits(timeout, memory)
        super().__init__(lambda guided: module_warden(text, memory, verbose, guided), timeout)
        self.name = text
        try:
            self.renew()
        except BaseException:
            self.close()
            raise

    def answer(self, case: Case) -> Outcome:
        """What the function makes of a case; what it raises is an answer too."""
        return _told(super().answer(case))


def load(
    text: str, timeout: float = 10.0, *, memory: int = 0, verbose: bool = False
) -> ModuleTarget:
    """The target `module` or `module:object`, in a process of its own.

    It has any of cookie_send and cookie_verify with the signatures of `gnutls_cookie`, and
    receive(datagram, client_data, current, previous); or it is a class whose instances have the
    first two, or, made with the key alone, receive(datagram, client_data).

    Args:
        text: where it is; imported as Python here would.
        timeout: seconds for one case, and for the import; 0.001 to 86400.
        memory: address space of the process in MiB, 2**20 at most; 0: no limit.
        verbose: whether the traceback of an import that fails is printed too.

    Raises:
        Unusable: there is no such module or object, or it has none of these.
        TypeError, ValueError: an argument is of another type, or out of range.
    """
    return ModuleTarget(text, timeout, memory, verbose)


# --- programs -------------------------------------------------------------------------------------


class ExecTarget:
    """A program that answers lines of JSON on stdin by lines of JSON on stdout.

    The protocol stands in docs/differential.md. What it starts ends with it.

    Args:
        command: as a shell writes it; no shell is involved.
        timeout: seconds for one answer; 0.001 to 86400.
        memory: address space in MiB, 2**20 at most; 0: no limit.

    Raises:
        Unusable: it cannot be started, or does not answer the first line as it has to.
        TypeError, ValueError: an argument is of another type, or out of range.
    """

    def __init__(self, command: str, timeout: float = 10.0, memory: int = 0) -> None:
        check_limits(timeout, memory)
        is_text("command", command)
        self.name = command
        self.one_key = False
        self.operations: tuple[str, ...] = ()
        self.timeout = timeout
        self.settle = 0.0  # seconds to wait for a second answer to a question
        self._memory = memory
        self._pipe: _Pipe | None = None
        self._warden: Warden | None = None
        self._batch: list[Case] = []
        self.fresh = False
        try:
            self._words = shlex.split(command)
        except ValueError as error:
            raise Unusable(f"--exec: {error}") from None
        if not self._words or not self._words[0]:
            raise Unusable("the command is empty")
        if "\0" in command:
            raise Unusable("the command has a zero byte in it")
        try:
            self.renew()
        except BaseException:
            self.close()
            raise

    def answer(self, case: Case) -> Outcome:
        """Ask for one case; the program is started anew where it ended before."""
        self.post([case])
        return _told(self.collect(())[0])

    @property
    def running(self) -> bool:
        """Whether there is a process that remembers what it was asked."""
        return self._pipe is not None

    def renew(self) -> None:
        """Start the program anew: what comes next is the first that it is asked."""
        if not self.fresh:
            self._start()

    def post(self, batch: Sequence[Case]) -> None:
        """Say what collect() is to ask."""
        self._batch = list(batch)

    @property
    def busy(self) -> bool:
        """Whether collect() has more to ask."""
        return self.running and self._batch != []

    def collect(self, expected: Sequence[Outcome]) -> list[Outcome]:
        """The answers to the next of the cases, one at least, as many as there is time for.

        Where the last is ("died", how) or the like the process has ended.
        """
        del expected
        deadline = time.monotonic() + _PART_SECONDS
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        self.fresh = False
        found: list[Outcome] = []
        try:
            while self._batch and self.running and (not found or time.monotonic() < deadline):
                found.append(self._ask(self._batch.pop(0)))
        except BaseException:
            self.close()
            raise
        return found

    def finish(self) -> Outcome | None:
        """A second answer to the last question, where there is one."""
        if self._pipe is not None and self._pipe.more(_SETTLE_SECONDS):
            return ("wrong", "answered more than once")
        return None

    def close(self) -> None:
        """End the program, and all that has come of it."""
        self.stop()
        held, self._warden = self._warden, None
        if held is not None:
            held.close()

    def _ask(self, case: Case) -> Outcome:
        assert self._pipe is not None
        try:
            answer = self._exchange(case.as_dict(), self.settle)
        except TargetDied as error:
            self.stop()
            return ("died", str(error))
        except TargetHangs as error:
            self.stop()
            return ("hangs", str(error))
        except Wrong as error:
            self.stop()  # whatever comes next would be the answer to another question
            return ("wrong", str(error))
        return outcome_of(case, answer)

    def _start(self) -> None:
        self.stop()
        if self._warden is None or not self._warden.alive:
            self._warden = program_warden(self._words, self._memory)
        stdin, asking = os.pipe()
        answers, stdout = os.pipe()
        self._pipe = _Pipe(asking, answers, self.timeout)
        try:
            number = self._warden.start(stdin, stdout)
        finally:
            os.close(stdin)
            os.close(stdout)
        if number:
            self.stop()
            raise Unusable(f"cannot start {self.name!r}: {os.strerror(number)}")
        try:
            answer = self._exchange({"operation": "hello", "protocol": 1}, 0)
            operations = answer.get("operations")
            if not isinstance(operations, list) or not operations:
                raise Wrong(f'the first answer has no "operations" of {list(VECTOR_OPERATIONS)}')
            for one in operations:
                if one not in VECTOR_OPERATIONS:
                    raise Wrong(f'the "operations" of the first answer have {shown(one)}')
        except (TargetDied, TargetHangs, Wrong) as error:
            self.stop()
            raise Unusable(f"{self.name!r}: {error}") from None
        self.operations = tuple(one for one in VECTOR_OPERATIONS if one in operations)
        self.fresh = True

    def _exchange(self, question: dict[str, Any], settle: float) -> dict[str, Any]:
        assert self._pipe is not None
        assert self._warden is not None
        try:
            line = self._pipe.exchange(json.dumps(question).encode() + b"\n")
            if settle and self._pipe.more(settle):
                raise Wrong("answered more than once")
        except _Closed as closed:
            raise TargetDied((self._warden.ended() or str(closed)) + closed.where) from None
        return _object_of(line)

    def stop(self) -> None:
        """End the program, and all that has come of it; the warden stays, for the next."""
        self.fresh = False
        pipe, self._pipe = self._pipe, None
        if pipe is not None:
            if self._warden is not None:
                self._warden.kill()  # first: it is not to complain about its pipes
            pipe.close()


class _Closed(Exception):
    """A program has closed one of its pipes, or has ended; `where` says at what point."""

    def __init__(self, what: str, where: str = "") -> None:
        super().__init__(f"it closed its {what}")
        self.where = where


class _Pipe:
    """Lines to a program and from it, bounded in time and size."""

    def __init__(self, asking: int, answers: int, timeout: float) -> None:
        self._asking = asking
        self._answers = answers
        self._timeout = timeout
        self._rest = b""
        os.set_blocking(asking, False)
        os.set_blocking(answers, False)
        self._readable = select.poll()
        self._readable.register(answers, select.POLLIN)
        self._either = select.poll()
        self._either.register(answers, select.POLLIN)
        self._either.register(asking, select.POLLOUT)

    def exchange(self, line: bytes) -> bytes:
        """Write a line, and give the line that is read next, without its end.

        Raises:
            _Closed: the program has closed its end.
            TargetHangs: it did not read or write in time.
            Wrong: a line came before this one was written, or it is too long.
        """
        if self.more(0):
            raise Wrong(f"a line came before the question: {shown(self._rest)}")
        deadline = time.monotonic() + self._timeout
        while line:
            line = line[self._written(line) :]
            if line:
                self._wait(self._either, deadline, "did not read the question")
                if not self._read():
                    raise _Closed("stdout")
                if b"\n" in self._rest or len(self._rest) > _LINE_SIZE_MAX:
                    raise Wrong("answered before it had read the question")
        parts = [self._rest]
        size = len(self._rest)
        while b"\n" not in parts[-1]:
            if size > _LINE_SIZE_MAX:
                raise Wrong(f"a line of more than {_LINE_SIZE_MAX} bytes")
            begun = shown(parts[0]) if size else ""
            what = f"no end of the line {begun}" if begun else "no answer"
            self._wait(self._readable, deadline, what)
            self._rest = b""
            if not self._read():
                raise _Closed("stdout", ", in the middle of a line" if size else "")
            parts.append(self._rest)
            size += len(self._rest)
        found, _, self._rest = b"".join(parts).partition(b"\n")
        if len(found) > _LINE_SIZE_MAX:
            raise Wrong(f"a line of more than {_LINE_SIZE_MAX} bytes")
        return found

    def more(self, seconds: float) -> bool:
        """Whether there is something to read, or is in time."""
        if not self._rest and self._readable.poll(seconds * 1000):
            self._read()
        return self._rest != b""

    def close(self) -> None:
        os.close(self._asking)
        os.close(self._answers)

    def _written(self, line: bytes) -> int:
        try:
            return os.write(self._asking, line)
        except BlockingIOError:
            return 0
        except OSError:
            raise _Closed("stdin") from None

    def _read(self) -> bool:
        """Read what there is; false at the end."""
        try:
            received = os.read(self._answers, 65536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._rest += received
        return received != b""

    def _wait(self, poll: select.poll, deadline: float, what: str) -> None:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TargetHangs(f"{what} in {self._timeout:g} s")


def _object_of(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode())
    except UnicodeDecodeError:
        raise Wrong(f"a line that is not UTF-8: {shown(line)}") from None
    except (ValueError, RecursionError):
        raise Wrong(f"a line that is not JSON: {shown(line)}") from None
    if not isinstance(found, dict):
        raise Wrong(f"a line that is not a JSON object: {shown(line)}")
    return found


def outcome_of(case: Case, answer: dict[str, Any]) -> Outcome:
    """The outcome in a program's answer; what is no answer is an outcome too."""
    try:
        if case.operation == "receive":
            return _verdict_of(answer)
        if case.operation == "client":
            return _client_of(answer)
        result = integer("result", _member(answer, "result"))
        after = _prestate_of(answer)
        reply = _bytes_of(answer, "pushed")
    except Wrong as error:
        return ("wrong", str(error))
    if result < 0:
        return ("error", result, reply, after)
    if case.operation == "send":
        return ("sent", result, reply, after)
    if result > 0 or reply:
        return ("wrong", f"result {result}; success is 0" if result else "pushed by verify")
    return ("prestate", after)


def _verdict_of(answer: dict[str, Any]) -> Outcome:
    verdict = _member(answer, "verdict")
    if verdict == "challenge":
        presented = answer.get("presented_cookie")
        if presented is not None and not isinstance(presented, bool):
            raise Wrong(f"presented_cookie is {shown(presented)}, not a bool")
        _member(answer, "datagram")
        return ("challenge", _bytes_of(answer, "datagram"), presented)
    if verdict == "verified":
        return ("verified", _number_of(answer, "key_age"), _prestate_of(answer))
    if verdict == "discarded":
        return ("discarded", _number_of(answer, "reason"))
    raise Wrong(f"verdict is {shown(verdict)}")


def _client_of(answer: dict[str, Any]) -> Outcome:
    verdict = _member(answer, "verdict")
    if verdict == "hello":
        _member(answer, "cookie")
        return ("hello", _bytes_of(answer, "cookie"))
    if verdict == "ignored":
        return ("ignored",)
    if verdict == "failed":
        return ("failed", _number_of(answer, "code"))
    raise Wrong(f"verdict is {shown(verdict)}")


def _member(answer: dict[str, Any], name: str) -> Any:
    if name not in answer:
        raise Wrong(f"no {name!r} in the answer {shown(answer)}")
    return answer[name]


def _prestate_of(answer: dict[str, Any]) -> tuple[int, ...]:
    found = _member(answer, "prestate")
    if not isinstance(found, list) or len(found) != 3:
        raise Wrong(f"prestate is {shown(found)}, not three numbers")
    return numbers(*found)


def _number_of(answer: dict[str, Any], name: str) -> int | None:
    found = answer.get(name)
    return None if found is None else integer(name, found)


def _bytes_of(answer: dict[str, Any], name: str) -> bytes:
    found = answer.get(name)
    if found is None:
        return b""
    try:
        return bytes.fromhex(found)
    except (TypeError, ValueError):
        raise Wrong(f"{name} is {shown(found)}, not hexadecimal") from None
