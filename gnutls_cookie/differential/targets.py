"""What is held against what: objects in Python and programs that answer lines of JSON.

A target answers a Case with an Outcome, a tuple to be compared: first a word, then everything that
the caller of such a function can see.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import selectors
import shlex
import subprocess
import time
from collections.abc import Callable
from typing import Any, Protocol

from gnutls_cookie.cookie import Prestate, cookie_send, cookie_verify
from gnutls_cookie.errors import GnuTLSError
from gnutls_cookie.gate import CookieGate
from gnutls_cookie.keys import KeyRing
from gnutls_cookie.reference import cookie as reference
from gnutls_cookie.reference import gate as reference_gate

from .cases import Case

__all__ = [
    "LIBGNUTLS",
    "REFERENCE",
    "ExecTarget",
    "Outcome",
    "PythonTarget",
    "Target",
    "TargetDied",
    "TargetHangs",
    "Unusable",
    "load",
]

#: ("prestate", (record_seq, hsk_read_seq, hsk_write_seq)): verified, and what is left there.
#: ("sent", result, reply, prestate). ("error", code, reply or b"", prestate).
#: ("challenge", datagram, presented_cookie), ("verified", key_age, prestate),
#: ("discarded", reason). Of a target alone: ("raised", text), ("wrong", text), and None for what
#: it does not tell.
Outcome = tuple[Any, ...]

_INT_MIN, _INT_MAX = -(2**31), 2**31 - 1


class Unusable(Exception):
    """The target cannot be tested at all; the text says why."""


class TargetDied(Exception):
    """The target's process ended in the middle of a case; the text says how."""


class TargetHangs(Exception):
    """The target gave no answer in the time that it has."""


class Target(Protocol):
    """Something that answers cases.

    Attributes:
        name: what it is called.
        operations: which of OPERATIONS it answers.
        one_key: whether it does not know of previous keys.
    """

    name: str
    operations: tuple[str, ...]
    one_key: bool

    def answer(self, case: Case) -> Outcome:
        """What it makes of a case.

        Raises:
            TargetDied: its process ended.
            TargetHangs: it gave no answer in time.
        """

    def close(self) -> None:
        """Free what it holds."""


# --- objects in Python ----------------------------------------------------------------------------


class PythonTarget:
    """Functions with the signatures of the thin wrapper, and of the gate.

    Args:
        name: what it is called.
        verify: as `gnutls_cookie.cookie_verify`.
        send: as `gnutls_cookie.cookie_send`.
        receive: as receive(datagram, client_data, current, previous).
        prestate: makes a prestate of three ints; any object with the three attributes.
        one_key: whether `receive` does not know of a previous key.
    """

    def __init__(
        self,
        name: str,
        verify: Callable[..., Any] | None = None,
        send: Callable[..., Any] | None = None,
        receive: Callable[..., Any] | None = None,
        prestate: Callable[[int, int, int], Any] = reference.Prestate,
        one_key: bool = False,
    ) -> None:
        self.name = name
        self.one_key = one_key
        self._verify = verify
        self._send = send
        self._receive = receive
        self._prestate = prestate
        functions = {"verify": verify, "send": send, "receive": receive}
        self.operations = tuple(name for name, given in functions.items() if given is not None)

    def answer(self, case: Case) -> Outcome:
        """What the function makes of a case; what it raises is an answer too."""
        if case.operation == "verify":
            return self._verified(case)
        if case.operation == "send":
            return self._sent(case)
        return self._received(case)

    def close(self) -> None:
        """Nothing is held."""

    def _verified(self, case: Case) -> Outcome:
        assert self._verify is not None
        given = self._prestate(*case.prestate)
        try:
            result = self._verify(case.key, case.client_data, case.message, given)
        except Exception as error:
            return _raised(error, b"", given)
        after = (given.record_seq, given.hsk_read_seq, given.hsk_write_seq)
        if isinstance(result, int):
            if result < 0:
                return ("error", int(result), b"", after)
        elif result is not None and result is not given:
            returned = _numbers(result)
            if returned != after:
                return ("wrong", f"returned {returned}, and left {after} in the prestate given")
        return ("prestate", after)

    def _sent(self, case: Case) -> Outcome:
        assert self._send is not None
        given = self._prestate(*case.prestate)
        replies: list[bytes] = []

        def push(transport: list[bytes], data: bytes) -> int | None:
            transport.append(bytes(data))
            return case.pushed

        try:
            result = self._send(case.key, case.client_data, given, replies, push)
        except Exception as error:
            return _raised(error, b"".join(replies), given)
        after = _numbers(given)
        if len(replies) > 1:
            return ("wrong", f"push was called {len(replies)} times")
        reply = b"".join(replies)
        if not isinstance(result, int):
            return ("wrong", f"returned {result!r}")
        if result < 0:
            return ("error", int(result), reply, after)
        return ("sent", int(result), reply, after)

    def _received(self, case: Case) -> Outcome:
        assert self._receive is not None
        try:
            answer = self._receive(case.message, case.client_data, case.key, case.previous)
        except Exception as error:
            return ("raised", f"{type(error).__name__}: {error}")
        if answer is None:
            return ("discarded", None)
        if hasattr(answer, "datagram"):
            presented = getattr(answer, "presented_cookie", None)
            return ("challenge", bytes(answer.datagram), presented)
        if hasattr(answer, "prestate"):
            return ("verified", getattr(answer, "key_age", None), _numbers(answer.prestate))
        if hasattr(answer, "reason"):
            return ("discarded", None if answer.reason is None else int(answer.reason))
        return ("wrong", f"returned {answer!r}")


def _raised(error: Exception, reply: bytes, prestate: Any) -> Outcome:
    code = getattr(error, "code", None)
    if isinstance(code, int) and not isinstance(code, bool):
        return ("error", int(code), reply, _numbers(prestate))
    return ("raised", f"{type(error).__name__}: {error}")


def _numbers(prestate: Any) -> tuple[Any, ...]:
    names = ("record_seq", "hsk_read_seq", "hsk_write_seq")
    return tuple(getattr(prestate, name, None) for name in names)


def _libgnutls_receive(
    datagram: bytes, client_data: bytes | None, current: bytes, previous: bytes | None
) -> object:
    return CookieGate(KeyRing(current, previous)).receive(datagram, client_data)


class _LibGnuTLS(PythonTarget):
    """The oracle: the thin wrapper and the gate, with less asking around than for strangers."""

    def __init__(self) -> None:
        super().__init__("libgnutls", cookie_verify, cookie_send, _libgnutls_receive, Prestate)

    def _verified(self, case: Case) -> Outcome:
        prestate = Prestate(*case.prestate)
        try:
            cookie_verify(case.key, case.client_data, case.message, prestate)
        except GnuTLSError as error:
            return ("error", error.code, b"", _numbers(prestate))
        return ("prestate", _numbers(prestate))


#: The real one. "receive" is answered by CookieGate, which stands on it.
LIBGNUTLS: Target = _LibGnuTLS()

#: gnutls_cookie.reference.
REFERENCE: Target = PythonTarget(
    "reference", reference.cookie_verify, reference.cookie_send, reference_gate.receive
)


def load(text: str) -> PythonTarget:
    """The target `module` or `module:object`.

    It has any of cookie_send and cookie_verify with the signatures of `gnutls_cookie`, and
    receive(datagram, client_data, current, previous); or it is a class whose instances have the
    first two, or, made with the key alone, receive(datagram, client_data).

    Raises:
        Unusable: there is no such module or object, or it has none of these.
    """
    module, colon, path = text.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except Exception as error:
        raise Unusable(f"cannot import {module!r}: {type(error).__name__}: {error}") from None
    for name in path.split(".") if colon else ():
        try:
            found = getattr(found, name)
        except AttributeError:
            raise Unusable(f"{text!r}: no {name!r} there") from None
    verify, send = getattr(found, "cookie_verify", None), getattr(found, "cookie_send", None)
    receive = getattr(found, "receive", None)
    if not any(map(callable, (verify, send, receive))):
        raise Unusable(f"{text!r} has neither cookie_verify, cookie_send nor receive")
    if inspect.isclass(found) and (callable(verify) or callable(send)):
        made = _made(text, found)
        verify, send = getattr(made, "cookie_verify", None), getattr(made, "cookie_send", None)
        receive = None
    elif callable(receive):
        receive = _receiver(text, found, receive)
    own = getattr(found, "Prestate", None)
    prestate = own if inspect.isclass(own) and _makes_prestates(own) else reference.Prestate
    return PythonTarget(text, verify, send, receive, prestate, one_key=inspect.isclass(found))


def _made(text: str, kind: Any) -> Any:
    try:
        return kind()
    except Exception as error:
        raise Unusable(f"{text}() cannot be made: {type(error).__name__}: {error}") from None


def _makes_prestates(kind: Any) -> bool:
    try:
        return _numbers(kind(1, 2, 3)) == (1, 2, 3)
    except Exception:
        return False


def _receiver(text: str, found: Any, receive: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.isclass(found):
        try:
            inspect.signature(receive).bind(b"", b"", b"", None)
        except (TypeError, ValueError):
            wanted = "receive(datagram, client_data, current, previous)"
            raise Unusable(f"{text!r} is no class, and has no {wanted}") from None
        return receive

    kind: Callable[..., Any] = found

    def of_class(
        datagram: bytes, client_data: bytes | None, current: bytes, previous: bytes | None
    ) -> Any:
        return kind(current).receive(datagram, client_data)

    return of_class


# --- programs -------------------------------------------------------------------------------------


class ExecTarget:
    """A program that answers lines of JSON on stdin by lines of JSON on stdout.

    The protocol stands in docs/differential.md.

    Args:
        command: as a shell writes it; no shell is involved.
        timeout: seconds for one answer.

    Raises:
        Unusable: it cannot be started, or does not answer the first line as it has to.
    """

    def __init__(self, command: str, timeout: float = 10.0) -> None:
        self.name = command
        self.one_key = False
        self._timeout = timeout
        self._words = shlex.split(command)
        if not self._words:
            raise Unusable("the command is empty")
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""
        try:
            operations = self._start().get("operations")
        except (TargetDied, TargetHangs) as error:
            self.close()
            raise Unusable(f"{command!r}: {error}") from None
        known = {"verify", "send", "receive"}
        if not isinstance(operations, list) or not operations or not known.issuperset(operations):
            self.close()
            raise Unusable(f'{command!r}: the first answer has no "operations" of {sorted(known)}')
        self.operations = tuple(operations)

    def answer(self, case: Case) -> Outcome:
        """Ask for one case; the program is started anew where it ended before."""
        if self._process is None:
            self._start()
        try:
            return _outcome_of(case, self._ask(case.as_dict()))
        except (TargetDied, TargetHangs):
            self.close()
            raise

    def close(self) -> None:
        """End the program."""
        process, self._process = self._process, None
        self._rest = b""
        if process is not None:
            process.kill()
            process.communicate()

    def _start(self) -> dict[str, Any]:
        try:
            self._process = subprocess.Popen(
                self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
            )
        except OSError as error:
            raise Unusable(f"cannot start {self.name!r}: {error}") from None
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        return self._ask({"operation": "hello", "protocol": 1})

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(question).encode() + b"\n")
        except OSError:
            raise self._death() from None
        line = self._line(process.stdout.fileno())
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            return {"wrong": f"the line {line[:200]!r} is no JSON object"}
        return answer

    def _line(self, descriptor: int) -> bytes:
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._rest:
                left = deadline - time.monotonic()
                if left <= 0 or len(self._rest) > 1 << 20:
                    raise TargetHangs(f"no answer in {self._timeout:g} s")
                if not selector.select(left):
                    continue
                chunk = os.read(descriptor, 65536)
                if not chunk:
                    raise self._death()
                self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def _death(self) -> TargetDied:
        assert self._process is not None
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return TargetDied("it closed its pipes")
        return TargetDied(f"exit code {code}" if code >= 0 else f"signal {-code}")


def _outcome_of(case: Case, answer: dict[str, Any]) -> Outcome:
    """The outcome in a program's answer; what is no answer is an outcome too."""
    if "wrong" in answer:
        return ("wrong", str(answer["wrong"]))
    try:
        if case.operation == "receive":
            return _verdict_of(answer)
        result = answer["result"]
        if type(result) is not int:
            raise ValueError(f"result {result!r}")
        after = tuple(answer["prestate"])
        reply = bytes.fromhex(answer.get("pushed") or "")
    except (KeyError, TypeError, ValueError) as error:
        return ("wrong", f"{json.dumps(answer)[:200]}: {type(error).__name__}: {error}")
    if result < 0:
        return ("error", result, reply, after)
    if case.operation == "send":
        return ("sent", result, reply, after)
    return ("prestate", after)


def _verdict_of(answer: dict[str, Any]) -> Outcome:
    verdict = answer["verdict"]
    if verdict == "challenge":
        return ("challenge", bytes.fromhex(answer["datagram"]), answer.get("presented_cookie"))
    if verdict == "verified":
        return ("verified", answer.get("key_age"), tuple(answer["prestate"]))
    if verdict == "discarded":
        return ("discarded", answer.get("reason"))
    raise ValueError(f"verdict {verdict!r}")
