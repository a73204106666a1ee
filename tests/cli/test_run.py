"""`run`: unmodified third-party servers gain the gate. Each claim is shown with and without it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from gnutls_cookie import KeyRing, client_data
from gnutls_cookie.cli import main
from gnutls_cookie.cli.run import find_preload
from gnutls_cookie.cli.stats import read_stats
from gnutls_cookie.differential import LIBGNUTLS, REFERENCE, case_of_json
from gnutls_cookie.differential.datagrams import CLIENTS, with_cookie
from gnutls_cookie.reference import cookie as reference
from gnutls_cookie.reference import wire
from tests.cli.test_serve import PSK_PRIORITY, TRUST
from tests.support.common import (
    compile_peer,
    compiler,
    free_udp_port,
    gnutls_cli,
    gnutls_flags,
    hello_with,
    openssl,
    peer_required,
    port_of_two,
    python_in_silence,
    udp_socket,
)
from tests.support.peers import CERTS, IDENTITY, PSK_KEY
from tests.support.run import handed, wait_until, writers
from tests.support.serve import CERT, LINE, SECONDS, Served

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="LD_PRELOAD is Linux' here")

PYTHON = [sys.executable, "-m", "gnutls_cookie"]
FILES = [str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")]


@contextmanager
def started(command: Sequence[str | Path], under: Sequence[str] | None) -> Iterator[Served]:
    """A server, alone (None) or under `run` with these options; stdout and stderr are read."""
    words = [str(word) for word in command]
    if under is not None:
        words = [*PYTHON, "run", *under, "--", *words]
    child = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield Served(child, 0)
    finally:
        child.kill()
        child.communicate()


@contextmanager
def stock_server(under: Sequence[str] | None, changes: int = 0) -> Iterator[Served]:
    """The stock recipe in C, which changes its cookie key after each of its first replies."""
    program = compile_peer("stock_server.c")
    with started([program, *FILES, str(changes)], under) as served:
        served.port = int(served.wait_for(r"port (\d+)\n")[1])
        yield served


def s_client(port: int, *more: str) -> list[str]:
    return [openssl(), "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}", *more]


X509 = ["-CAfile", TRUST, "-verify_return_error"]
PSK = ["-psk_identity", IDENTITY, "-psk", PSK_KEY.hex()]


def talks(command: list[str], seconds: float = SECONDS) -> bool:
    """Whether a client gets its line back within a time."""
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert child.stdin is not None
        child.stdin.write(LINE)
        child.stdin.flush()
        said = Served(child, 0)
        deadline = time.monotonic() + seconds
        assert child.stdout is not None
        os.set_blocking(child.stdout.fileno(), False)
        while time.monotonic() < deadline:
            said.said += child.stdout.read() or b""
            if b"\n" + LINE.strip() in said.said:
                child.stdin.close()  # it says goodbye: these servers serve one client at a time
                child.stdin = None
                child.wait(SECONDS)
                return True
            if child.poll() is not None:
                return False
            time.sleep(0.01)
        return False
    finally:
        child.kill()
        child.communicate()


# --- what it mends --------------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("changes", [1, 3])
@pytest.mark.parametrize("client", ["openssl", "gnutls-cli"])
def test_a_key_that_changed_costs_one_round_trip(client: str, changes: int) -> None:
    """Between the hellos, once and three times: one more reply each, and the client is served."""
    with stock_server([], changes) as served:
        if client == "openssl":
            command = s_client(served.port, *X509)
        else:
            command = [gnutls_cli(), "--udp", "--port", str(served.port), "--x509cafile", TRUST]
            command += ["--verify-hostname", "localhost", "127.0.0.1"]
        assert talks(command)
        served.wait_for("echo")
    assert served.said.count(b"reply 44\n") == 1 + changes
    assert served.said.count(b"verified\n") == 1


@pytest.mark.peer
def test_without_it_the_client_stalls() -> None:
    """The same server alone: the client repeats a dead cookie, and is not served in 4 seconds."""
    with stock_server(None, 1) as served:
        assert not talks(s_client(served.port, *X509), 4)
        served.wait_for("reply 44\nreply 44\n")
    assert b"verified" not in served.said


@pytest.mark.parametrize("under", [None, []], ids=["alone", "run"])
def test_junk_and_fragments(under: list[str] | None) -> None:
    """Alone the recipe answers one byte with 44, and each fragment; under run none, and one."""
    fragments = CLIENTS["openssl s_client -mtu 256, long ALPN"]
    with stock_server(under) as served, udp_socket() as sock:
        sock.connect(("127.0.0.1", served.port))
        replies = []
        for datagrams in [b"\x16"], [bytes(62)], fragments, [wire.client_hello(epoch=1)]:
            before = served.said.count(b"reply")
            for datagram in datagrams:
                sock.send(datagram)
            served.wait_for(f"(?s)(reply.*){{{before + len(datagrams)}}}")
            replies.append(0)
            sock.settimeout(0.2)
            while True:
                try:
                    assert len(sock.recv(2048)) == 44
                except TimeoutError:
                    break
                replies[-1] += 1
    assert len(fragments) > 3
    expected = [1, 1, len(fragments), 1] if under is None else [0, 0, 1, 0]
    assert replies == expected
    if under is not None:
        assert served.said.count(b"reply 0\n") == 2 + len(fragments)


@pytest.mark.parametrize("under", [None, []], ids=["alone", "run"])
def test_echo_of_both_sequences(under: list[str] | None) -> None:
    """All 48 bits of the record's, and message_seq; alone both are 0."""
    hello = wire.client_hello(record_seq=0x123456789ABC, message_seq=5)
    with stock_server(under) as served, udp_socket() as sock:
        sock.sendto(hello, ("127.0.0.1", served.port))
        reply = wire.HelloVerifyRequest.decode(sock.recv(2048))
    wanted = (0, 0) if under is None else (0x123456789ABC, 5)
    assert (reply.record_seq, reply.message_seq) == wanted


def test_server_that_peeks_into_a_short_buffer() -> None:
    """The beginning of a hello, cut behind its cookie field, is answered; a lie in it is not."""
    hello = wire.client_hello(extensions=((16, bytes(1000)),))
    assert len(hello) > 1000
    lie = bytearray(hello[:200])
    lie[24] ^= 1  # fragment_length
    with stock_server([]) as served, udp_socket() as sock:
        sock.connect(("127.0.0.1", served.port))
        for datagram, answer in (hello[:61], 44), (hello[:60], 0), (bytes(lie), 0), (hello, 44):
            served.said = b""
            sock.send(datagram)
            served.wait_for(f"reply {answer}\n")


# --- third-party servers --------------------------------------------------------------------------


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["X.509", "PSK"])
def test_gnutls_serv(kind: str, tmp_path: Path) -> None:
    """gnutls-serv --udp serves openssl and gnutls-cli under it as before."""
    program = peer_required("gnutls-serv", "apt install gnutls-bin")
    keys = tmp_path / "psk.txt"
    keys.write_text(f"{IDENTITY}:{PSK_KEY.hex()}\n")
    port = free_udp_port()
    options = CERT if kind == "X.509" else ["--pskpasswd", str(keys), "--priority", PSK_PRIORITY]
    server = [program, "--udp", "--port", str(port), *options, "--echo"]
    stats = tmp_path / "stats.json"
    with started(server, ["--stats", str(stats)]) as served:
        served.wait_for("listening on IPv4 .*done")
        assert talks(s_client(port, *(X509 if kind == "X.509" else PSK)))
        if kind == "X.509":
            command = [gnutls_cli(), "--udp", "--port", str(port), "--x509cafile", TRUST]
            assert talks([*command, "--verify-hostname", "localhost", "127.0.0.1"])
        wanted = 2 if kind == "X.509" else 1
        counters = wait_for_stats(stats, lambda one: one["verified"] == wanted)
    assert counters["challenged"] == wanted
    assert counters["left_alone"] == 0


@pytest.mark.peer
@pytest.mark.parametrize("client", ["coap-client-gnutls", "coap-client-openssl"])
def test_coap_server(client: str, tmp_path: Path) -> None:
    """coap-server-gnutls answers CoAP clients over both libraries under it as before."""
    server = peer_required("coap-server-gnutls", "apt install libcoap3-bin")
    program = peer_required(client, "apt install libcoap3-bin")
    port = port_of_two()  # the plain one; DTLS is the next
    stats = tmp_path / "stats.json"
    command = [server, "-A", "127.0.0.1", "-p", str(port), "-k", PSK_KEY.hex(), "-h", "hint"]
    with started(command, ["--stats", str(stats)]):
        ask = [program, "-u", IDENTITY, "-k", PSK_KEY.hex(), "-B", "5"]
        ask.append(f"coaps://127.0.0.1:{port + 1}/")
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            done = subprocess.run(ask, capture_output=True, text=True, timeout=SECONDS)
            if "test server" in done.stdout:
                break
            time.sleep(0.2)
        assert "test server" in done.stdout, done.stdout + done.stderr
        counters = wait_for_stats(stats, lambda one: one["verified"] >= 1)
    assert counters["challenged"] >= 1


def wait_for_stats(path: Path, fits: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The counters in a file, once they are as they have to be."""
    deadline = time.monotonic() + SECONDS
    counters: dict[str, Any] = {}
    while time.monotonic() < deadline:
        if path.exists():
            counters = json.loads(path.read_text())
            if fits(counters):
                return counters
        time.sleep(0.05)
    raise AssertionError(f"not in time: {counters}")


# --- a fleet --------------------------------------------------------------------------------------


@pytest.mark.peer
def test_one_secret_for_servers_of_all_kinds(tmp_path: Path) -> None:
    """A stock server, gnutls-serv and our serve: a cookie of each is good at each other."""
    program = peer_required("gnutls-serv", "apt install gnutls-bin")
    secret = tmp_path / "secret"
    secret.write_bytes(b"a secret of a fleet, long enough")
    secret.chmod(0o600)
    under = ["--cookie-secret-file", str(secret)]
    port = free_udp_port()
    serve = [*PYTHON, "serve", "--port", "0", *CERT, *under]
    with (
        stock_server(under) as stock,
        started([program, "--udp", "--port", str(port), *CERT], under) as theirs,
        started(serve, None) as ours,
        udp_socket() as sock,
    ):
        theirs.wait_for("listening on IPv4 .*done")
        ports = [stock.port, port, int(ours.wait_for(r"port (\d+)\n")[1])]
        cookies = set()
        for one in ports:
            sock.sendto(wire.client_hello(), ("127.0.0.1", one))
            cookies.add(wire.HelloVerifyRequest.decode(sock.recv(2048)).cookie)
        assert len(cookies) == 1
        for one in ports:
            # What comes back is not a HelloVerifyRequest: the cookie is good.
            hello = CLIENTS["openssl s_client -dtls1_2"][0]
            second = bytearray(with_cookie(hello, next(iter(cookies))))
            second[10] = second[18] = 1
            sock.sendto(bytes(second), ("127.0.0.1", one))
            assert first_answer(sock, one)[13] == 2  # ServerHello, RFC 5246 7.4


def first_answer(sock: socket.socket, port: int) -> bytes:
    """What came from that port first; flights of the others may be in between."""
    for _ in range(100):
        datagram, address = sock.recvfrom(65535)
        if address[1] == port:
            return datagram
    raise AssertionError("no answer")


def test_keys_of_a_period(tmp_path: Path) -> None:
    """The cookie is that of the period's key as KeyRing derives it."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"a secret of a fleet, long enough\n")
    secret.chmod(0o600)
    ring = KeyRing.from_secret(b"a secret of a fleet, long enough", 7)
    with (
        stock_server(["--cookie-secret-file", str(secret), "--rotate", "7"]) as served,
        udp_socket() as sock,
    ):
        before = time.time()
        sock.sendto(wire.client_hello(), ("127.0.0.1", served.port))
        cookie = wire.HelloVerifyRequest.decode(sock.recv(2048)).cookie
        who = client_data.sockaddr(sock.getsockname())
        keys = {ring.keys_at(moment)[0] for moment in (before, time.time())}
    assert cookie in {reference.cookie(key, who) for key in keys}


# --- what is recorded -----------------------------------------------------------------------------


@pytest.mark.peer
def test_what_is_recorded_is_replayed(tmp_path: Path) -> None:
    """Each call with its result; libgnutls here and the reference say the same; mode 0600."""
    file = tmp_path / "calls.jsonl"
    with stock_server(["--record", str(file)], 1) as served:
        assert talks(s_client(served.port, *X509))
        served.wait_for("echo")
        assert b"cookie keys go into" in served.said
    assert file.stat().st_mode & 0o777 == 0o600
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["operation"] for line in lines] == ["verify", "send"] * 2 + ["verify"]
    assert [line["result"] for line in lines] == [-214, 44, -214, 44, 0]
    for line in lines:
        case = case_of_json(json.dumps(line))
        assert LIBGNUTLS.answer(case) == REFERENCE.answer(case) == outcome(line)
    command = [*PYTHON, "diff", "gnutls_cookie.reference.cookie", "--replay", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0
    assert "5 cases" in done.stdout


def outcome(line: dict[str, Any]) -> tuple[object, ...]:
    """The outcome that a line of a record states."""
    after, result = tuple(line["after"]), line["result"]
    reply = bytes.fromhex(str(line.get("reply", "")))
    if int(str(result)) < 0:
        return ("error", result, reply, after)
    return ("prestate", after) if line["operation"] == "verify" else ("sent", result, reply, after)


@pytest.mark.parametrize("count", [2000, pytest.param(145_000, marks=pytest.mark.long)])
def test_calls_of_threads_and_forks_are_recorded_whole(count: int, tmp_path: Path) -> None:
    """No line is torn, and those left out are counted; the reference agrees with all others."""
    program = compile_peer("preload_calls.c", "-pthread")
    file, stats = tmp_path / "calls.jsonl", tmp_path / "stats"
    under = ["--record", str(file), "--stats", str(stats)]
    with started([program, str(count)], under) as served:
        served.wait_for("done")
        assert served.child.wait(600) == 0
    wait_until(lambda: writers(file), lambda found: not found)
    lost = json.loads(stats.read_text()).get("not_recorded", 0)
    assert lost == 0 or count > 5000  # all of them have room in the memory
    command = [*PYTHON, "diff", "gnutls_cookie.reference.cookie", "--json", "--replay", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    report = json.loads(done.stdout)
    print(report)
    assert report["findings"] == []
    assert report["compared"] + lost > 5 * count


# --- the library itself ---------------------------------------------------------------------------


def test_preloaded_library_asks_for_no_symbol_of_libgnutls() -> None:
    """So that it does no harm in a program without libgnutls that the server starts."""
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is not installed: apt install binutils")
    said = subprocess.run([nm, "-D", find_preload()], capture_output=True, text=True, check=True)
    lines = [line.split()[-2:] for line in said.stdout.splitlines()]
    assert [name for kind, name in lines if kind == "U" and "gnutls" in name] == []
    exported = {name for kind, name in lines if kind == "T"}
    assert exported == {"gnutls_dtls_cookie_verify", "gnutls_dtls_cookie_send"}
    environment = {**os.environ, "LD_PRELOAD": str(find_preload()), "LD_BIND_NOW": "1"}
    environment["GNUTLS_COOKIE_PRELOAD"] = "99 1 1"
    true = shutil.which("true") or "true"
    done = subprocess.run([true], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def make_calls(
    library: Path, options: tuple[str, ...], file: Path, *command: str, **environment: str
) -> None:
    """Run preload_calls.c with a library preloaded; it says that it is done, and nothing else."""
    given, memory = handed(library, *([*options, str(file)] if options else []))
    try:
        done = subprocess.run(
            command,
            env={**given, **environment},
            pass_fds=[memory],
            capture_output=True,
            text=True,
            timeout=300,
        )
    finally:
        os.close(memory)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("options", [(), ("--rotate", "1", "--stats"), ("--record",)], ids=str)
def test_calls_under_the_sanitizers(options: tuple[str, ...], tmp_path: Path) -> None:
    """Threads, a fork, hostile datagrams: no finding of AddressSanitizer and UBSan."""
    native = find_preload().parent / "native"
    flags = ["-std=gnu11", "-g", "-O1", "-pthread", "-fsanitize=address,undefined"]
    flags += ["-fno-sanitize-recover=all"]
    library, program = tmp_path / "preload.so", tmp_path / "calls"
    source = Path(__file__).resolve().parent.parent / "peers" / "preload_calls.c"
    trial = subprocess.run(
        [*compiler(), *flags, "-o", str(program), str(source), *gnutls_flags()],
        capture_output=True,
        text=True,
    )
    if trial.returncode != 0 and "sanitize" in trial.stderr:
        pytest.skip("no sanitizers here: apt install gcc libc6-dev")
    assert trial.returncode == 0, trial.stderr
    link = ["-shared", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-Wl,--gc-sections"]
    sources = [*sorted(map(str, (native / "preload").glob("*.c"))), str(native / "gate.c")]
    command = [*compiler(), *flags, *link, "-I", str(native), "-o", str(library), *sources]
    subprocess.run([*command, *gnutls_flags()], check=True)
    # The program has the sanitizer's library already; that one has to come first.
    runtime = subprocess.run(
        [*compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True
    ).stdout.strip()
    count = "5000" if "--record" in options else "50000"
    environment = {"LD_PRELOAD": f"{runtime}:{library}", "ASAN_OPTIONS": "detect_leaks=0"}
    make_calls(library, options, tmp_path / "file", str(program), count, **environment)


def test_closed_standard_files_stay_closed() -> None:
    """The server would take the shared memory for its input."""
    program = """
import os
from gnutls_cookie.cli.run import find_preload
from tests.support.run import handed
os.close(0)
found = handed(find_preload())
print(found.memory > 2, os.path.exists("/proc/self/fd/0"))
"""
    assert python_in_silence(program) == "True False\n"


# --- the command ----------------------------------------------------------------------------------


class Refused(Protocol):
    """Calls the command with arguments, and gives the one line in which it refuses."""

    def __call__(self, *arguments: str | Path, code: int = 2) -> str: ...


@pytest.fixture
def refused(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Refused:
    """`run` in this process, which it must not become the server of."""

    def never(program: str, *_: object) -> None:
        raise AssertionError(f"it would have become {program}")

    def call(*arguments: str | Path, code: int = 2) -> str:
        capfd.readouterr()
        assert main(["run", *map(str, arguments)]) == code
        said = capfd.readouterr()
        assert said.out == ""
        assert said.err.startswith("gnutls-cookie run: ")
        assert said.err.count("\n") == 1
        assert said.err[:-1].isprintable()
        return said.err

    monkeypatch.setattr(os, "execve", never)
    return call


def test_what_cannot_be_preloaded(refused: Refused, tmp_path: Path) -> None:
    """Each with its reason, before it is started."""
    program = compile_peer("stock_server.c")
    static, script, other, setuid = (tmp_path / n for n in ("static", "script", "other", "setuid"))
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    built = subprocess.run(
        [*compiler(), "-static", "-o", str(static), str(tmp_path / "empty.c")], capture_output=True
    )
    script.write_text("#!/bin/sh\n")
    other.write_bytes(program.read_bytes()[:18] + b"\xf3\x00" + program.read_bytes()[20:])
    text, object_file = tmp_path / "text", tmp_path / "object.o"
    text.write_text("no shebang\n")
    subprocess.run(
        [*compiler(), "-c", "-o", str(object_file), str(tmp_path / "empty.c")], check=True
    )
    for path in script, other, text, object_file:
        path.chmod(0o755)
    assert "a COMMAND is needed" in refused()
    assert "a COMMAND is needed" in refused("--")
    assert "does not use libgnutls.so.30" in refused("--", shutil.which("true") or "true")
    assert "a script; name the program that it starts" in refused("--", script)
    assert "is not an ELF program\n" in refused("--", text)
    assert "is not an ELF program\n" in refused("--", object_file)
    assert "for another architecture" in refused("--", other)
    for bits in 0o4755, 0o2755:
        shutil.copy(program, setuid)
        setuid.chmod(bits)
        assert "is setuid, setgid or has capabilities" in refused("--", setuid)
    if built.returncode == 0:
        assert "statically linked" in refused("--", static)


def test_counters_and_calls_need_a_file_each(refused: Refused, tmp_path: Path) -> None:
    """Named in two ways, too; nothing is made."""
    program = compile_peer("stock_server.c")
    (tmp_path / "folder").mkdir()
    other = tmp_path / "folder" / ".." / "file"
    said = refused("--stats", tmp_path / "file", "--record", other, "--", program)
    assert "--stats and --record need a file each" in said
    assert not (tmp_path / "file").exists()


def test_what_cannot_be_executed(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The codes of env(1): 127 for what is not found, 126 for what is not a program."""
    program = compile_peer("stock_server.c")
    plain, pipe = tmp_path / "plain", tmp_path / "pipe"
    shutil.copy(program, plain)
    plain.chmod(0o644)
    os.mkfifo(pipe, 0o777)
    monkeypatch.setenv("PATH", f"{tmp_path}:/nowhere")
    assert "there is no such program" in refused("--", "/nowhere/server", code=127)
    assert "there is no such program" in refused("--", "server", code=127)
    assert "there is no such program" in refused("--", "", code=127)
    assert "is not executable" in refused("--", plain, code=126)
    assert "is not executable" in refused("--", "plain", code=126)
    assert "is a folder" in refused("--", tmp_path, code=126)
    assert "is not a program" in refused("--", pipe, code=126)
    assert r"two\nlines" in refused("--", "/nowhere/two\nlines", code=127)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_file_capabilities_are_seen(refused: Refused, tmp_path: Path) -> None:
    """The loader preloads nothing into such a program, in silence."""
    program = tmp_path / "server"
    shutil.copy(compile_peer("stock_server.c"), program)
    # linux/capability.h, VFS_CAP_REVISION_2: cap_net_bind_service, permitted and effective
    value = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    try:
        os.setxattr(program, "security.capability", value)
    except OSError as error:
        pytest.skip(f"no capabilities of files here: {error}")
    assert "has capabilities" in refused("--", program)
    os.removexattr(program, "security.capability")
    done = subprocess.run([*PYTHON, "run", "--", program], timeout=SECONDS)
    assert done.returncode == 2  # its own: it wants arguments


def test_what_a_loader_says_is_said(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing library is named; so is a loader that is missing, or says nothing in time."""
    source, library = tmp_path / "part.c", tmp_path / "libpart.so"
    main, program = tmp_path / "main.c", tmp_path / "server"
    source.write_text("int part(void) { return 0; }\n")
    main.write_text(
        "#include <gnutls/dtls.h>\nint part(void);\n"
        "int main(void) { return part() + !gnutls_dtls_cookie_send; }\n"
    )
    build = [*compiler(), "-o"]
    subprocess.run([*build, str(library), "-shared", "-fPIC", str(source)], check=True)
    words = [str(main), f"-L{tmp_path}", "-lpart", *gnutls_flags()]
    subprocess.run([*build, str(program), *words], check=True)
    library.unlink()
    assert "libpart.so" in refused("--", program)
    for loader, text in (
        ("/nowhere/ld.so", "its loader /nowhere/ld.so cannot be executed"),
        ("/bin/false", "cannot be started by its loader"),
        ("/bin/true", "does not use libgnutls.so.30"),
    ):
        server = compile_peer("stock_server.c", f"-Wl,--dynamic-linker={loader}")
        assert text in refused("--", server)
    script = tmp_path / "ld.so"
    server = compile_peer("stock_server.c", f"-Wl,--dynamic-linker={script}")
    monkeypatch.setattr("gnutls_cookie.cli.run._LOADER_S", 2)
    for action, text in (
        ("echo 'libgnutls.so.30 => /x (0x1)'", "its loader does not take"),
        ("echo 'libx.so => not found'", "cannot be started: libx.so is missing"),
        ("echo 'a\033[31mb' >&2; exit 1", r"cannot be started by its loader: a\x1b[31mb"),
        ("exec sleep 60", "gives no answer"),
    ):
        script.write_text(f"#!/bin/sh\n{action}\n")
        script.chmod(0o755)
        assert text in refused("--", server)


def elf(**changes: int) -> bytes:
    """A header of 64 bytes, and one program header behind it that names a loader of 8 bytes."""
    fields = {"offset": 64, "entry": 56, "count": 1, "place": 120, "length": 8} | changes
    head = bytearray(find_preload().read_bytes()[:64])
    struct.pack_into("=H", head, 16, 3)  # ET_DYN
    struct.pack_into("=Q", head, 32, fields["offset"])
    struct.pack_into("=HH", head, 54, fields["entry"], fields["count"])
    numbers = (3, 0, fields["place"], 0, 0, fields["length"], 0, 0)
    return bytes(head) + struct.pack("=IIQQQQQQ", *numbers) + b"/no\xff\x1b/x\0"


@pytest.mark.skipif(sys.maxsize < 2**32, reason="headers of 64 bits")
def test_hostile_elf_headers(refused: Refused, tmp_path: Path) -> None:
    """Nothing in them leads out of the file, or to a line that a terminal obeys."""
    program = tmp_path / "server"
    whole = elf()
    contents = {
        whole: "its loader",
        whole[:3]: "is not an ELF program",
        whole[:20]: "is not an ELF program",
        whole[:64]: "is not an ELF program",
        whole[:-1]: "is not an ELF program",
        b"": "is not an ELF program",
        elf(count=0): "statically linked",
    }
    for changes in (
        *({"offset": one} for one in (2**64 - 1, 2**63, 2**62, 73, 10**6)),
        *({"entry": one} for one in (0, 2, 55, 57, 65535)),
        *({"count": one} for one in (2, 65535)),
        *({"place": one} for one in (2**64 - 1, 2**63, 121, 10**9)),
        *({"length": one} for one in (0, 1, 9, 4097, 2**63, 2**64 - 1)),
    ):
        contents[elf(**changes)] = "is not an ELF program"
    for content, text in contents.items():
        program.write_bytes(content)
        program.chmod(0o755)
        said = refused("--", program)
        assert text in said, content


def test_options_out_of_range(refused: Refused, tmp_path: Path) -> None:
    """One line each, and nothing is started or made."""
    program = compile_peer("stock_server.c")
    for option in "--stats", "--record":
        assert "no such folder" in refused(option, "/nowhere/file", "--", program)
        assert "no such folder" in refused(option, "/dev/null/file", "--", program)
        for name in ".", "..", "/":
            assert "not the name of a file" in refused(option, name, "--", program)
        assert "it is not a file" in refused(option, tmp_path, "--", program)
        assert "it is not a file" in refused(option, "/dev/null", "--", program)
        assert "File name too long" in refused(option, "x" * 300, "--", program)
    same = ["--stats", str(tmp_path / "file"), "--record", f"{tmp_path}/./file"]
    assert "a file each" in refused(*same, "--", program)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--stats", "--record"])
def test_files_that_were_prepared(option: str, refused: Refused, tmp_path: Path) -> None:
    """A link, a pipe, another user's file or folder of links: refused, and left as they are."""
    program = compile_peer("stock_server.c")
    precious, file = tmp_path / "precious", tmp_path / "file"
    precious.write_text("precious")
    precious.chmod(0o644)
    file.symlink_to(precious)
    assert "it is a symbolic link" in refused(option, file, "--", program)
    file.unlink()
    file.symlink_to(tmp_path / "nothing")
    assert "it is a symbolic link" in refused(option, file, "--", program)
    file.unlink()
    file.hardlink_to(precious)
    assert "a hard link" in refused(option, file, "--", program)
    file.unlink()
    os.mkfifo(file)
    assert "it is not a file" in refused(option, file, "--", program)
    file.unlink()
    if os.geteuid() == 0:
        file.write_text("theirs")
        os.chown(file, 65534, 65534)
        assert "it belongs to another user" in refused(option, file, "--", program)
        assert file.read_text() == "theirs"
        file.unlink()
        (tmp_path / "own").mkdir()
        link = tmp_path / "link"
        link.symlink_to(tmp_path / "own")
        os.chown(link, 65534, 65534, follow_symlinks=False)
        said = refused(option, link / "file", "--", program)
        assert "another user's symbolic link" in said
        assert list((tmp_path / "own").iterdir()) == []
    assert precious.read_text() == "precious"
    assert precious.stat().st_mode & 0o777 == 0o644
    assert not file.exists()


def test_names_of_files_are_any(tmp_path: Path) -> None:
    """A line break, a space, bytes that are not text, a long name: the files are written."""
    for name in "two\nlines", "with space", os.fsdecode(b"\xff\xfe"), "n" * 255:
        folder = tmp_path / "a folder:\nwith"
        folder.mkdir(exist_ok=True)
        stats, record = folder / name, tmp_path / name
        with stock_server(["--stats", str(stats), "--record", str(record)]) as served:
            with udp_socket() as sock:
                sock.sendto(wire.client_hello(), ("127.0.0.1", served.port))
                served.wait_for("reply 44")
            wait_for_stats(stats, lambda one: one["challenged"] == 1)
            wait_until(record.read_bytes, lambda text: text.count(b"\n") == 2)
            text = served.said.decode("utf-8", "surrogateescape")
        assert len([line for line in text.splitlines() if "gnutls-cookie run" in line]) == 1
        assert sorted(folder.iterdir()) == [stats]
        stats.unlink()
        record.unlink()


def test_counters_are_written_for_node_exporter(tmp_path: Path) -> None:
    """A file whose name ends in .prom; nothing else is left in its folder."""
    stats = tmp_path / "coap.prom"
    with stock_server(["--stats", str(stats)]) as served:
        assert b'gnutls_cookie_hellos_challenged_total{server="coap"} 0\n' in stats.read_bytes()
        with udp_socket() as sock:
            sock.sendto(wire.client_hello(), ("127.0.0.1", served.port))
            served.wait_for("reply 44")
        wanted = b'gnutls_cookie_hellos_challenged_total{server="coap"} 1\n'
        wait_until(stats.read_bytes, lambda text: wanted in text)
    assert [path.name for path in tmp_path.iterdir()] == ["coap.prom"]


def test_it_becomes_the_command() -> None:
    """The same process: its exit code, its end by a signal, and no ignored SIGPIPE."""
    program = compile_peer("stock_server.c")
    done = subprocess.run([*PYTHON, "run", "--", program], capture_output=True, timeout=SECONDS)
    assert done.returncode == 2
    done = subprocess.run(
        [*PYTHON, "run", "--", program, "/nowhere", "/nowhere", "0"], timeout=SECONDS
    )
    assert done.returncode == 3
    with stock_server([]) as served:
        status = Path(f"/proc/{served.child.pid}/status").read_text()
        ignored = int(status.partition("SigIgn:")[2].split()[0], 16)
        assert not ignored & 1 << (signal.SIGPIPE - 1)
        assert Path(f"/proc/{served.child.pid}/exe").resolve() == program.resolve()
        served.child.send_signal(signal.SIGTERM)
        assert served.child.wait(SECONDS) == -signal.SIGTERM


def test_stats_are_read(tmp_path: Path) -> None:
    """`stats FILE` prints what is in it."""
    file = tmp_path / "stats.json"
    with stock_server(["--stats", str(file)]) as served, udp_socket() as sock:
        sock.sendto(wire.client_hello(), ("127.0.0.1", served.port))
        sock.sendto(b"\x16", ("127.0.0.1", served.port))
        sock.sendto(hello_with(bytes(16)), ("127.0.0.1", served.port))
        counters = wait_for_stats(file, lambda one: one["challenged"] == 2)
        assert counters["presented"] == 1
        assert counters["discarded"] == {"record_header": 1}
    done = subprocess.run([*PYTHON, "stats", file], capture_output=True, text=True, timeout=SECONDS)
    assert done.stdout.startswith("2 challenged (1 with a cookie), 0 verified")
    assert "1 record_header" in done.stdout
    json_of = subprocess.run(
        [*PYTHON, "stats", "--json", file], capture_output=True, timeout=SECONDS
    ).stdout
    assert json.loads(json_of) == counters | {"time": json.loads(json_of)["time"]}


EMPTY = dict.fromkeys(("challenged", "presented", "verified", "verified_previous"), 0)
EMPTY["left_alone"] = 0


def test_stats_of_a_file_that_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line and exit code 2, whatever it is; nothing of it reaches the terminal."""
    file, pipe = tmp_path / "stats.json", tmp_path / "pipe"
    os.mkfifo(pipe)
    good: dict[str, Any] = EMPTY | {"discarded": {}}
    contents: list[bytes] = [b"", b"[]", b"{}", b"null", b"1", b"\xff\xfe\x00", b"[" * 50_000]
    contents += [b'{"a":' * 10_000, b" " * 70_000, json.dumps(good).encode() + b"x"]
    hostile: list[object] = [[1], {"a": "x"}, {"a": None}, {"a": 1.5}, {"a": True}, {"a": -1}, None]
    hostile += [
        {"a": 2**64},
        {"\x1b[31mEVIL\x1b]0;title\x07": 1},
        {"a\nb": 1},
        {"": 1},
        {"\x9b": 1},
    ]
    hostile += [{"a" * 41: 1}, {"a": [1]}, "x", 1, {"A": 1}, {"a": {"b": 1}}]
    contents += [json.dumps(EMPTY | {"discarded": one}).encode() for one in hostile]
    numbers: tuple[object, ...] = ("x", None, -1, 1.5, True, [], 10**400)
    for name in EMPTY:
        for number in numbers:
            contents.append(json.dumps(good | {name: number}).encode())
        contents.append(json.dumps({k: v for k, v in good.items() if k != name}).encode())
    contents.append(json.dumps(good | {"time": "\x1b[31m"}).encode())
    contents.append(json.dumps(good | {"\x1b[31m": 1}).encode())
    contents.append(json.dumps(good).replace("0", "1" * 5000, 1).encode())
    contents.append(json.dumps(good).replace("0", "NaN", 1).encode())
    for content in contents:
        file.write_bytes(content)
        with pytest.raises(ValueError, match="not the counters"):
            read_stats(file)
    file.write_text(json.dumps(good | {"discarded": {"epoch": 2}, "newer": 1}))
    assert read_stats(file)["discarded"] == {"epoch": 2}
    file.write_text('{"discarded": {"\\u001b[31mEVIL": 1}}')
    (tmp_path / "a\x1b[31m\nb").write_text("{}")
    nothing, evil = tmp_path / "nothing", tmp_path / "a\x1b[31m\nb"
    for path in file, pipe, tmp_path, nothing, evil, Path("/dev/zero"), Path("/dev/null"):
        for options in [], ["--json"]:
            assert main(["stats", *options, str(path)]) == 2
            said = capsys.readouterr()
            assert said.out == ""
            assert said.err.startswith("gnutls-cookie stats: ")
            assert said.err[:-1].isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--rotate", "1", "--stats"), ("--record",)], ids=str)
def test_calls_under_valgrind(options: tuple[str, ...], tmp_path: Path) -> None:
    """Memcheck sees what the sanitizers do not: values that were never set."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        pytest.skip("no valgrind here: apt install valgrind libc6-dbg")
    program = compile_peer("preload_calls.c", "-pthread")
    file = tmp_path / "file"
    command = [valgrind, "-q", "--error-exitcode=9", "--leak-check=full", str(program), "500"]
    make_calls(find_preload(), options, file, *command)
    assert not options or wait_until(file.read_bytes, lambda text: text.count(b"\n") > 0)
