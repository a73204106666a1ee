"""The gate below the socket: a program in the kernel that challenges strangers before a socket
exists (XDP). Linux, root and libbpf are needed; nothing else of the package imports this module.

The program makes the cookies of CookieGate, byte for byte: any server that has the same keys and
the same client_data verifies them, a C server under `gnutls-cookie run` too. The interface holds
the program, and the program its maps. Nothing is pinned to a file: a pin would be lost with
the mounts of `ip netns exec`, and would outlive its interface.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from . import _libbpf
from ._check import bytes_copy, check_key_size, flag, integer, shown
from ._check import seconds as seconds_in
from ._hmac_states import hmac_states
from ._libbpf import XdpError, ffi
from .gate import DiscardReason

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Attached", "XdpCounters", "XdpError", "XdpGate", "attached"]

Layout = Literal["sockaddr", "coap"]
Mode = Literal["auto", "native", "generic"]

_OBJECT = Path(__file__).with_name("_xdp.bpf.o")
_PROGRAM = "gcookie_gate"
_KERNEL = "5.18"  # bpf_xdp_load_bytes
_MAX_ADDRESSES = 256
_MAX_SECONDS = float(1 << 33)  # two periods of the longest life that a key can have
_PORT_WORD_BITS = 64
_FRAME_BYTES = 1 << 16
_MAX_REPEAT = 0x7FFFFFFF

# native/xdp/gate.h
_MAPPED, _COAP, _DROP_JUNK, _ADDRESSES = 1, 2, 4, 8
_STATE = struct.Struct("=II")  # the slot in use, flags
_KEYS = struct.Struct("=40s40sQII")  # current, previous, until_ns, has_previous
_COUNTS = struct.Struct("=22Q")
_REASONS = 15  # the first of these, by DiscardReason
_VALUE_BYTES = {
    "gcookie_state": _STATE.size,
    "gcookie_keys": _KEYS.size,
    "gcookie_ports": _PORT_WORD_BITS // 8,
    "gcookie_hosts": 1,
    "gcookie_counts": _COUNTS.size,
}
_ONLY = struct.pack("=I", 0)

_MODES = {_libbpf.NATIVE: "native", _libbpf.GENERIC: "generic", 0: "hardware"}
_WANTED = {
    "auto": (_libbpf.NATIVE, _libbpf.GENERIC),
    "native": (_libbpf.NATIVE,),
    "generic": (_libbpf.GENERIC,),
}
_GONE = {errno.ENODEV, errno.ENXIO}


@dataclass(frozen=True, slots=True)
class XdpCounters:
    """What became of the datagrams to the ports so far.

    Attributes:
        challenged: answered with a HelloVerifyRequest.
        presented: of these, how many presented a cookie.
        verified: passed on, with a good cookie of the current key.
        verified_previous: passed on, with one of the previous key.
        passed: not ClientHellos, by the reason that CookieGate would discard them for; the reasons
            that occurred. They are passed on, since they may be for a session.
        dropped: of these, how many were dropped as junk.
        expired: ClientHellos that were passed on with any cookie, since the keys had expired.
        untouched: passed on unread: link-local and multicast addresses, odd lengths.
    """

    challenged: int
    presented: int
    verified: int
    verified_previous: int
    passed: Mapping[DiscardReason, int]
    dropped: int
    expired: int
    untouched: int


class _Gate:
    """The maps of a program in the kernel, which are read and written while it runs."""

    def __init__(self) -> None:
        self._program = -1
        self._maps: dict[str, int] = {}  # descriptors, of those whose values are as here

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Each of the two lets go of what it holds."""

    def _check_open(self) -> None:
        if self._program < 0:
            raise ValueError("it is closed")

    def _map(self, name: str) -> int:
        self._check_open()
        if name not in self._maps:
            text = "the program is one of another version of this package: detach or replace it"
            raise XdpError(text)
        return self._maps[name]

    @property
    def counters(self) -> XdpCounters:
        """What became of the datagrams so far, on all processors."""
        counts = self._map("gcookie_counts")
        cpus = _libbpf.library().libbpf_num_possible_cpus()
        values = ffi.new("char[]", cpus * _COUNTS.size)
        _libbpf.map_lookup(counts, _ONLY, values)
        rows = _COUNTS.iter_unpack(ffi.buffer(values))
        sums = [sum(column) for column in zip(*rows, strict=True)]
        reasons, others = sums[:_REASONS], sums[_REASONS:]
        passed = {one: reasons[one] for one in DiscardReason if reasons[one]}
        challenged, presented, verified, verified_previous, *rest = others
        return XdpCounters(challenged, presented, verified, verified_previous, passed, *rest)

    def set_keys(self, current: Buffer, previous: Buffer | None, seconds: float) -> None:
        """Change the keys: from one datagram to the next both are in use, and the old ones not.

        Args:
            current: the key that signs, 1 byte or more.
            previous: the key that verifies as well; None: only `current` does.
            seconds: how long they are good, 0..2**33. From then on everything is passed on. The
                time that the machine is suspended counts.

        Raises:
            ValueError: a key is empty, or `seconds` out of range.
            OverflowError: a key is longer than 2**31-1 bytes.
            TypeError: an argument is of another type.
            XdpError: the kernel refuses it.
        """
        life_ns = int(seconds_in("seconds", seconds, 0, _MAX_SECONDS) * 1e9)
        states = [_states("current", current), bytes(40)]
        if previous is not None:
            states[1] = _states("previous", previous)
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + life_ns
        active, flags = self._read_state()
        unused = 1 - active
        value = _KEYS.pack(*states, until_ns, previous is not None, 0)
        _libbpf.map_update(self._map("gcookie_keys"), struct.pack("=I", unused), value)
        _libbpf.map_update(self._map("gcookie_state"), _ONLY, _STATE.pack(unused, flags))

    @property
    def seconds_left(self) -> float:
        """How long the keys are still good, in seconds; 0: they have expired, or were never set."""
        active, _ = self._read_state()
        value = ffi.new("char[]", _KEYS.size)
        _libbpf.map_lookup(self._map("gcookie_keys"), struct.pack("=I", active), value)
        until_ns: int = _KEYS.unpack(ffi.buffer(value))[2]
        return max(until_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME), 0) / 1e9

    def _read_state(self) -> tuple[int, int]:
        value = ffi.new("char[]", _STATE.size)
        _libbpf.map_lookup(self._map("gcookie_state"), _ONLY, value)
        active, flags = _STATE.unpack(ffi.buffer(value))
        return active & 1, flags


class XdpGate(_Gate):
    """The program, loaded into the kernel. Until set_keys() is called it passes everything on.

    Not thread-safe.

    Args:
        ports: UDP ports that are guarded, 1..65535 each; at least one.
        addresses: IP addresses that are guarded, as text, at most 256; none: all. A machine that
            forwards datagrams must name its own.
        mapped: whether the servers' sockets are dual-stack: to these an IPv4 client is
            ::ffff:a.b.c.d, and its client_data has 28 bytes.
        layout: what client_data is: "sockaddr" (16 bytes for IPv4, 28 for IPv6), or "coap",
            libcoap's pair of addresses.
        drop_junk: drop what neither opens nor belongs to a session, in the place of passing it on.
        counts_of: a former program, whose counters this one goes on with.

    Attributes:
        program_id: the kernel's number of the program.

    Raises:
        ValueError: an argument is out of range.
        TypeError: one is of another type.
        XdpError: the kernel, libbpf or the build of this package does not allow it.

    Example:
        >>> from gnutls_cookie.xdp import XdpGate
        >>> with XdpGate([5684]) as gate:  # doctest: +SKIP
        ...     gate.set_keys(b"sixteen bytes...", None, 3600)
        ...     gate.attach("eth0")
    """

    def __init__(
        self,
        ports: Iterable[int],
        *,
        addresses: Iterable[str] = (),
        mapped: bool = False,
        layout: Layout = "sockaddr",
        drop_junk: bool = False,
        counts_of: Attached | None = None,
    ) -> None:
        super().__init__()
        words = _port_words(ports)
        hosts = _hosts(addresses)
        flags = _MAPPED * flag("mapped", mapped) | _DROP_JUNK * flag("drop_junk", drop_junk)
        flags |= _COAP * (_one_of("layout", layout, ("sockaddr", "coap")) == "coap")
        flags |= _ADDRESSES * bool(hosts)
        self._interface: tuple[str, int, int] | None = None  # name, index, mode
        self._note = ""
        self._object, log = _libbpf.open_object(_object_file())
        if counts_of is not None and not isinstance(counts_of, Attached):
            raise TypeError(f"counts_of must be an Attached, not {type(counts_of).__name__}")
        if counts_of is not None and "gcookie_counts" in counts_of._maps:
            _libbpf.reuse_map(self._object, "gcookie_counts", counts_of._map("gcookie_counts"))
        _libbpf.load(self._object, log, _KERNEL)
        self._program = _libbpf.program_of(self._object, _PROGRAM)
        self.program_id = _libbpf.program_info(self._program)[0]
        for name in _VALUE_BYTES:
            descriptor = _libbpf.map_descriptor(self._object, name)
            if _libbpf.map_info(descriptor)[1] == _VALUE_BYTES[name]:
                self._maps[name] = descriptor
        _libbpf.map_update(self._map("gcookie_state"), _ONLY, _STATE.pack(0, flags))
        guarded = self._map("gcookie_ports")
        for number, word in words.items():
            key, value = struct.pack("=I", number), struct.pack("=Q", word)
            _libbpf.map_update(guarded, key, value)
        for host in hosts:
            _libbpf.map_update(self._map("gcookie_hosts"), host, b"\1")
        self._options = ffi.new("struct bpf_test_run_opts *")
        self._options.sz = ffi.sizeof("struct bpf_test_run_opts")
        self._frame_in = ffi.new("char[]", _FRAME_BYTES)
        self._frame_out = ffi.new("char[]", _FRAME_BYTES)
        self._options.data_in, self._options.data_out = self._frame_in, self._frame_out
        self._out = ffi.buffer(self._frame_out)

    def close(self) -> None:
        """Take the program off its interface, and free it. A second call does nothing."""
        if self._program < 0:
            return
        try:
            self.detach()
        finally:
            self._program, self._maps = -1, {}
            ffi.release(self._object)

    def run(self, frame: bytes, repeat: int = 1) -> tuple[int, bytes, int]:
        """Have the kernel run the program on a frame, without any interface (BPF_PROG_TEST_RUN).

        Args:
            frame: from the Ethernet header on, 14..3,520 bytes.
            repeat: how often it is run, 1..2**31-1; whatever it does to the frame stays for the
                next run.

        Returns:
            The action: 1 drop (XDP_DROP), 2 pass on (XDP_PASS), 3 send back (XDP_TX); the frame
            afterwards; nanoseconds a run.

        Raises:
            ValueError: `repeat` is out of range, or the frame larger than any.
            XdpError: the kernel does not run it.
        """
        self._check_open()
        options = self._options
        size = len(frame)
        if size > _FRAME_BYTES:
            raise ValueError(f"frame must be of at most {_FRAME_BYTES} bytes, not {size}")
        if not 1 <= repeat <= _MAX_REPEAT:
            raise ValueError(f"repeat must be in 1..{_MAX_REPEAT}, not {repeat}")
        ffi.memmove(self._frame_in, frame, size)
        options.data_size_in, options.data_size_out = size, _FRAME_BYTES
        options.repeat = repeat
        result = _libbpf.library().bpf_prog_test_run_opts(self._program, options)
        if result < 0:
            _libbpf.allowed("running the program", "CAP_BPF and CAP_NET_ADMIN", result)
        return options.retval, self._out[: options.data_size_out], options.duration

    def attach(self, interface: str, mode: Mode = "auto") -> str:
        """Put the program on an interface: it sees all that arrives there from then on.

        A program of this package that is there already, of a process that has died, say, is
        replaced at one stroke, and never one of somebody else.

        Args:
            interface: its name.
            mode: "native" (in the driver), "generic" (behind it, which any interface has, and
                slower), or "auto": native where the driver has it, else generic. On veth it is
                generic, since its native mode loses replies unless the other end has XDP or GRO,
                too.

        Returns:
            The mode: "native" or "generic". `note` says why it is not native.

        Raises:
            ValueError: it is attached already, or `mode` is out of range.
            XdpError: there is no such interface, it is not of Ethernet, somebody else's program is
                on it, or the driver or the kernel does not allow it.
        """
        self._check_open()
        wanted = _one_of("mode", mode, ("auto", "native", "generic"))
        if self._interface is not None:
            raise ValueError(f"it is attached to {self._interface[0]}")
        index = _libbpf.index_of(interface)
        if not _libbpf.has_ethernet(interface):
            text = f"{interface}: its frames are not Ethernet's, and nothing in them would be seen"
            raise XdpError(text, errno.EOPNOTSUPP)
        former = attached(interface)
        note = ""
        if wanted == "auto" and former is not None:
            wanted, note = former.mode, "the mode of the program that it replaces"
        elif wanted == "auto" and _libbpf.driver_of(interface) == "veth":
            wanted, note = "generic", "on veth the native mode may lose replies"
        one, result = _libbpf.GENERIC, 0
        try:
            for one in _WANTED[wanted]:
                result = self._attach(index, one, former)
                if result >= 0:
                    break
                note = f"native mode: {os.strerror(-result)}"
        finally:
            if former is not None:
                former.close()
        if -result in (errno.EBUSY, _libbpf.NOT_THE_EXPECTED_PROGRAM):
            why = "somebody else has just attached a program"
            if not _libbpf.programs_on(index):  # dev_xdp_attach() of the kernel's net/core/dev.c
                why = "an interface above it (a bridge, say) has a program: attach to that one only"
            raise XdpError(f"{interface}: {why}", -result)
        if result == -errno.EOPNOTSUPP:
            raise XdpError(f"{interface}: its driver has no {wanted} mode of XDP", -result)
        _libbpf.allowed(f"attaching to {interface}", "CAP_NET_ADMIN", result)
        self._interface = interface, index, one
        self._note = note if one == _libbpf.GENERIC and mode == "auto" else ""
        return _MODES[one]

    def _attach(self, index: int, mode: int, former: Attached | None) -> int:
        if former is None:
            return _libbpf.attach(index, self._program, mode, None)
        if former._mode == mode:
            return _libbpf.attach(index, self._program, mode, former._program)
        # The kernel has one mode at a time.
        _libbpf.detach(index, former._program, former._mode)
        result = _libbpf.attach(index, self._program, mode, None)
        if result < 0:
            _libbpf.attach(index, former._program, former._mode, None)
        return result

    @property
    def note(self) -> str:
        """Why attach() chose the generic mode; "" where it did not choose it."""
        return self._note

    @property
    def is_attached(self) -> bool:
        """Whether the program is on the interface: that may be gone, or another program there."""
        if self._interface is None:
            return False
        _, index, mode = self._interface
        try:
            found = _libbpf.programs_on(index)
        except XdpError as error:
            if error.errno in _GONE:
                return False
            raise
        return (mode, self.program_id) in found

    def detach(self) -> bool:
        """Take the program off its interface.

        Returns:
            Whether it was there.

        Raises:
            XdpError: the kernel refuses it.
        """
        if self._interface is None:
            return False
        name, index, mode = self._interface
        self._interface = None
        return _detach(name, index, self._program, mode)


class Attached(_Gate):
    """The program of this package on an interface, whichever process has put it there.

    attached() makes it; close() it after use. Not thread-safe.

    Attributes:
        interface: the name of the interface.
        mode: "native" or "generic".
        program_id: the kernel's number of the program.
    """

    def __init__(self, interface: str, index: int, mode: int, program: int) -> None:
        super().__init__()
        self.interface = interface
        self.mode = _MODES[mode]
        self._index, self._mode, self._program = index, mode, program
        self._descriptors = [program]
        try:
            self.program_id, _, maps = _libbpf.program_info(program)
            for number in maps:
                descriptor = _libbpf.object_by_id("map", number)
                self._descriptors.append(descriptor)
                name, size = _libbpf.map_info(descriptor)
                if _VALUE_BYTES.get(name) == size:
                    self._maps[name] = descriptor
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the program, which stays where it is. A second call does nothing."""
        self._program, self._maps = -1, {}
        while self._descriptors:
            os.close(self._descriptors.pop())

    @property
    def ports(self) -> list[int]:
        """The UDP ports that it guards."""
        found = []
        words = self._map("gcookie_ports")
        value = ffi.new("uint64_t *")
        for number in range((1 << 16) // _PORT_WORD_BITS):
            _libbpf.map_lookup(words, struct.pack("=I", number), value)
            word = value[0]
            while word:
                bit = (word & -word).bit_length() - 1
                found.append(number * _PORT_WORD_BITS + bit)
                word &= word - 1
        return found

    def detach(self) -> bool:
        """Take the program off its interface; returns whether it was still there.

        Raises:
            XdpError: the kernel refuses it.
        """
        self._check_open()
        return _detach(self.interface, self._index, self._program, self._mode)


def attached(interface: str) -> Attached | None:
    """The program of this package that is on an interface; None: no program is.

    The program and its maps are found by their names, from the interface on.

    Args:
        interface: its name.

    Raises:
        XdpError: there is no such interface, somebody else's program is on it, or this process may
            not look (CAP_SYS_ADMIN).
    """
    index = _libbpf.index_of(interface)
    for mode, number in _libbpf.programs_on(index):
        try:
            program = _libbpf.object_by_id("prog", number)
        except XdpError as error:
            if error.errno == errno.ENOENT:  # it is gone by now
                continue
            raise
        try:
            _, name, _ = _libbpf.program_info(program)
            if name != _PROGRAM or mode == 0:
                text = f"{interface}: another program is attached: id {number}, name {name!r}"
                raise XdpError(text, errno.EBUSY)
        except BaseException:
            os.close(program)
            raise
        return Attached(interface, index, mode, program)
    return None


# --- what is asked for ----------------------------------------------------------------------------


def _object_file() -> str:
    if not _OBJECT.is_file():
        raise XdpError(
            "the program was not built: clang or libbpf's headers (libbpf-dev) were missing when "
            "this package was"
        )
    return str(_OBJECT)


def _port_words(ports: Iterable[int]) -> dict[int, int]:
    """The words of the map, each with a bit for 64 ports."""
    words: dict[int, int] = {}
    for port in _several("ports", ports):
        number, bit = divmod(integer("ports", port, 1, 65535), _PORT_WORD_BITS)
        words[number] = words.get(number, 0) | 1 << bit
    if not words:
        raise ValueError("ports must not be empty")
    return words


def _hosts(addresses: Iterable[str]) -> set[bytes]:
    """The addresses, each in 16 bytes."""
    found = set()
    for text in _several("addresses", addresses):
        if not isinstance(text, str):
            raise TypeError(f"addresses must be str, not {type(text).__name__}")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            raise ValueError(f"addresses must be IP addresses, not {text!r}") from None
        if address.version == 4:
            found.add(bytes(10) + b"\xff\xff" + address.packed)
        elif address.scope_id is not None:
            raise ValueError(f"addresses must have no scope, not {text!r}")
        else:
            found.add(address.packed)
    if len(found) > _MAX_ADDRESSES:
        raise ValueError(f"addresses must be at most {_MAX_ADDRESSES}, not {len(found)}")
    return found


def _several(name: str, values: Iterable[Any]) -> Iterable[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be several, not one {type(values).__name__}")
    return values


def _states(name: str, key: Buffer) -> bytes:
    data = bytes_copy(name, key, check_key_size)
    if not data:
        raise ValueError(f"{name} must not be empty")
    return hmac_states(data)


def _one_of(name: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {shown(value)}")
    return value


# --- interfaces -----------------------------------------------------------------------------------


def _detach(name: str, index: int, program: int, mode: int) -> bool:
    result = _libbpf.detach(index, program, mode)
    if -result in {_libbpf.NOT_THE_EXPECTED_PROGRAM, *_GONE}:
        return False
    _libbpf.allowed(f"detaching from {name}", "CAP_NET_ADMIN", result)
    return True
