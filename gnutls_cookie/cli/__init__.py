"""The command line: the table of commands, and main().

A command's module is imported only when that command is asked for. It has two functions:
add_arguments(parser) and run(options), which returns the exit code.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from gnutls_cookie import __version__, _early, library_version

from .console import complain, end_by, reason

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

__all__ = ["COMMANDS", "Command", "command_parsers", "main"]


class Command(NamedTuple):
    """One command.

    Attributes:
        help: one line for `gnutls-cookie --help`.
        module: where it is, relative to the package gnutls_cookie.
    """

    help: str
    module: str


COMMANDS = {
    "demo": Command("show the exchange, a key change and a flood on loopback", ".cli.demo.command"),
    "serve": Command("a DTLS echo server, as gnutls-serv --udp", ".cli.serve"),
    "connect": Command("a DTLS client, a line at a time", ".cli.connect"),
    "probe": Command("audit a DTLS server from outside", ".cli.probe.command"),
    "diff": Command("compare an implementation with libgnutls", ".cli.diff"),
    "vectors": Command("print chosen cases with libgnutls' answers", ".cli.vectors"),
    "learn": Command("learn a server's cookie stage as a state machine", ".cli.learn"),
    "run": Command("run an unmodified server with the gate in front", ".cli.run"),
    "stats": Command(
        "print the counters that `run --stats` or `xdp attach --stats` writes", ".cli.stats"
    ),
    "xdp": Command("the gate in the kernel, below every socket of an interface", ".cli.xdp"),
    "manual": Command("print a manual page", ".cli.manual"),
    "completion": Command("print what completes command lines in a shell", ".cli.completion"),
}


class _Parser(argparse.ArgumentParser):
    """One that says in one line what is wrong, without the usage."""

    def error(self, message: str) -> NoReturn:
        complain(self.prog, message)
        raise SystemExit(2)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        """argparse's own takes no notice where stdout is a full disk and Python is unbuffered."""
        target = file or sys.stderr
        if message and target is not None:
            target.write(message)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; None takes sys.argv's, as the
            console script does. Then Ctrl-C, and a stdout that nobody reads any more, end the
            process by the signal, as they end other programs.

    Returns:
        The exit code; 0 if the command succeeded, 1 too where stdout cannot be written.

    Raises:
        SystemExit: with code 2 for a wrong command line, with code 0 for --help and --version.
        KeyboardInterrupt, BrokenPipeError: with `arguments`.
    """
    if arguments is not None:
        return _run(arguments)
    number: signal.Signals | None = None
    try:
        _early.over()
        try:
            code = _run(sys.argv[1:])
        except SystemExit as ended:  # argparse's
            code = ended.code if isinstance(ended.code, int) else 1
        except BrokenPipeError:
            raise
        except OSError as error:  # where a command prints at once
            code = _stdout_failed(error, 1)
        code = _flushed(code)
        _early.done()
        # Python's end would look through all objects several times: most of the time that Ctrl-C
        # takes to end a server.
        gc.freeze()
    except KeyboardInterrupt:
        number = signal.SIGINT
    except BrokenPipeError:
        number = signal.SIGPIPE
    if number is not None:
        end_by(number)
    return code


def _flushed(code: int) -> int:
    """Write what print() has kept; returns the exit code."""
    if sys.stdout is None:
        return code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        return _stdout_failed(error, code or 1)
    return code


def _stdout_failed(error: OSError, code: int) -> int:
    command = [word for word in sys.argv[1:2] if word in COMMANDS]
    complain(" ".join(["gnutls-cookie", *command]), f"stdout: {reason(error)}")
    # What failed is tried again: by some Pythons at the next flush, by all of them at their end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return code


def command_parsers(
    *names: str,
) -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The program's parser, and those of all commands; the named ones have their options.

    Raises:
        KeyError: there is no such command.
    """
    parser = _Parser(
        prog="gnutls-cookie", description="The DTLS cookie exchange of the real libgnutls."
    )
    parser.add_argument(
        "-v",
        "--version",
        action="version",
        version=f"gnutls-cookie {__version__}, libgnutls {library_version()}",
        help="print versions, and exit",
    )
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    made: dict[str, argparse.ArgumentParser] = {
        name: parsers.add_parser(name, help=command.help, description=command.help)
        for name, command in COMMANDS.items()
    }
    for name in names:
        _module(name).add_arguments(made[name])
    return parser, made


def _module(name: str) -> ModuleType:
    return importlib.import_module(COMMANDS[name].module, "gnutls_cookie")


def _run(arguments: Sequence[str]) -> int:
    # No option before the command takes a value, so that the first other word names the command.
    asked = next((word for word in arguments if not word.startswith("-")), "")
    known = [asked] if asked in COMMANDS else []
    parser, parsers = command_parsers(*known)
    options, unknown = parser.parse_known_args(arguments)
    if options.command is None:
        parser.error("a command is needed; gnutls-cookie --help lists them")
    if unknown:
        parsers[options.command].error(f"unrecognized arguments: {' '.join(unknown)}")
    code: int = _module(options.command).run(options)
    return code
