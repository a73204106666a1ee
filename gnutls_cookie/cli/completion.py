"""gnutls-cookie completion SHELL: what completes command lines, from the commands' parsers."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

from gnutls_cookie.cli import COMMANDS, command_parsers

from .console import print_out
from .options import plain_formatter

__all__ = ["add_arguments", "run", "script"]


class Option(NamedTuple):
    """An option of a command, or an argument without a name of which all values are known.

    Attributes:
        names: as -d and --debug; none of an argument.
        help: one line; empty where there is none.
        value: what it takes, as FILE; empty if nothing.
        choices: the values that it knows, if it knows them all.
    """

    names: tuple[str, ...]
    help: str
    value: str
    choices: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "shell",
        metavar="SHELL",
        choices=["bash", "zsh", "fish"],
        help="bash, zsh or fish",
    )


def run(options: argparse.Namespace) -> int:
    """Print the script for a shell.

    Raises:
        OSError: it cannot be printed.
    """
    print_out(script(options.shell))
    return 0


def script(shell: str) -> str:
    """What bash, zsh or fish reads."""
    program, parsers = command_parsers(*COMMANDS)
    table = {name: tuple(_options(parser)) for name, parser in parsers.items()}
    own = tuple(_options(program))
    return {"bash": _bash, "zsh": _zsh, "fish": _fish}[shell](own, table)


def _options(parser: argparse.ArgumentParser) -> Iterator[Option]:
    formatter = plain_formatter(parser.prog)
    for action in parser._actions:
        nameless = not (action.option_strings or action.choices)
        is_command = isinstance(action, argparse._SubParsersAction)
        if nameless or is_command or action.help == argparse.SUPPRESS:
            continue
        words = formatter._expand_help(action) if action.help else ""
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        choices = tuple(map(str, action.choices or ()))
        yield Option(tuple(action.option_strings), " ".join(words.split()), value, choices)


def _bash(own: tuple[Option, ...], table: dict[str, tuple[Option, ...]]) -> str:
    lines = [
        "_gnutls_cookie() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}",
        "    local command= words= one",
        '    for one in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
        "        case $one in -*) ;; *) command=$one && break ;; esac",
        "    done",
        "    COMPREPLY=()",
        '    case "$command $before" in',
    ]
    for name, options in table.items():
        for option in options:
            if option.names and option.value:
                cases = " | ".join(f'"{name} {one}"' for one in option.names)
                does = f"words='{' '.join(option.choices)}'" if option.choices else "return"
                lines.append(f"    {cases}) {does} ;;")
    lines += [
        "    esac",
        '    [ -n "$words" ] || case $command:$word in',
        f"    :*) words='{' '.join([*table, *_names(own)])}' ;;",
    ]
    for name, options in table.items():
        lines.append(f"    {name}:-*) words='{' '.join(_names(options))}' ;;")
        lines += [
            f"    {name}:*) words='{' '.join(option.choices)}' ;;"
            for option in options
            if not option.names
        ]
    lines += [
        "    esac",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _gnutls_cookie gnutls-cookie",
    ]
    return "\n".join(lines)


def _zsh(own: tuple[Option, ...], table: dict[str, tuple[Option, ...]]) -> str:
    def described(name: str, text: str) -> str:
        return _quoted(f"{name}:{text.replace(':', chr(92) + ':')}")

    def specification(option: Option) -> Iterator[str]:
        if not option.names:
            yield _quoted(f"1:{option.value}:({' '.join(option.choices)})")
        for name in option.names:
            text = option.help.replace("[", "(").replace("]", ")").replace(":", chr(92) + ":")
            value = ""
            if option.value:
                action = f"({' '.join(option.choices)})" if option.choices else "_files"
                value = f":{option.value}:{action}"
            yield _quoted(f"{name}[{text}]{value}")

    lines = [
        "#compdef gnutls-cookie",
        "_gnutls_cookie() {",
        "    local -a commands",
        "    commands=(",
        *(f"        {described(name, COMMANDS[name].help)}" for name in table),
        "    )",
        "    local context state line",
        "    _arguments -C \\",
        *(f"        {one} \\" for option in own for one in specification(option)),
        "        '1: :->command' '*:: :->arguments'",
        "    case $state in",
        "    command) _describe command commands ;;",
        "    arguments)",
        "        case $words[1] in",
    ]
    for name, options in table.items():
        lines.append(f"        {name})")
        lines.append("            _arguments \\")
        lines += [f"                {one} \\" for it in options for one in specification(it)]
        lines += ["                '*:argument:_files' ;;"]
    lines += ["        esac ;;", "    esac", "}", "compdef _gnutls_cookie gnutls-cookie"]
    return "\n".join(lines)


def _fish(own: tuple[Option, ...], table: dict[str, tuple[Option, ...]]) -> str:
    def completed(condition: str, option: Option) -> str:
        words = ["complete -c gnutls-cookie", f"-n {_quoted(condition)}"]
        for name in option.names:
            kind = "-l" if name.startswith("--") else "-s"
            words.append(f"{kind} {name.lstrip('-')}")
        if option.choices:
            words.append("-x" if option.names else "-f")
            words.append(f"-a {_quoted(' '.join(option.choices))}")
        elif option.value:
            words.append("-r")
        return " ".join([*words, f"-d {_quoted(option.help)}"])

    lines = [completed("__fish_use_subcommand", option) for option in own]
    for name, options in table.items():
        described = f"-a {name} -d {_quoted(COMMANDS[name].help)}"
        lines.append(f"complete -c gnutls-cookie -n __fish_use_subcommand -f {described}")
        condition = f"__fish_seen_subcommand_from {name}"
        lines += [completed(condition, option) for option in options]
    return "\n".join(lines)


def _names(options: tuple[Option, ...]) -> list[str]:
    return [name for option in options for name in option.names]


def _quoted(text: str) -> str:
    """One word, for each of the three: what is between single quotes stands for itself."""
    return "'" + text.replace("'", "'\\''") + "'"
