"""Targets of the differential bench that behave badly, and what the bench has to make of each."""

# ruff: noqa: E501 -- a target a line

# ruff: noqa: E501 -- a target a line

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class Bad:
    """A target.

    Attributes:
        code: of a module `mine`, or of a program (see PROGRAMS).
        exit_code: of the command.
        says: what its output has to have in it.
        options: of the command, in addition to the usual ones.
        target: its name, where it is a module.
    """

    code: str
    exit_code: int
    says: str = ""
    options: tuple[str, ...] = ()
    target: str = "mine"


RIGHT = (
    "from gnutls_cookie.reference.cookie import *\n"
    "from gnutls_cookie.reference import cookie as right\n"
)


def at_import(code: str) -> str:
    """A right module that does this first."""
    return f"import os, sys, time, ctypes, signal\n{textwrap.dedent(code)}\n{RIGHT}"


def in_verify(code: str, before: str = "") -> str:
    """A right module whose cookie_verify does this first; `calls` counts."""
    return (
        "import atexit, os, sys, time, ctypes, random, signal, subprocess, threading\n"
        f"{RIGHT}{textwrap.dedent(before)}\ncalls = 0\n"
        "def cookie_verify(key, client_data, message, prestate):\n"
        "    global calls\n    calls += 1\n"
        f"{textwrap.indent(textwrap.dedent(code), '    ')}\n"
        "    return right.cookie_verify(key, client_data, message, prestate)\n"
    )


def in_send(code: str) -> str:
    """A module whose cookie_send is this."""
    return (
        f"{RIGHT}def cookie_send(key, client_data, prestate, transport, push):\n"
        f"{textwrap.indent(textwrap.dedent(code), '    ')}\n"
    )


DAEMON = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for descriptor in range(3, 64):
            try:
                os.close(descriptor)
            except OSError:
                pass
        time.sleep(600)
    os._exit(0)
os.wait()
"""
UNTELLABLE = """
class Untellable(Exception):
    def __str__(self):
        raise ValueError("no text")
    __repr__ = __str__
"""
LIAR = """
class Liar(int):
    def __eq__(self, other): return True
    def __lt__(self, other): return False
    def __gt__(self, other): return False
    def __index__(self): return 0
    def __int__(self): return 0
    __hash__ = int.__hash__
"""

MODULES = {
    # at import
    "raises at import": Bad(at_import("1/0"), 2, "cannot import 'mine': ZeroDivisionError"),
    "exits at import": Bad(at_import("sys.exit(0)"), 2, "SystemExit"),
    "ends at import": Bad(at_import("os._exit(0)"), 2, "ended its process: exit code 0"),
    "crashes at import": Bad(at_import("ctypes.string_at(0)"), 2, "signal SIGSEGV"),
    "hangs at import": Bad(at_import("while True: pass"), 2, "did not end in 1 s"),
    "interrupts at import": Bad(at_import("raise KeyboardInterrupt"), 2, "KeyboardInterrupt"),
    "is not Python": Bad("def def", 2, "SyntaxError"),
    "has an error without text": Bad(at_import(f"{UNTELLABLE}\nraise Untellable"), 2, "Untellable"),
    "has an error of many lines": Bad(at_import("raise ValueError('a\\nb\\x1b[31m')"), 2, "a\\nb\\x1b"),
    "closes all at import": Bad(at_import("os.closerange(3, 256)"), 2, "ended its process"),
    "forks at import": Bad(at_import("os.fork()"), 0),
    "leaves a daemon at import": Bad(at_import(DAEMON), 0),
    "cannot be made": Bad(RIGHT + "class Thing:\n    def __init__(self): 1/0\n    cookie_verify = 1\n"
                          "    def cookie_send(self): pass\n", 2, "cannot be made", (), "mine:Thing"),
    "has attributes that raise": Bad("def __getattr__(name): raise ValueError(name)", 2, "has neither"),
    # ends in a call
    "ends in a call": Bad(in_verify("os._exit(0)"), 1, "exit code 0"),
    "exits in a call": Bad(in_verify("sys.exit(0)"), 1, "SystemExit: 0"),
    "crashes in a call": Bad(in_verify("ctypes.string_at(0)"), 1, "signal SIGSEGV"),
    "aborts in a call": Bad(in_verify("if len(message) > 61 and message[59]: os.abort()"), 1, "SIGABRT"),
    "crashes at call 100": Bad(
        in_verify("if calls == 100: ctypes.string_at(0)"), 1, "remembers what came before it, 99"
    ),
    "hangs in a call": Bad(in_verify("while True: pass"), 1, "no answer in 1 s"),
    "hangs and ignores SIGTERM": Bad(
        in_verify("signal.signal(15, signal.SIG_IGN); time.sleep(600)"), 1, "no answer in 1 s"
    ),
    "stops itself": Bad(in_verify("os.kill(os.getpid(), signal.SIGSTOP)"), 1, "no answer in 1 s"),
    # It ends with that; not at once, and until then it could give all its answers.
    "kills what watches over it": Bad(
        in_verify("os.kill(os.getppid(), 9); time.sleep(600)"), 1, "watches over it"
    ),
    "recurses without end": Bad(in_verify("cookie_verify(key, client_data, message, prestate)"), 1,
                                "RecursionError"),
    "takes memory without end": Bad(in_verify("b = [bytes(1 << 34) for _ in range(64)]"), 1,
                                    "MemoryError", ("--memory", "512")),
    # raises
    "raises without text": Bad(in_verify("raise Untellable", UNTELLABLE), 1, "Untellable"),
    "raises a BaseException": Bad(in_verify("raise BaseException('all')"), 1, "BaseException: all"),
    "raises GeneratorExit": Bad(in_verify("raise GeneratorExit"), 1, "GeneratorExit"),
    "raises KeyboardInterrupt": Bad(in_verify("raise KeyboardInterrupt"), 1, "KeyboardInterrupt"),
    "raises odd characters": Bad(in_verify(r"raise ValueError('\ud800\x1b[31m\u2028\0')"), 1, "ValueError"),
    "is interrupted by a timer": Bad(
        in_verify("signal.signal(14, lambda *_: 1/0); signal.setitimer(0, 0.001, 0.001); time.sleep(0.002)"), 1,
        "ZeroDivisionError", ("--cases", "24")),
    # answers oddly
    "gives True": Bad(in_verify("return True"), 1, "True, not an int"),
    "gives NaN": Bad(in_verify("return float('nan')"), 1, "nan, not an int"),
    "gives 7": Bad(in_verify("return 7"), 1, "returned 7; success is 0"),
    "gives a huge number": Bad(in_verify("return 10**5000"), 1, "bits"),
    "gives a coroutine": Bad(RIGHT + "async def cookie_verify(k, c, m, p): pass", 1, "is not a prestate"),
    "gives a liar": Bad(in_verify("return Liar(7)", LIAR), 1, "returned 7"),
    "gives what cannot be shown": Bad(
        in_verify("return Untellable()", UNTELLABLE), 1, "is not a prestate"
    ),
    "leaves a float": Bad(in_verify("prestate.record_seq = 0.0; return prestate"), 1, "0.0, not an int"),
    "leaves a bool": Bad(in_verify("prestate.hsk_read_seq = False; return 0"), 1, "False, not an int"),
    "leaves 2**32": Bad(in_verify("prestate.hsk_write_seq = 2**32; return 0"), 1, "outside of 0"),
    "answers by chance": Bad(
        in_verify("if random.random() < 0.02: return -1"), 1, "by chance"
    ),
    "pushes a number": Bad(in_send("return push(transport, 44)"), 1, "44, not bytes"),
    "pushes twice": Bad(in_send("push(transport, b'1'); return push(transport, b'2')"), 1,
                        "more than once"),
    "pushes nothing": Bad(in_send("return 44"), 1, "nothing"),
    "pushes much": Bad(in_send("return push(transport, bytes(1 << 20))"), 1, "1048576 bytes"),
    "pushes elsewhere": Bad(in_send("return push(None, bytes(44))"), 1, "another transport"),
    # does more than it should, and answers right
    "leaves a child": Bad(in_verify("if calls < 3: subprocess.Popen(['sleep', '600'])"), 0),
    "leaves a daemon": Bad(in_verify(f"if calls == 2:\n{textwrap.indent(DAEMON, '    ')}"), 0),
    "comes back twice": Bad(in_verify("if calls == 2: os.fork()"), 0),
    "closes its stdio": Bad(in_verify("if calls == 2: os.closerange(0, 3)"), 0),
    "closes all": Bad(in_verify("if calls == 2: os.closerange(3, 256)"), 1, "closed the socket"),
    "changes its process": Bad(
        in_verify("os.chdir('/'); os.umask(0); random.seed(1); sys.setrecursionlimit(10**6); "
                  "signal.signal(2, signal.SIG_IGN); os.environ.clear()"), 0),
    "takes modules away": Bad(
        in_verify("sys.modules.clear(); sys.path.clear(); sys.stdout = sys.stderr = None"), 0
    ),
    "replaces hmac": Bad(in_verify("import hmac; hmac.digest = lambda *_: bytes(20)"), 1, "target"),
    "replaces repr": Bad(in_verify("import builtins; builtins.repr = lambda _: '('"), 1, "memory"),
    "leaves threads": Bad(
        in_verify("if calls < 4: threading.Thread(target=time.sleep, args=(600,)).start()"), 0
    ),
    "hangs at its exit": Bad(in_verify("if calls == 1: atexit.register(time.sleep, 600)"), 0),
    "is traced": Bad(in_verify("sys.settrace(lambda *_: None)"), 0),
    "interrupts its parent": Bad(in_verify("os.kill(os.getppid(), 2)"), 0),
    "is slow": Bad(in_verify("time.sleep(0.002)"), 0),
    "prints much": Bad(in_verify("print('{}' * 100)"), 0, "", ("--json",)),
}  # fmt: skip


def program(code: str, hello: str = '{"operations": ["verify"]}') -> str:
    """A program that answers the first question, and does this at each of the others."""
    return (
        "import json, os, signal, sys, time\n"
        "sys.stdin.readline()\n"
        f"print({hello!r}, flush=True)\n"
        "def say(text): sys.stdout.write(text + '\\n'); sys.stdout.flush()\n"
        'right = \'{"result": -9, "prestate": [0, 0, 0]}\'\n'
        "for number, line in enumerate(sys.stdin, 1):\n"
        "    question = json.loads(line)\n"
        f"{textwrap.indent(textwrap.dedent(code), '    ')}\n"
    )


def result(text: str) -> str:
    """A program that says this."""
    return program(f"say({text!r})")


#: -9 is right for the empty datagram alone: CASE.
CASE = '{"operation": "verify", "key": "00", "client_data": "", "message": ""}'

PROGRAMS = {
    "ends at once": Bad("pass", 2, "exit code 0"),
    "closes its stdout": Bad("import os, time; os.close(1); time.sleep(600)", 2, "closed its stdout"),
    "says nothing": Bad("import time; time.sleep(600)", 2, "no answer in 1 s"),
    "says half a line": Bad("import sys, time; sys.stdout.write('{\"op'); sys.stdout.flush(); "
                            "time.sleep(600)", 2, "no end of the line"),
    "names no operations": Bad(program("pass", "{}"), 2, "operations"),
    "names odd operations": Bad(program("pass", '{"operations": [{}, []]}'), 2, "operations"),
    "is not JSON at first": Bad(program("pass", "hello"), 2, "not JSON"),
    "speaks first": Bad("print('{\"operations\": [\"verify\"]}\\n{}', flush=True)\n"
                        "import time; time.sleep(600)", 1, "line came before the question"),
    "says a list": Bad(result("[]"), 1, "not a JSON object"),
    "says text": Bad(result("hello"), 1, "not JSON"),
    "says nothing more": Bad(program("time.sleep(600)"), 1, "no answer in 1 s"),
    "says zero bytes": Bad(result("\0\0\0"), 1, "not JSON"),
    "says what is not UTF-8": Bad(
        program("sys.stdout.buffer.write(b'\\xff\\xfe\\n'); sys.stdout.buffer.flush()"), 1, "not UTF-8"
    ),
    "says brackets": Bad(program("say('[' * 100000)"), 1, "not JSON"),
    "says a long line": Bad(program("say('x' * 2000000)"), 1, "more than 1048576 bytes"),
    "says a line without end": Bad(
        program("while True: os.write(1, bytes(65536))"), 1, "more than 1048576 bytes"
    ),
    "ends in a line": Bad(
        program("sys.stdout.write('{\"res'); sys.stdout.flush(); os._exit(0)"), 1, "middle of a line"
    ),
    "says all twice": Bad(program("say(right); say(right)"), 1, "more than once"),
    "closes its stdin": Bad(program("say(right); os.close(0); time.sleep(600)"), 1, "its stdin"),
    "has no result": Bad(result("{}"), 1, "no 'result'"),
    "has a float": Bad(result('{"result": -9.0, "prestate": [0, 0, 0]}'), 1, "-9.0, not an int"),
    "has NaN": Bad(result('{"result": NaN, "prestate": [0, 0, 0]}'), 1, "nan, not an int"),
    "has a huge number": Bad(result('{"result": 1%s, "prestate": [0, 0, 0]}' % ("0" * 400)), 1, "bits"),
    "has a bool": Bad(result('{"result": -9, "prestate": [0, false, 0]}'), 1, "False, not an int"),
    "has null": Bad(result('{"result": null, "prestate": [0, 0, 0]}'), 1, "None, not an int"),
    "has two numbers": Bad(result('{"result": -9, "prestate": [0, 0]}'), 1, "not three numbers"),
    "has a negative number": Bad(result('{"result": -9, "prestate": [0, 0, -1]}'), 1, "outside of 0"),
    "has odd hexadecimal": Bad(
        result('{"result": -9, "prestate": [0, 0, 0], "pushed": "\\ud800"}'), 1, "not hexadecimal"
    ),
    "has bytes as a number": Bad(
        result('{"result": -9, "prestate": [0, 0, 0], "pushed": 5}'), 1, "not hexadecimal"
    ),
    "gives 7": Bad(result('{"result": 7, "prestate": [0, 0, 0]}'), 1, "success is 0"),
    "ends in a call": Bad(program("sys.exit(4)"), 1, "exit code 4"),
    "is killed": Bad(program("os.kill(os.getpid(), 9)"), 1, "SIGKILL"),
    "ignores SIGTERM": Bad(
        program("signal.signal(15, signal.SIG_IGN); time.sleep(600)"), 1, "no answer in 1 s"
    ),
    "writes to stderr": Bad(program("sys.stderr.write('x' * 99 + '\\n'); say(right)"), 0),
    "leaves a daemon": Bad(program(f"{DAEMON}\nsay(right)"), 0),
    "answers late": Bad(program("time.sleep(0.3); say(right)"), 0),
}  # fmt: skip
