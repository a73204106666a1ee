"""What a target in Python has reached: the instructions that ran, and the constants beside them.

From 3.12 on an instruction is told the first time that it runs, and costs nothing afterwards
(sys.monitoring, PEP 669); before, each one is traced, which is slow. Instructions, and not lines:
`a and b` is one line, and two conditions.
"""

from __future__ import annotations

import gc
import json
import sys
import sysconfig
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from .cases import Case
from .outcomes import Outcome, Target

__all__ = ["Reached"]

_TOLD_MAX = 4096  # instructions after one answer; the rest comes with the next
_CONSTANT_SIZE_MAX = 64  # bytes
_TOOLS = range(5, -1, -1)  # sys.monitoring: who needs one of the low numbers has a name for it

_OWN = str(Path(__file__).parent)
_STANDARD = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


class _Code:
    """A piece of the target's code."""

    __slots__ = ("code", "offsets", "place")

    def __init__(self, code: CodeType, place: int) -> None:
        self.code = code  # held, so that its id() stays its own
        self.place = place
        self.offsets: set[int] = set()  # that have been reached


class Reached:
    """Watches a target.

    Args:
        target: its code is all that is not of the standard library, nor of the bench.
    """

    def __init__(self, target: Target) -> None:
        self._answer = target.answer
        self._new: list[int] = []
        self._constants: dict[bytes | int, None] = {}
        # By id(): the hash of a code object is made of all that is in it.
        self._codes: dict[int, _Code] = {}
        self._others: dict[int, CodeType] = {}
        self._tool: int | None = None
        self._is_asked = False
        self._ask: Callable[[Case], Outcome] = self._traced
        if sys.version_info >= (3, 12) and self._monitor():
            self._ask = self._answer

    def answer(self, case: Case) -> Outcome:
        """The target's. No garbage is collected meanwhile: what gc.callbacks and finalizers run
        then is not of this case, and comes when it will."""
        collects = gc.isenabled()
        gc.disable()
        self._is_asked = True
        try:
            return self._ask(case)
        finally:
            self._is_asked = False
            if collects:
                gc.enable()

    def news(self) -> bytes:
        """What was reached since the last call, as JSON: instructions, constants; b"" for nothing.

        Bytes are hexadecimal. The same in each process of the same target.
        """
        if not self._new:
            return b""
        new, self._new = self._new[:_TOLD_MAX], self._new[_TOLD_MAX:]
        constants = [one if isinstance(one, int) else one.hex() for one in self._constants]
        self._constants.clear()
        return json.dumps([new, constants]).encode()

    def close(self) -> None:
        """Watch no longer."""
        if sys.version_info >= (3, 12) and self._tool is not None:
            sys.monitoring.set_events(self._tool, 0)
            sys.monitoring.free_tool_id(self._tool)
            self._tool = None

    def _known(self, code: CodeType, frame: FrameType) -> _Code | None:
        """What is known of a piece of code; None: it is not the target's."""
        found = self._codes.get(id(code))
        if found is None and id(code) not in self._others:
            place = _place(code)
            if place is None:
                self._others[id(code)] = code
            else:
                found = self._codes[id(code)] = _Code(code, place)
                self._constants.update(dict.fromkeys(_constants(code, frame)))
        return found

    if sys.version_info >= (3, 12):

        def _monitor(self) -> bool:
            monitoring = sys.monitoring
            tool = next((one for one in _TOOLS if monitoring.get_tool(one) is None), None)
            if tool is None:
                return False

            def ran(code: CodeType, offset: int) -> object:
                known = self._known(code, sys._getframe(1))
                if known is not None and not self._is_asked:
                    return None  # to be told again, when it is
                if known is not None and offset not in known.offsets:
                    known.offsets.add(offset)
                    self._new.append(known.place + offset)
                return monitoring.DISABLE

            monitoring.use_tool_id(tool, "gnutls-cookie diff")
            self._tool = tool
            monitoring.register_callback(tool, monitoring.events.INSTRUCTION, ran)
            monitoring.set_events(tool, monitoring.events.INSTRUCTION)
            return True

    def _traced(self, case: Case) -> Outcome:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            return self._answer(case)
        finally:
            sys.settrace(before)

    def _enter(self, frame: FrameType, event: str, argument: object) -> Any:
        known = self._known(frame.f_code, frame)
        if known is None:
            return None
        offsets, place = known.offsets, known.place

        def step(frame: FrameType, event: str, argument: object) -> Any:
            offset = frame.f_lasti
            if offset not in offsets:
                offsets.add(offset)
                self._new.append(place + offset)
            return step

        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return step


def _place(code: CodeType) -> int | None:
    """A number for a piece of code, to which offsets can be added; None: it is not the target's."""
    file = code.co_filename
    if file.startswith((_OWN, "<frozen")):
        return None
    if file.startswith(_STANDARD) and "-packages" not in file:
        return None
    text = f"{file}:{code.co_qualname}:{code.co_firstlineno}"
    return zlib.crc32(text.encode(errors="replace")) << 32


def _constants(code: CodeType, frame: FrameType) -> Iterator[bytes | int]:
    """Numbers and bytes in the code, and those that it names in its module."""
    found: list[object] = list(code.co_consts)
    if frame.f_code is code:
        found += [frame.f_globals.get(name) for name in code.co_names]
    while found:
        one = found.pop(0)
        if isinstance(one, (tuple, frozenset)):
            found += sorted(one, key=repr)
        elif isinstance(one, str):
            found.append(one.encode(errors="replace"))
        elif type(one) is int or (type(one) is bytes and 0 < len(one) <= _CONSTANT_SIZE_MAX):
            yield one
