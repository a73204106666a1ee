"""gnutls-cookie xdp: the gate in the kernel, at an interface.

`attach` stays, and changes the keys of the program by the clock. If it dies, the program goes on
for as long as a server takes its cookies, and passes everything on from then on.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import select
import signal
import stat
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from gnutls_cookie.keys import KeyRing, Keys
from gnutls_cookie.metrics import exposition
from gnutls_cookie.xdp import XdpError, XdpGate, attached

from . import writer
from .console import (
    Output,
    complain,
    default_sigint,
    log_to,
    one_line,
    open_standard_files,
    print_out,
    reason,
)
from .counters import counters_text, xdp_families, xdp_json
from .credentials import secret_file
from .exporter import Exporter, exporter_at
from .options import (
    add_counters_file,
    add_key_life,
    add_metrics,
    file_path,
    folder_of,
    number_in,
)
from .serve_options import Unusable
from .systemd import Notifier
from .workers import Signals

__all__ = ["add_arguments", "run"]

_log = logging.getLogger("gnutls_cookie")

_PROGRAM = "gnutls-cookie xdp"
_ROTATE_SECONDS = 3600.0
_LOOK_SECONDS = 1.0  # between two looks at clock and interface; and the file of --stats is as old
_SOCKETS_SECONDS = 30.0  # between two looks at the sockets of the ports
_STEP_SECONDS = 0.5  # the two clocks drift apart by less; a step of the realtime clock is more
_BEATS = 4  # signs of life in the seconds of the service manager's watchdog
_ANY_IPV6 = "0" * 32  # in /proc/net/udp6
_OF_ATTACH: dict[str, object] = {  # options, and what stands in the place of one that is not given
    "port": [],
    "cookie_secret_file": None,
    "rotate": None,
    "address": [],
    "mapped": False,
    "client_data": None,
    "drop_junk": False,
    "mode": None,
    "metrics": None,
    "stats": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add = parser.add_argument
    add(
        "action",
        metavar="ACTION",
        choices=["attach", "detach", "status"],
        help="attach: guard the interface until SIGTERM or Ctrl-C; SIGHUP reads the secret again. "
        "detach: take the program off. status: print what it has counted",
    )
    add("interface", metavar="INTERFACE", help="whose arriving datagrams are judged")
    add(
        "-p",
        "--port",
        metavar="PORT",
        type=number_in("a port", 1, 65535),
        action="append",
        default=[],
        help="UDP port to guard; may be repeated",
    )
    add("--cookie-secret-file", metavar="FILE", type=file_path, help="cookie keys of a fleet")
    add_key_life(parser)
    add(
        "--address",
        metavar="IP",
        action="append",
        default=[],
        help="guard this address alone; may be repeated (all that arrives is guarded)",
    )
    add("--mapped", action="store_true", help="the servers' sockets are dual-stack")
    add(
        "--client-data",
        choices=["sockaddr", "coap"],
        help="what cookies are made of: coap for servers of libcoap (sockaddr)",
    )
    add("--drop-junk", action="store_true", help="drop what no session can want")
    add(
        "--mode",
        choices=["auto", "native", "generic"],
        help="in the driver or behind it; auto: native where the driver can (auto)",
    )
    add_metrics(parser)
    add_counters_file(parser)
    add("--json", action="store_true", help="status: print JSON")


def run(options: argparse.Namespace) -> int:
    """Attach until a signal comes, detach, or print the status.

    Returns:
        The exit code: 0; 1 where the interface was lost, or `status` finds no program; 2 where the
        options, the rights or the system do not allow it.

    Raises:
        OSError: the status cannot be printed.
    """
    try:
        _check_options(options)
        if options.action == "attach":
            return _attach(options)
        return _detach(options) if options.action == "detach" else _status(options)
    except (Unusable, XdpError) as error:
        complain(_PROGRAM, str(error))
        return error.code if isinstance(error, Unusable) else 2


def _check_options(options: argparse.Namespace) -> None:
    if options.json and options.action != "status":
        raise Unusable("--json goes with status")
    if options.action != "attach":
        for name, absent in _OF_ATTACH.items():
            if getattr(options, name) != absent:
                raise Unusable(f"--{name.replace('_', '-')} goes with attach")
        return
    for name in "port", "cookie_secret_file":
        if not getattr(options, name):
            raise Unusable(f"attach needs --{name.replace('_', '-')}")


# --- detach, status -------------------------------------------------------------------------------


def _detach(options: argparse.Namespace) -> int:
    found = attached(options.interface)
    was_there = False
    if found is not None:
        with found:
            was_there = found.detach()
    print_out(f"{options.interface}: {'detached' if was_there else 'no program was attached'}")
    return 0


def _status(options: argparse.Namespace) -> int:
    found = attached(options.interface)
    if found is None:
        print_out("null" if options.json else f"{options.interface}: no program is attached")
        return 1
    with found:
        counters = xdp_json(found.counters)
        if options.json:
            said = {
                "interface": found.interface,
                "mode": found.mode,
                "program_id": found.program_id,
                "ports": found.ports,
                "keys_seconds": round(found.seconds_left, 3),
                **counters,
            }
            print_out(json.dumps(said))
            return 0
        left = found.seconds_left
        keys = f"keys expire in {left:.0f} s" if left else "the keys have expired"
        where = f"{found.interface}: {found.mode} mode, {_ports(found.ports)}, {keys}"
        print_out(f"{where}\n{counters_text(counters)}")
    return 0


def _ports(ports: list[int]) -> str:
    return f"UDP port{'s' if len(ports) > 1 else ''} {', '.join(map(str, ports))}"


# --- attach ---------------------------------------------------------------------------------------


def _attach(options: argparse.Namespace) -> int:
    open_standard_files()
    out = Output(None if sys.stdout is None else 1)
    err = Output(None if sys.stderr is None else 2)
    log_to(err, logging.INFO, tracebacks=False)
    # Until there is something to detach, SIGINT ends this process at once. SIGHUP waits.
    former = default_sigint()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        with ExitStack() as stack:
            return _Guard(options, out, stack).run()
    except OSError as error:  # no more descriptors, say; what is printed fails in silence
        raise Unusable(reason(error), 1) from None
    finally:
        err.close()
        out.close()
        signal.signal(signal.SIGINT, former)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


class _Guard:
    """The program at an interface, and what it is given while this process lives.

    Args:
        options: of the command.
        out: where is printed that it is ready.
        stack: closes what is opened here.
    """

    def __init__(self, options: argparse.Namespace, out: Output, stack: ExitStack) -> None:
        self._options = options
        self._out = out
        self._period = _ROTATE_SECONDS if options.rotate is None else options.rotate
        self._ring = self._read_secret()
        self._keys: Keys | None = None  # that the program has
        self._until = 0.0  # when they expire, by CLOCK_BOOTTIME
        self._stats_failed = False
        self._warned: set[int] = set()  # of ports
        self._folder = -1
        if options.stats is not None:
            self._folder = self._stats_folder(options.stats)
            stack.callback(os.close, self._folder)
        self._exporter: Exporter | None = None
        if options.metrics is not None:
            self._exporter = self._exporter_at(options.metrics)
            stack.callback(self._exporter.close)
        self._notifier = Notifier(os.environ)
        stack.callback(self._notifier.close)
        self._gate = stack.enter_context(self._load())
        if self._folder >= 0:
            try:
                writer.check_own(options.stats.name, self._folder)
                self._write_stats()
            except OSError as error:
                raise Unusable(f"--stats {options.stats}: {reason(error)}") from None
        self._signals = Signals({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
        stack.callback(self._signals.close)

    def run(self) -> int:
        """Attach, and stay until a signal comes or the interface is lost. Returns the exit code."""
        interface = self._options.interface
        self._renew_keys()
        mode = self._gate.attach(interface, self._options.mode or "auto")
        why = f" ({self._gate.note})" if self._gate.note else ""
        ports = sorted(set(self._options.port))
        status = f"attached to {interface} in {mode} mode{why}, {_ports(ports)}"
        lines = [status]
        if self._exporter is not None:
            lines.append(f"metrics at {self._exporter.url}")
        self._out.write("".join(f"{one_line(line)}\n" for line in lines))
        self._notifier.ready(status)
        try:
            return self._stay(status)
        finally:
            self._notifier.stopping()

    def _stay(self, status: str) -> int:
        next_look = next_beat = next_sockets = -math.inf
        beat_seconds = (self._notifier.watchdog_seconds or math.inf) / _BEATS
        while True:
            now = time.monotonic()
            if now >= next_look:
                self._renew_keys()
                if not self._gate.is_attached:
                    complain(_PROGRAM, self._lost())
                    return 1
                if self._folder >= 0:
                    self._write_stats_or_warn()
                next_look = now + min(_LOOK_SECONDS, self._seconds_to_next_keys())
            if now >= next_sockets:
                self._warn_of_sockets()
                next_sockets = now + _SOCKETS_SECONDS
            if now >= next_beat:
                self._notifier.watchdog()
                next_beat = now + beat_seconds
            ready = self._wait(min(next_look, next_beat))
            came = self._signals.take()
            if came & {signal.SIGTERM, signal.SIGINT}:
                return 0  # close() detaches
            if signal.SIGHUP in came:
                self._notifier.reloading()
                self._read_again()
                self._notifier.ready(status)
            if self._exporter is not None:
                self._exporter.turn(ready)

    def _wait(self, due: float) -> dict[int, int]:
        """Wait for a signal, a connection, or a time; returns what poll(2) said of descriptors."""
        poll = select.poll()
        poll.register(self._signals.fileno(), select.POLLIN)
        if self._exporter is not None:
            due = min(due, self._exporter.due())
            for descriptor, events in self._exporter.events().items():
                poll.register(descriptor, events)
        return dict(poll.poll(max(0, int((due - time.monotonic()) * 1000) + 1)))

    # --- keys -------------------------------------------------------------------------------------

    def _renew_keys(self) -> None:
        """Give the program the keys of now, until the end of the next period: for as long every
        server takes its cookies. The realtime clock may have been stepped."""
        now = time.time()
        keys = self._ring.keys_at(now)
        seconds = (math.floor(now / self._period) + 2) * self._period - now
        until = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
        if keys is not self._keys or abs(until - self._until) > _STEP_SECONDS:
            self._gate.set_keys(*keys, seconds)
            self._keys, self._until = keys, until

    def _seconds_to_next_keys(self) -> float:
        return self._period - time.time() % self._period

    def _read_secret(self) -> KeyRing:
        try:
            return KeyRing.from_secret(secret_file(self._options.cookie_secret_file), self._period)
        except (OSError, ValueError) as error:
            raise Unusable(f"cookie keys: {reason(error)}") from None

    def _read_again(self) -> None:
        path: Path = self._options.cookie_secret_file
        try:
            if stat.S_ISFIFO(os.stat(path).st_mode):
                raise Unusable(f"{path}: a pipe can be read once, at the start")
            self._ring = self._read_secret()
        except (Unusable, OSError) as error:
            _log.error("not read anew: %s", reason(error))
            return
        self._renew_keys()
        _log.info("read anew")

    # --- what is opened ---------------------------------------------------------------------------

    def _load(self) -> XdpGate:
        """The program, with the counters of one that a former process has left at the interface."""
        options = self._options
        former = attached(options.interface)
        try:
            return XdpGate(
                options.port,
                addresses=options.address,
                mapped=options.mapped,
                layout=options.client_data or "sockaddr",
                drop_junk=options.drop_junk,
                counts_of=former,
            )
        except ValueError as error:
            raise Unusable(f"--address: {error}") from None
        finally:
            if former is not None:
                former.close()

    def _stats_folder(self, path: Path) -> int:
        try:
            return folder_of(path)
        except (OSError, ValueError) as error:
            raise Unusable(f"--stats {reason(error)}") from None

    def _exporter_at(self, where: str) -> Exporter:
        try:
            return exporter_at(where, self._page)
        except ValueError as error:  # a name that cannot be one, too
            raise Unusable(f"--metrics: {reason(error)}") from None
        except OSError as error:
            raise Unusable(f"cannot serve metrics on {where}: {reason(error)}", 1) from None

    def _lost(self) -> str:
        """Why the program is no longer at the interface."""
        interface: str = self._options.interface
        try:
            found = attached(interface)
        except XdpError as error:
            return str(error)
        if found is None:
            return f"{interface}: the program was detached"
        found.close()
        return f"{interface}: another process has attached its own program"

    def _warn_of_sockets(self) -> None:
        """Where a server's socket shows its IPv4 clients in another way than cookies are made for,
        the program and the server would challenge one another's clients forever."""
        options = self._options
        if options.client_data == "coap":
            return
        v4, v6 = _bound("udp"), _bound("udp6")
        for port in sorted(set(options.port) - self._warned):
            anywhere = v6.get(port, set()) & {_ANY_IPV6}
            if options.mapped and port in v4:
                text = "port %d: its socket is of IPv4, whose clients --mapped keeps out"
            elif not options.mapped and anywhere and port not in v4:
                text = "port %d: its socket is of IPv6; if it is dual-stack, --mapped is needed"
            else:
                continue
            self._warned.add(port)
            _log.warning(text, port)

    # --- what is told -----------------------------------------------------------------------------

    def _page(self, openmetrics: bool) -> str:
        gate = self._gate
        found = xdp_families(gate.counters, gate.seconds_left, self._options.interface)
        return exposition(found, openmetrics=openmetrics)

    def _write_stats(self) -> None:
        name: str = self._options.stats.name
        if name.endswith(".prom"):
            data = self._page(openmetrics=False)
        else:
            counters = {"time": int(time.time()), **xdp_json(self._gate.counters)}
            data = json.dumps(counters) + "\n"
        writer.replace_file(name, self._folder, data.encode("utf-8", "replace"))

    def _write_stats_or_warn(self) -> None:
        try:
            self._write_stats()
            self._stats_failed = False
        except OSError as error:
            if not self._stats_failed:
                self._stats_failed = True
                _log.warning("--stats %s: %s", self._options.stats, reason(error))


def _bound(table: str) -> dict[int, set[str]]:
    """The ports of bound UDP sockets, and their addresses in hexadecimal; {}: not known."""
    found: dict[int, set[str]] = {}
    try:
        lines = Path("/proc/net", table).read_text().splitlines()[1:]
    except OSError:
        return found
    for line in lines:
        address, port = line.split()[1].split(":")
        found.setdefault(int(port, 16), set()).add(address)
    return found
