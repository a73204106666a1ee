"""The direction of the house: each module knows only those below it; C calls back in one place."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from tests.support.common import ROOT

PACKAGE = ROOT / "gnutls_cookie"

# From the ground up. A module may import what stands in a lower line, and nothing else of the
# package; a folder stands here as a whole. Names of modules still to come do no harm.
LAYERS = (
    {"_alive"},
    {"_check", "_early", "_ffi", "_hmac_states", "_libbpf", "_owned", "_version"},
    {"_clock", "_convert"},
    {"_library", "address", "errors", "locks"},
    {"_debug", "_files", "_paths", "certificates", "handles", "tickets"},
    {"anonymous", "credentials"},
    {"_settings"},
    {"_agreed"},
    {"cookie"},
    {"arrival", "keys", "session"},
    {"gate"},
    {"listener", "xdp"},
    {"_connection"},
    {"_turns"},
    {"server"},
    {"_serving"},
    {"client", "log", "options", "sockets"},
    {"client_endpoint", "endpoint"},
    {"base", "metrics", "plans"},
    {"aio", "blocking", "reference"},
    {"differential"},
    {"__init__"},
    {"cli"},  # a user of the package, as any other: of its public names
    {"__main__"},
)

# Beside the layers: what must not be reached, by whatever way.
APART = {
    "session": {"keys", "gate", "listener"},  # sits on handles and cookie
    "gate": {"session", "credentials"},
    "listener": {"session", "credentials"},
    "reference": {"_ffi", "errors", "handles", "cookie", "gate", "keys"},
}

# The rooms next to C: these alone know its pointers and structs.
NEXT_TO_C = {
    "_agreed",
    "_debug",
    "_paths",
    "_serving",
    "_settings",
    "_turns",
    "_convert",
    "_library",
    "anonymous",
    "certificates",
    "cookie",
    "credentials",
    "errors",
    "gate",
    "handles",
    "listener",
    "locks",
    "server",
    "session",
    "tickets",
}

# Of a module that may open no socket: what it takes from the module `socket` is names of types and
# families, and the writing of addresses.
ADDRESSES_ALONE = ("address", "listener")
NAMES_OF_SOCKET = {"AF_INET", "AF_INET6", "SOCK_DGRAM", "inet_ntop", "inet_pton"} | {
    "if_nametoindex",  # "%eth0" in an address
    "socket",  # the type in a signature
}

# Pure functions of what they are given: neither they nor what they import has a clock, a socket or
# a thread. A package stands here as a whole.
PURE = (
    "gnutls_cookie.arrival",
    "gnutls_cookie.client",
    "gnutls_cookie.cookie",
    "gnutls_cookie.credentials",
    "gnutls_cookie.gate",
    "gnutls_cookie.keys",
    "gnutls_cookie.reference",
    "gnutls_cookie.server",
    "gnutls_cookie.session",
    "gnutls_cookie.cli.probe.script",
    "gnutls_cookie.cli.probe.reading",
    "gnutls_cookie.cli.probe.judging",
)
IMPURE = {"asyncio", "select", "selectors", "socket", "subprocess", "threading", "time"}

THIRD_PARTIES = {"_typeshed", "typing_extensions"}  # for type checkers alone; cffi: by _ffi

# What a module that nobody has to import needs: an extra, or who calls it brings it.
EXTRAS = {
    "_libbpf.py": {"cffi"},
    "strategies.py": {"hypothesis"},
    "pytest_plugin.py": {"pytest"},
    "learn.py": {"aalpy"},
    "metrics.py": {"prometheus_client"},
}


def rooms() -> dict[str, list[Path]]:
    """The modules of the package; a folder is one of them."""
    found = {path.stem: [path] for path in PACKAGE.glob("*.py")}
    for folder in PACKAGE.iterdir():
        if (folder / "__init__.py").exists():
            found[folder.name] = sorted(folder.rglob("*.py"))
    return found


ROOMS = rooms()


def imports(path: Path, package: str) -> list[tuple[str, bool]]:
    """The absolute names that a file imports, and whether only for type checkers.

    Imports inside of functions count like all others.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    found: list[tuple[str, bool]] = []
    for node in ast.walk(tree):
        typed = id(node) in for_types
        if isinstance(node, ast.Import):
            found += [(name.name, typed) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")
                parent = parent[: len(parent) - node.level + 1]
                base = ".".join([*parent, *filter(None, [node.module])])
            # `from package import module` names a module in the list that follows.
            found += [(f"{base}.{name.name}", typed) for name in node.names]
    return found


def package_of(path: Path) -> str:
    """The package that a module stands in, for its relative imports."""
    return ".".join(path.relative_to(ROOT).parent.parts)


@cache
def known_by(room: str) -> frozenset[str]:
    """The other rooms that a room imports from."""
    found = set()
    for path in ROOMS.get(room, []):
        for name, _ in imports(path, package_of(path)):
            head, _, rest = name.partition(".")
            if head == "gnutls_cookie":
                other = rest.split(".")[0]
                known = other in ROOMS or any(other in names for names in LAYERS)
                found.add(other if known else "__init__")
    return frozenset(found - {room})


def reached_by(room: str) -> set[str]:
    """The rooms below a room, over all steps."""
    reached: set[str] = set()
    todo = [room]
    while todo:
        for other in known_by(todo.pop()) - reached:
            reached.add(other)
            todo.append(other)
    return reached


def file_of(name: str) -> Path | None:
    """The file of a module or package of ours; None for the name of anything else."""
    base = ROOT.joinpath(*name.split("."))
    found = (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists())
    return next(found, None)


def files_reached_by(files: Iterable[Path]) -> set[Path]:
    """These files and those that they import, over all steps. Imports for type checkers do not
    count, nor does the __init__.py of a package that is only on the way to a module, although
    Python runs it."""
    reached: set[Path] = set()
    todo = list(files)
    while todo:
        path = todo.pop()
        if path not in reached:
            reached.add(path)
            for name, typed in imports(path, package_of(path)):
                if typed:
                    continue
                found = file_of(name) or file_of(name.rpartition(".")[0])
                if name.startswith("gnutls_cookie") and found is not None:
                    todo.append(found)
    return reached


def layer(room: str) -> int:
    for number, names in enumerate(LAYERS):
        if room in names:
            return number
    raise AssertionError(f"{room} has no place in LAYERS of {Path(__file__).name}: give it one")


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_module_imports_only_what_is_below_it(room: str) -> None:
    """errors, handles, cookie, gate, listener, server, {aio, blocking}, cli; no way back."""
    above = {other for other in known_by(room) if layer(other) >= layer(room)}
    assert above == set()


def test_the_map_has_every_room_in_its_order() -> None:
    """docs/design.md: each room of Python stands below all that it knows, and none is left out, nor
    one of C."""
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    tables = text.partition("\n## The rooms\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ((?:`[^`]+`(?:, )?)+) \|", tables, re.MULTILINE)
    above: set[str] = set()
    for row in rows:
        for name in re.findall(r"`(\w+)(?:\.py|/)`", row):
            above.add(name)
            assert known_by(name) - above <= {"__init__", "_ffi", "_version"}, name
    assert ROOMS.keys() - above <= {"__init__", "__main__", "_version"}
    named = re.findall(r"`native/(\w+\.c)`", "".join(rows))
    assert sorted(named) == sorted(path.name for path in (PACKAGE / "native").glob("*.c"))


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_private_name_is_imported(room: str) -> None:
    """What another module needs has a public name; `_version` and the like are modules."""
    modules = {f"gnutls_cookie.{other}" for other in ROOMS}
    found = {
        name
        for path in ROOMS[room]
        for name, _ in imports(path, package_of(path))
        if name.startswith("gnutls_cookie.") and name not in modules
        if name.rpartition(".")[2].startswith("_") and not name.endswith("__")
    }
    assert found == set()


@pytest.mark.parametrize("room", sorted(APART))
def test_rooms_side_by_side_do_not_reach_each_other(room: str) -> None:
    """The session knows no gate, the gate no session, the reference nothing at all."""
    assert reached_by(room) & APART[room] == set()


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_reach_no_clock_and_no_socket(name: str) -> None:
    """What judges bytes is given them, and the time too if it needs one."""
    base = ROOT.joinpath(*name.split("."))
    files = list(base.rglob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
    reached = {
        f"{path.relative_to(ROOT)}: {found}"
        for path in files_reached_by(files) - {PACKAGE / "_clock.py"}  # what `now=None` asks
        for found, _ in imports(path, package_of(path))
        if found.split(".")[0] in IMPURE
    }
    assert reached == set()


def test_rooms_next_to_c_are_these() -> None:
    """All others use what these offer in Python's terms."""
    found = {
        room
        for room, paths in ROOMS.items()
        for path in paths
        for name, _ in imports(path, package_of(path))
        if name.startswith("gnutls_cookie._ffi")
    }
    assert found == NEXT_TO_C


@pytest.mark.parametrize("name", ADDRESSES_ALONE)
def test_of_sockets_the_gate_knows_addresses_alone(name: str) -> None:
    """The listener is given its socket, and hands its descriptor to C."""
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "socket"
    }
    called = {
        node.func.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert used
    assert used <= NAMES_OF_SOCKET
    assert not called & {"socket", "recv", "recvfrom", "recvmsg", "send", "sendto", "sendmsg"}


def test_imports_are_followed() -> None:
    """The reader itself: absolute and relative, from a module and through a package."""
    reached = files_reached_by([PACKAGE / "cli" / "probe" / "command.py"])
    names = {str(path.relative_to(PACKAGE)) for path in reached}
    assert names >= {
        "cli/probe/reading.py",
        "blocking/client.py",
        "endpoint.py",
        "reference/wire.py",
    }
    assert not names & {"cli/serve.py", "cli/demo.py"}


def test_only_main_imports_the_commands() -> None:
    """They are users of the package, and what a program imports has no command line in it."""
    assert {room for room in ROOMS if "cli" in known_by(room)} == {"__main__"}
    for room in set(ROOMS) - {"cli"}:
        for path in ROOMS[room]:
            names = {name for name, _ in imports(path, package_of(path))}
            assert "argparse" not in names, path


def test_commands_import_public_names() -> None:
    """What a module has in its __all__, or any name without an underscore where it has none; _early
    is for the moment before a command can handle a signal."""
    for path in ROOMS["cli"]:
        for name, _ in imports(path, package_of(path)):
            module, _, last = name.rpartition(".")
            if not name.startswith("gnutls_cookie") or name == "gnutls_cookie._early":
                continue
            if file_of(name) is not None:
                assert not last.startswith("_"), f"{path}: {name}"
                continue
            file = file_of(module)
            assert file is not None, f"{path}: {name}"
            public = public_names(file)
            assert last in public | {"__version__"} or not (public or last[0] == "_"), (path, name)


def public_names(path: Path) -> set[str]:
    """The strings of __all__, and what is added to it."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(one, ast.Name) and one.id == "__all__" for one in targets):
            for inner in ast.walk(node):
                if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                    found.add(inner.value)
    return found


def test_no_file_is_longer_than_600_lines() -> None:
    """Of Python or C. The files that are still longer are named; the list may only get shorter."""
    too_long = {
        path.name
        for pattern in ("*.py", "*.[ch]")
        for path in PACKAGE.rglob(pattern)
        if path.name != "_ffi.c"  # cffi writes it
        and len(path.read_text(encoding="utf-8").splitlines()) > 600
    }
    assert too_long == set()


def test_reference_imports_the_standard_library_and_itself() -> None:
    """It is the specification: readable, and no part of what it is compared with."""
    assert known_by("reference") == frozenset()
    for path in ROOMS["reference"]:
        for name, _ in imports(path, "gnutls_cookie.reference"):
            head = name.split(".")[0]
            assert head in sys.stdlib_module_names or name.startswith("gnutls_cookie.reference.")


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_no_third_party_is_needed(room: str) -> None:
    """The standard library, and for type checkers typing_extensions."""
    for path in ROOMS[room]:
        for name, typed in imports(path, "gnutls_cookie"):
            head = name.split(".")[0]
            own = head == "gnutls_cookie" or head in sys.stdlib_module_names
            own = own or head in EXTRAS.get(path.name, set())
            assert own or (typed and head in THIRD_PARTIES), f"{path.name}: {name}"


def test_c_calls_back_in_one_module_only() -> None:
    """def_extern in handles.py alone; never ffi.callback, nor a pointer to a Python object."""
    for room, paths in ROOMS.items():
        for path in paths:
            text = path.read_text(encoding="utf-8")
            assert ("def_extern" in text) == (room == "handles"), path
            assert not re.search(r"\bffi\.(callback|new_handle|from_handle)\b", text), path


def test_destructors_are_functions_of_c() -> None:
    """What a signal handler raises would end one in Python half-way, and be lost there."""
    calls = [
        (path.name, call)
        for paths in ROOMS.values()
        for path in paths
        for call in re.findall(r"\bffi\.gc\(.*", path.read_text(encoding="utf-8"))
    ]
    assert calls
    of_c = re.compile(r", lib\.(gcookie_\w+|bpf_object__close)\)")
    assert [call for call in calls if not of_c.search(call[1])] == []


def test_one_section_of_the_cdef_is_extern_python() -> None:
    """All that C can call stands together."""
    text = (PACKAGE / "native" / "ffi.cdef").read_text(encoding="utf-8")
    without_comments = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    assert len(re.findall(r'extern\s+"Python', without_comments)) == 1


def test_every_name_of_the_cdef_is_used() -> None:
    """Functions and constants, by `lib.NAME` in the package or in a test of C itself."""
    text = (PACKAGE / "native" / "ffi.cdef").read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL).partition("extern ")[0]
    names = set(
        re.findall(
            r"^#define (\w+) \.\.\.$|^(?!typedef|struct \w+;)\w[\w *]*?(\w+)[(;]",
            text,
            re.MULTILINE,
        )
    )
    given = {constant or function for constant, function in names}
    assert {"GNUTLS_E_BAD_COOKIE", "gnutls_alert_get_name", "gcookie_package_version"} <= given
    sources = [path for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    used = {
        name
        for path in sources
        for name in re.findall(r"\blib\.(\w+)", path.read_text(encoding="utf-8"))
    }
    assert given - used == set()


def test_build_file_does_not_import_the_package() -> None:
    """cffi runs it before there is one to import."""
    for name in ("build_ffi.py", "setup.py"):
        heads = {found.split(".")[0] for found, _ in imports(ROOT / name, "")}
        assert "gnutls_cookie" not in heads


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("from .errors import check", "gnutls_cookie.errors.check"),
        ("from . import gate", "gnutls_cookie.gate"),
        ("from .. import errors", "gnutls_cookie.errors"),
        ("import gnutls_cookie.gate", "gnutls_cookie.gate"),
        ("def f():\n    from gnutls_cookie import gate", "gnutls_cookie.gate"),
        ("if TYPE_CHECKING:\n    from .gate import CookieGate", "gnutls_cookie.gate.CookieGate"),
    ],
)
def test_every_form_of_import_is_seen(line: str, name: str, tmp_path: Path) -> None:
    """The reader itself: relative, absolute, inside a function, for type checkers."""
    path = tmp_path / "module.py"
    path.write_text(line + "\n", encoding="utf-8")
    package = "gnutls_cookie.reference" if ".. " in line else "gnutls_cookie"
    assert imports(path, package) == [(name, "TYPE_CHECKING" in line)]
