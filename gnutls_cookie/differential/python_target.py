"""Objects in Python as targets: functions with the signatures of the wrapper, and of the gate."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from gnutls_cookie._check import check_callable, flag, text
from gnutls_cookie.reference import cookie as reference

from .cases import Case
from .outcomes import Outcome, Unusable, Wrong, data_of, described, integer, numbers, shown

__all__ = ["PythonTarget", "import_target"]


class PythonTarget:
    """Functions with the signatures of the thin wrapper, and of the gate.

    answer() calls them in this process; compare() does so in a child.

    Args:
        name: what it is called.
        verify: as `gnutls_cookie.cookie_verify`.
        send: as `gnutls_cookie.cookie_send`.
        receive: as receive(datagram, client_data, current, previous).
        client: as `gnutls_cookie.reference.client.client_receive`; for vectors alone.
        prestate: makes a prestate of three ints; any object with the three attributes.
        one_key: whether `receive` does not know of a previous key.

    Raises:
        TypeError: an argument is of another type.
    """

    def __init__(
        self,
        name: str,
        verify: Callable[..., Any] | None = None,
        send: Callable[..., Any] | None = None,
        receive: Callable[..., Any] | None = None,
        prestate: Callable[[int, int, int], Any] = reference.Prestate,
        one_key: bool = False,
        client: Callable[[bytes], object] | None = None,
    ) -> None:
        functions = {"verify": verify, "send": send, "receive": receive, "client": client}
        for one, given in functions.items():
            if given is not None:
                check_callable(one, given)
        check_callable("prestate", prestate)
        self.name = text("name", name)
        self.one_key = flag("one_key", one_key)
        self._verify = verify
        self._send = send
        self._receive = receive
        self._client = client
        self._prestate = prestate
        self._leaves_prestate_out = verify is not None and _is_optional(verify, 3)
        self._leaves_previous_out = receive is not None and _is_optional(receive, 3)
        self.operations = tuple(name for name, given in functions.items() if given is not None)

    def answer(self, case: Case) -> Outcome:
        """What the function makes of a case; what it raises is an answer too."""
        try:
            if case.operation == "verify":
                return self._verified(case)
            if case.operation == "send":
                return self._sent(case)
            if case.operation == "client":
                return self._read(case)
            return self._received(case)
        except Wrong as error:
            return ("wrong", str(error))
        except Exception as error:
            return ("raised", described(error))

    def close(self) -> None:
        """Nothing is held."""

    def _verified(self, case: Case) -> Outcome:
        assert self._verify is not None
        if self._leaves_prestate_out and case.prestate == (0, 0, 0):
            return self._verified_without(case)
        given = self._prestate(*case.prestate)
        try:
            result = self._verify(case.key, case.client_data, case.message, given)
        except Exception as error:
            return _error(error, b"", given)
        after = _numbers(given)
        if result is None or result is given:
            return ("prestate", after)
        if isinstance(result, (int, float)):
            code = integer("the result", result)
            if code > 0:
                raise Wrong(f"returned {code}; success is 0")
            return ("error", code, b"", after) if code < 0 else ("prestate", after)
        returned = _numbers(result)
        if returned != after:
            raise Wrong(f"returned {returned}, and left {after} in the prestate given")
        return ("prestate", after)

    def _verified_without(self, case: Case) -> Outcome:
        """The same where the prestate may be left out, and is: the result is a new one."""
        assert self._verify is not None
        try:
            result = self._verify(case.key, case.client_data, case.message)
        except Exception as error:
            return _error(error, b"", reference.Prestate())
        return ("prestate", _numbers(result))

    def _sent(self, case: Case) -> Outcome:
        assert self._send is not None
        given = self._prestate(*case.prestate)
        pushed = _Push(case.pushed)
        try:
            result = self._send(case.key, case.client_data, given, pushed.transport, pushed)
        except Exception as error:
            return _error(error, pushed.reply(), given)
        reply, after = pushed.reply(), _numbers(given)
        code = integer("the result", result)
        return ("error", code, reply, after) if code < 0 else ("sent", code, reply, after)

    def _received(self, case: Case) -> Outcome:
        assert self._receive is not None
        given = (case.message, case.client_data, case.key, case.previous)
        if case.previous is None and self._leaves_previous_out:
            given = given[:3]  # type: ignore[assignment]
        answer = self._receive(*given)
        if answer is None:
            return ("discarded", None)
        if hasattr(answer, "datagram"):
            presented = getattr(answer, "presented_cookie", None)
            if presented is not None and not isinstance(presented, bool):
                raise Wrong(f"presented_cookie is {shown(presented)}, not a bool")
            return ("challenge", data_of("datagram", answer.datagram), presented)
        if hasattr(answer, "prestate"):
            age = getattr(answer, "key_age", None)
            age = None if age is None else integer("key_age", age)
            return ("verified", age, _numbers(answer.prestate))
        if hasattr(answer, "reason"):
            reason = None if answer.reason is None else integer("reason", answer.reason)
            return ("discarded", reason)
        raise Wrong(f"returned {shown(answer)}")

    def _read(self, case: Case) -> Outcome:
        assert self._client is not None
        try:
            cookie = self._client(case.message)
        except Exception as error:
            code = getattr(error, "code", None)
            return ("failed", int(code)) if isinstance(code, int) else ("raised", described(error))
        return ("ignored",) if cookie is None else ("hello", data_of("the cookie", cookie))


def _is_optional(function: Callable[..., Any], place: int) -> bool:
    """Whether the argument at a place has a default."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    return len(parameters) > place and parameters[place].default is not inspect.Parameter.empty


class _Push:
    """The push function of a case: takes the datagram, and gives the number of bytes sent."""

    def __init__(self, result: int | None) -> None:
        self._result = result
        self._datagrams: list[bytes] = []
        self._wrong = ""
        self.transport = object()

    def __call__(self, transport: object, data: object) -> int:
        if transport is not self.transport:
            self._wrong = "push was given another transport"
        try:
            datagram = data_of("what was pushed", data)
        except Wrong as error:
            self._wrong = str(error)
            raise TypeError(str(error)) from None
        if len(self._datagrams) < 2:
            self._datagrams.append(datagram)
        return len(datagram) if self._result is None else self._result

    def reply(self) -> bytes:
        """What was pushed, b"" for nothing.

        Raises:
            Wrong: it was called as C would not call it.
        """
        if self._wrong:
            raise Wrong(self._wrong)
        if len(self._datagrams) > 1:
            raise Wrong("push was called more than once")
        return self._datagrams[0] if self._datagrams else b""


def _error(error: Exception, reply: bytes, prestate: Any) -> Outcome:
    code = getattr(error, "code", None)
    if isinstance(code, int) and not isinstance(code, bool):
        return ("error", integer("the code", code), reply, _numbers(prestate))
    return ("raised", described(error))


def _numbers(prestate: Any) -> tuple[int, ...]:
    try:
        return numbers(prestate.record_seq, prestate.hsk_read_seq, prestate.hsk_write_seq)
    except AttributeError:
        raise Wrong(f"{shown(prestate)} is not a prestate") from None


# --- modules --------------------------------------------------------------------------------------


def import_target(text: str) -> PythonTarget:
    """The target `module` or `module:object`, imported into this process.

    Raises:
        Unusable: there is no such module or object, or it has none of the functions.
    """
    module, colon, path = text.partition(":")
    if module.endswith(".py") or "/" in module:
        name = PurePath(module).name.removesuffix(".py")
        raise Unusable(f"{module!r} is a file: name the module, as in `import {name}`")
    try:
        found: Any = importlib.import_module(module)
    except BaseException as error:  # SystemExit too: in this process there is nothing else to end
        raise Unusable(f"cannot import {module!r}: {_described(error)}") from error
    for name in path.split(".") if colon else ():
        try:
            found = getattr(found, name)
        except Exception:
            raise Unusable(f"{text!r}: no {name!r} there") from None
    verify, send, receive, client = (
        _function(found, name)
        for name in ("cookie_verify", "cookie_send", "receive", "client_receive")
    )
    if not (verify or send or receive or client):
        raise Unusable(
            f"{text!r} has neither cookie_verify, cookie_send, receive nor client_receive"
        )
    if inspect.isclass(found) and (verify or send):
        made = _made(text, found)
        verify, send = _function(made, "cookie_verify"), _function(made, "cookie_send")
        receive = None
    elif receive is not None:
        receive = _receiver(text, found, receive)
    own = getattr(found, "Prestate", None)
    prestate = own if inspect.isclass(own) and _makes_prestates(own) else reference.Prestate
    one_key = inspect.isclass(found)
    return PythonTarget(text, verify, send, receive, prestate, one_key, client)


def _described(error: BaseException) -> str:
    try:
        return described(error)
    except BaseException:
        return "an error whose text raises another"


def _function(found: Any, name: str) -> Callable[..., Any] | None:
    try:
        function = getattr(found, name, None)
    except Exception:
        return None
    return function if callable(function) else None


def _made(text: str, kind: Any) -> Any:
    try:
        return kind()
    except BaseException as error:
        raise Unusable(f"{text}() cannot be made: {_described(error)}") from error


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
            raise Unusable(f"{text!r} is not a class, and has no {wanted}") from None
        return receive

    kind: Callable[..., Any] = found

    def of_class(
        datagram: bytes, client_data: bytes | None, current: bytes, previous: bytes | None
    ) -> Any:
        return kind(current).receive(datagram, client_data)

    return of_class
