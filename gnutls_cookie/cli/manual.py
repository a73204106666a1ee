"""gnutls-cookie manual [COMMAND]: the manual pages, in roff, from the parsers of the commands.

An installation by pip has nowhere to put them; so whoever wants to read one asks for it, and a
package of a distribution takes all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from gnutls_cookie import __version__
from gnutls_cookie.cli import COMMANDS, command_parsers

from .console import complain, print_out
from .options import file_path, plain_formatter

__all__ = ["add_arguments", "page", "run"]

_PROGRAM = "gnutls-cookie"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "name",
        metavar="COMMAND",
        nargs="?",
        choices=list(COMMANDS),
        help="whose page; that of the program if none is named. Read it by: "
        "gnutls-cookie manual serve | man -l -",
    )
    parser.add_argument(
        "--output-dir",
        metavar="FOLDER",
        type=file_path,
        help="write all pages there, as share/man/man1",
    )


def run(options: argparse.Namespace) -> int:
    """Print a page, or write all of them.

    Returns:
        0; 2 where they cannot be written.

    Raises:
        OSError: the page cannot be printed.
    """
    folder: Path | None = options.output_dir
    if folder is None:
        print_out(page(options.name))
        return 0
    try:
        folder.mkdir(exist_ok=True)  # its parents, where a name is misspelt, are not made
        for name in (None, *COMMANDS):
            (folder / f"{_title(name)}.1").write_text(page(name) + "\n", encoding="utf-8")
    except OSError as error:
        complain(f"{_PROGRAM} manual", f"{folder}: {error.strerror}")
        return 2
    return 0


def page(name: str | None) -> str:
    """The page of a command, or of the program, in roff's man macros."""
    program, parsers = command_parsers(*([] if name is None else [name]))
    parser = program if name is None else parsers[name]
    title = _title(name)
    others = [_title(one) for one in (None, *COMMANDS) if one != name]
    lines = [
        f'.TH {_escaped(title.upper())} 1 "" "{_PROGRAM} {__version__}" "User Commands"',
        ".SH NAME",
        f"{_escaped(title)} \\- {_escaped(_what(name, parser))}",
        ".nh",  # no hyphens in the names of options
        ".ad l",
        ".SH SYNOPSIS",
        _escaped(_usage(parser)),
        *_sections(parser),
        ".SH EXIT STATUS",
        "0 if all went well, 2 for a wrong command line or a file that cannot be used, 1 for other "
        "failures. Where a signal ends the program it ends by that signal.",
        ".SH SEE ALSO",
        ",\n".join(f"{_escaped(one)}(1)" for one in others),
    ]
    return "\n".join(lines)


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    formatter = plain_formatter(parser.prog)
    titles = {"positional arguments": "ARGUMENTS", "options": "OPTIONS"}
    for group in parser._action_groups:
        actions = [one for one in group._group_actions if one.help != argparse.SUPPRESS]
        if not actions:
            continue
        yield f".SH {_escaped(titles.get(group.title or '', (group.title or '').upper()))}"
        for action in actions:
            if isinstance(action, argparse._SubParsersAction):
                for choice in action._choices_actions:
                    yield from _entry(f"\\fB{_escaped(choice.dest)}\\fR", choice.help or "")
                continue
            words = formatter._expand_help(action) if action.help else ""
            yield from _entry(_heading(action, formatter), words)


def _entry(heading: str, words: str) -> Iterator[str]:
    yield from (".TP", heading, _escaped(words or "."))


def _heading(action: argparse.Action, formatter: argparse.HelpFormatter) -> str:
    value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    if not action.option_strings:
        return f"\\fI{_escaped(str(action.metavar or action.dest))}\\fR"
    shown = f" \\fI{_escaped(value)}\\fR" if action.nargs != 0 else ""
    return ", ".join(f"\\fB{_escaped(option)}\\fR{shown}" for option in action.option_strings)


def _usage(parser: argparse.ArgumentParser) -> str:
    formatter = plain_formatter(parser.prog)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups, "")
    return " ".join(formatter.format_help().split())


def _what(name: str | None, parser: argparse.ArgumentParser) -> str:
    return COMMANDS[name].help if name is not None else (parser.description or "").rstrip(".")


def _title(name: str | None) -> str:
    return _PROGRAM if name is None else f"{_PROGRAM}-{name}"


def _escaped(text: str) -> str:
    """Text that roff prints as it is: no macro at the start of a line, no hyphen for a minus."""
    safe = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{safe}" if safe[:1] in (".", "'") else safe
