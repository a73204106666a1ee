"""Sub-interpreters: right where callbacks run in them, a clear ImportError elsewhere."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from itertools import product
from pathlib import Path

import pytest

from tests.support.common import ROOT, compiler, python

CALLBACKS = sys.version_info >= (3, 12)
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

INTERPRETERS = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    def create(isolated):
        return interpreters.create("isolated" if isolated else "legacy")
else:
    import _xxsubinterpreters as interpreters
    def create(isolated):
        return interpreters.create(isolated=isolated)

def run(interpreter, code):
    failed = interpreters.run_string(interpreter, code)
    if failed is not None:
        raise RuntimeError(failed)

"""

IMPORT = '''
interpreter = create(isolated=ISOLATED)
run(interpreter, """
try:
    import gnutls_cookie
    print("imported", flush=True)
except ImportError as error:
    print(error, flush=True)
""")
interpreters.destroy(interpreter)
'''

BODY = """
import gnutls_cookie as g
from gnutls_cookie.handles import TABLE
got = []
result = g.cookie_send(b"own", b"own", g.Prestate(), got, lambda to, data: to.append(data))
assert (result, len(got)) == (44, 1), (result, got)
class Mine(Exception):
    pass
def failing(to, data):
    raise Mine
try:
    g.cookie_send(b"own", b"own", g.Prestate(), got, failing)
    raise AssertionError
except Mine:
    pass
asked = []
def lookup(identity):
    asked.append(identity)
    return b"k" * 16
server = g.Session("server", g.PSKCredentials(lookup=lookup))
client = g.Session("client", g.PSKCredentials("sensor", b"k" * 16))
for _ in range(20):
    client.handshake(), server.handshake()
    for one, other in (client, server), (server, client):
        for datagram in one.datagrams_to_send():
            other.receive_datagram(datagram)
assert client.established and asked == ["sensor"], asked
gate = g.CookieGate(b"key")
assert type(gate.receive(b"", b"")) is g.Discarded
handle = TABLE.lend("mine")
TABLE.reclaim(handle)
print("worked", handle, flush=True)
"""

WORKS = """
one, other = create(isolated=False), create(isolated=False)
run(one, BODY)
exec(BODY, {})
run(other, BODY)
run(one, BODY)
# Calls within a call of another interpreter: each push is its own.
import gnutls_cookie as g
seen = []
def push(transport, data):
    seen.append(data)
    if len(seen) == 1:
        run(one, BODY)
        run(other, BODY)
assert g.cookie_send(b"main", b"main", g.Prestate(), None, push) == 44
assert len(seen) == 1
interpreters.destroy(one)
exec(BODY, {})
run(other, BODY)
interpreters.destroy(other)
exec(BODY, {})
"""


def child(code: str) -> tuple[int, str, str]:
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        pytest.importorskip("_xxsubinterpreters")
    else:
        pytest.importorskip("_interpreters")
    done = python(INTERPRETERS + code, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_interpreter_that_cannot_run_callbacks_refuses_the_import() -> None:
    """Python 3.11: the reason is named, whether the main interpreter was first or not."""
    if CALLBACKS:
        pytest.skip("Python 3.12 and later run them")
    for first in ("", "import gnutls_cookie\n"):
        code, out, err = child(first + IMPORT.replace("ISOLATED", "False"))
        assert (code, err) == (0, "")
        assert out.startswith(
            "gnutls_cookie cannot be imported in a sub-interpreter of Python 3.11"
        )
        assert "callbacks" in out


def test_isolated_interpreter_refuses_the_import_with_its_own_reason() -> None:
    """cffi's modules are not made for a GIL of their own, or none: libgnutls is not blamed."""
    if not CALLBACKS:
        pytest.skip("Python 3.11 has one GIL")
    for first, isolated in product(
        ("", "import gnutls_cookie\n"), (True, False)[: 1 + FREE_THREADED]
    ):
        code, out, err = child(first + IMPORT.replace("ISOLATED", str(isolated)))
        assert (code, err) == (0, "")
        assert out.startswith("gnutls_cookie cannot be imported in an isolated sub-interpreter")
        assert "libgnutls" not in out


def test_interpreters_that_share_the_gil_work_side_by_side() -> None:
    """Python 3.12: sends, errors, lookups and gates, one within another; no number given twice."""
    if not CALLBACKS or FREE_THREADED:
        pytest.skip("Python 3.11, and a free-threaded one, refuse the import")
    code, out, err = child(f"BODY = {BODY!r}\n{WORKS}")
    assert (code, err) == (0, ""), err
    lines = out.splitlines()
    assert len(lines) == 9
    assert len(set(lines)) == 9, "a handle was given twice"


def test_main_interpreter_is_not_taken_for_another() -> None:
    """Nor is it where the module that tells them apart is missing (Python 3.11)."""
    code = (
        "import sys\n"
        "sys.modules['_xxsubinterpreters'] = None\n"
        "import gnutls_cookie\n"
        "print(gnutls_cookie.cookie_send(b'k', b'c', gnutls_cookie.Prestate(), 0, lambda t, d: 7))"
    )
    done = python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "7\n", "")


HOST = r"""
#include <Python.h>
#include <stdio.h>
int main(int argc, char **argv) {
    (void)argc;
    Py_Initialize();
    PyThreadState *mine = PyThreadState_Get();
    int failed = argv[1][0] == '1' ? PyRun_SimpleString(argv[2]) : 0;
    PyThreadState *sub = Py_NewInterpreter();
    failed |= PyRun_SimpleString(argv[2]);
    Py_EndInterpreter(sub);
    PyThreadState_Swap(mine);
    failed |= PyRun_SimpleString(argv[2]);
    fflush(stdout);
    return failed != 0;
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("first", ["0", "1"])
def test_host_program_that_makes_interpreters_with_the_c_api(first: str, tmp_path: Path) -> None:
    """As mod_wsgi and uWSGI do, with the main interpreter first to import or not."""
    (tmp_path / "host.c").write_text(HOST, encoding="ascii")
    variable = sysconfig.get_config_var
    flags = [f"-I{sysconfig.get_path('include')}", f"-L{variable('LIBDIR')}"]
    flags += [f"-L{variable('LIBPL')}", f"-lpython{variable('LDVERSION')}"]
    for name in ("LINKFORSHARED", "LIBS", "SYSLIBS"):
        flags += shlex.split(variable(name) or "")
    flags.append(f"-Wl,-rpath,{variable('LIBDIR')}")
    command = [*compiler(), "-o", str(tmp_path / "host"), str(tmp_path / "host.c"), *flags]
    built = subprocess.run(command, capture_output=True, text=True)
    if built.returncode != 0:
        pytest.skip(f"no program with Python in it can be built here: {built.stderr[-300:]}")
    refuse = (
        "import sys\n"
        "try:\n"
        f"    exec({BODY!r})\n"
        "except ImportError as error:\n"
        "    print(str(error), flush=True)\n"
    )
    path = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [tmp_path / "host", first, refuse],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHOME": sys.base_prefix},
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 + int(first)
    ours = lines[-2]  # the sub-interpreter's
    works = CALLBACKS and not FREE_THREADED
    assert ours.startswith("worked" if works else "gnutls_cookie cannot be imported")
    assert all(line.startswith("worked") for line in lines if line is not ours)
    assert len(set(lines)) == len(lines)
