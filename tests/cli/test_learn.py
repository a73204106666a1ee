"""gnutls-cookie learn: the cookie stage of a server as a state machine, and what is wrong in it."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("aalpy", reason="pip install aalpy")

from gnutls_cookie.cli import main
from gnutls_cookie.differential.learn import (
    FellSilent,
    Silent,
    Unsteady,
    learn,
    reference_machine,
)
from gnutls_cookie.differential.machine import (
    LETTERS,
    OTHER_NUMBER,
    ReferenceServer,
    differences,
)
from gnutls_cookie.reference import cookie as reference
from tests.support.common import (
    compile_peer,
    free_udp_port,
    peer_required,
    port_of_two,
    udp_socket,
)
from tests.support.probe_peers import CERT, KEY, PEERS_ASKED
from tests.support.probe_peers import serving as serving_peer
from tests.support.serve import serving

HELLO_VERIFY_REQUEST = reference.hello_verify_request(b"key", b"client", reference.Prestate())
ALERT = b"\x15\xfe\xfd" + bytes(8) + b"\0\2\2\x0a"


def test_the_reference_has_three_states() -> None:
    """Nothing known, a cookie known, a session; and it differs in nothing from itself."""
    machine = reference_machine()
    assert len(machine.steps) == 3
    assert differences(machine, machine) == []
    for letter in LETTERS:
        output, after = machine.steps[0][letter]
        hello = letter in ("hello", "cookie", "wrong cookie")
        assert (output, after) == (("HelloVerifyRequest", 1) if hello else ("-", 0))
    assert machine.steps[1]["cookie"] == ("ServerHello", 2)
    assert "cookie: ServerHello, then state 2" in machine.table()
    assert '1 -> 2 [label="cookie / ServerHello"]' in machine.dot()


class Faulty(ReferenceServer):
    """The reference with one fault of FAULTS."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self._fault = fault
        self._asked = 0

    def answer(self, datagram: bytes, expected: int | None = None) -> list[bytes]:
        """The reference's answer, or the fault's."""
        found = super().answer(datagram, expected)
        kind = datagram[:1]
        if self._fault == "application data is challenged" and kind == b"\x17":
            return [] if self._connected else [HELLO_VERIFY_REQUEST]
        if self._fault == "application data ends a handshake" and kind == b"\x17":
            return [ALERT] if self._connected else []
        if self._fault == "two answers" and len(found) == 1 and not self._connected:
            return found * 2
        if self._fault == "the second cookie alone is good":
            self._asked += self._connected
            if self._asked == 1:
                self._connected, self._asked = False, 2
                return []
        if self._fault == "message_seq is always 0" and found:
            return [found[0][:17] + bytes(2) + found[0][19:]]
        return found


@pytest.mark.parametrize(
    ("fault", "letters", "output"),
    [
        ("application data is challenged", ("application data",), "HelloVerifyRequest"),
        ("application data ends a handshake", ("hello", "cookie", "application data"), "alert 10"),
        ("two answers", ("hello",), "2 times HelloVerifyRequest"),
        ("the second cookie alone is good", ("hello", "cookie"), "-"),
        ("message_seq is always 0", ("hello", "hello"), OTHER_NUMBER),
    ],
)
def test_a_fault_is_the_shortest_sequence_that_shows_it(
    fault: str, letters: tuple[str, ...], output: str
) -> None:
    """Each by what is sent, in its order, and what comes in the place of the right answer."""
    found = differences(reference_machine(), learn(lambda: Faulty(fault).answer))
    assert (letters, output) in {(one.letters, one.output) for one in found}
    assert str(found[0]).startswith("after ")


def test_a_server_that_falls_silent_is_told() -> None:
    """With what was sent last."""
    fallen: list[bytes] = []

    def connect() -> Callable[[bytes, int | None], list[bytes]]:
        server = ReferenceServer()

        def exchange(datagram: bytes, expected: int | None) -> list[bytes]:
            fallen.extend([datagram] if len(datagram) == 1 else [])
            return [] if fallen else server.answer(datagram, expected)

        return exchange

    with pytest.raises(FellSilent, match="one byte"):
        learn(connect)
    with pytest.raises(Silent, match="no answer to a first"):
        learn(connect)


def test_servers_are_asked_side_by_side() -> None:
    """Two of one kind are asked at the same time, and make one machine."""
    meet, met = threading.Barrier(2, timeout=20), threading.Event()

    def connect() -> Callable[[bytes, int | None], list[bytes]]:
        if threading.current_thread() is not threading.main_thread() and not met.is_set():
            meet.wait()
            met.set()
        return ReferenceServer().answer

    assert differences(reference_machine(), learn(connect, others=[connect])) == []
    assert met.is_set()


def test_a_server_that_answers_by_chance_is_told() -> None:
    """And one that loses a datagram now and then is learned all the same."""
    chance = random.Random(3)

    def losing(rate: float) -> Callable[[], Callable[[bytes, int | None], list[bytes]]]:
        def connect() -> Callable[[bytes, int | None], list[bytes]]:
            server = ReferenceServer()
            return lambda datagram, _: [] if chance.random() < rate else server.answer(datagram)

        return connect

    assert differences(reference_machine(), learn(losing(0.01))) == []
    with pytest.raises((Unsteady, Silent)):
        learn(losing(0.6))


@pytest.mark.slow
def test_our_server_is_the_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 0, the machine as text, as JSON and for Graphviz."""
    passwords = tmp_path / "psk"
    passwords.write_text("a:30313233343536373839616263646566\n")
    passwords.chmod(0o600)
    with serving("--pskpasswd", str(passwords)) as served:
        arguments = ["learn", "127.0.0.1", str(served.port), "--walks", "5", "--wait", "0.1"]
        assert main([*arguments, "--json", "--dot", str(tmp_path / "machine.dot")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["differences"] == []
    assert len(found["states"]) == 3
    assert (tmp_path / "machine.dot").read_text().startswith("digraph")


@pytest.mark.slow
@pytest.mark.peer
def test_fault_of_libcoap_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """It answers a record of application data by a HelloVerifyRequest, and numbers each with 0."""
    program = peer_required("coap-server-gnutls", "apt install libcoap3-bin")
    port = port_of_two()  # DTLS is on the next one
    start = f"{program} -A {{host}} -p {port} -k secret"
    options = ["--wait", "0.1", "--walks", "5", "--start", start]
    assert main(["learn", "127.0.0.1", str(port + 1), *options]) == 1
    said = capsys.readouterr().out
    assert "application data: 'HelloVerifyRequest" in said
    assert f"after hello, hello: {OTHER_NUMBER!r}" in said


@pytest.mark.long  # gnutls-serv spins meanwhile; test_a_server_that_is_not_started_again_is_told
@pytest.mark.peer
def test_fault_of_gnutls_serv_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    """It peeks at what it does not consume, and answers nobody again; several are asked at once."""
    program = peer_required("gnutls-serv", "apt install gnutls-bin")
    port = free_udp_port()
    start = f"{program} --udp --port {{port}} --x509certfile {CERT} --x509keyfile {KEY}"
    options = ["--wait", "0.1", "--walks", "0", "--start", start]
    assert main(["learn", "127.0.0.1", str(port), *options]) == 1
    said = capsys.readouterr().out
    assert "after application data, hello: '-' where 'HelloVerifyRequest' is right" in said
    assert f"after hello, hello: {OTHER_NUMBER!r}" in said


@pytest.mark.slow
@pytest.mark.peer
def test_a_server_that_is_not_started_again_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """It fell silent at what learn sent: that is no machine, and --start is named."""
    with serving_peer(PEERS_ASKED["gnutls-serv --udp"]) as port:
        assert main(["learn", "127.0.0.1", str(port), "--wait", "0.1", "--walks", "0"]) == 2
    said = capsys.readouterr().err
    assert "no hello any more; sent last: hello; empty, hello" in said
    assert "--start" in said


@pytest.mark.slow
@pytest.mark.peer
def test_a_server_of_one_client_is_started_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The recipe of GnuTLS' manual answers anything, and nobody else while it has a client."""
    server = compile_peer("stock_server.c")
    port = free_udp_port()
    command = f"env PORT={{port}} {server} {CERT} {KEY} 0"
    options = ["--wait", "0.1", "--walks", "3", "--start", command]
    assert main(["learn", "127.0.0.1", str(port), *options]) == 1
    said = capsys.readouterr().out
    assert "after one byte: 'HelloVerifyRequest' where '-' is right" in said
    assert "  cookie: ServerHello, then state 2" in said
    assert int(re.findall(r"(\d+) starts of the server", said)[0]) > 5
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind(("127.0.0.1", port))  # the last one has ended


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("sh -c 'echo no such key; exit 3'", "exit code 3; it printed: no such key"),
        ("no-such-program {port}", "no-such-program: not found"),
        ("", "no command"),
        ("'", "No closing quotation"),
    ],
)
def test_a_server_that_does_not_start_is_told(
    command: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, with what it printed."""
    port = str(free_udp_port())
    assert main(["learn", "127.0.0.1", port, "--wait", "0.01", "--start", command]) == 2
    assert said in capsys.readouterr().err


def test_a_server_that_is_there_already_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """It would be learned in the place of the one that is started."""
    with udp_socket() as there:
        there.settimeout(20)
        answer = threading.Thread(target=lambda: there.sendto(b"x", there.recvfrom(2048)[1]))
        answer.start()
        try:
            port = str(there.getsockname()[1])
            assert main(["learn", "127.0.0.1", port, "--wait", "5", "--start", "true"]) == 2
        finally:
            answer.join()
    assert "a server answers there already" in capsys.readouterr().err


def test_nobody_there(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line; a bad option likewise; so without AALpy."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        port = str(silent.getsockname()[1])
        assert main(["learn", "127.0.0.1", port, "--wait", "0.01"]) == 2
    assert "no answer to a first ClientHello" in capsys.readouterr().err
    assert main(["learn", "127.0.0.1", port, "--wait", "-1"]) == 2
    assert "--wait" in capsys.readouterr().err
    for name in ("a..b", "x" * 300, "\udcff"):
        assert main(["learn", name, port, "--wait", "10"]) == 2
        assert re.fullmatch(r"gnutls-cookie learn: .+\n", capsys.readouterr().err)
    assert main(["learn", "127.0.0.1", port, "--wait", "10", "--dot", "/"]) == 2
    assert "/: Is a directory" in capsys.readouterr().err  # before anything is asked


def test_without_aalpy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """It is an extra: the command says how to install it."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert main(["learn", "127.0.0.1", "1"]) == 2
    assert "pip install aalpy" in capsys.readouterr().err
