"""The programs in examples/ as a person meets them: Ctrl-C, and a server that is not there."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.support.common import ROOT, free_udp_port, python_peer, running
from tests.support.peers import CERTS

CERT, KEY = str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")
FILES = ["--cert", CERT, "--key", KEY, "--trust", CERT]
PSK = ["--psk", "sensor-1:736563726574"]
NAMED = ["app", "736563726574"]
AREA = ["--area", "1a8d99cc-967b-44f2-9202-43f976c0fa6b"]

SERVERS = [
    ["coap_aiocoap.py", "serve", "127.0.0.1", "PORT", *PSK],
    ["dtls_trio.py", "PORT"],
    ["hue_entertainment_dtls.py", "bridge", "127.0.0.1", *NAMED, "--port", "PORT"],
    ["own_sessions.py", "127.0.0.1", "PORT", *NAMED],
    ["radius_dtls.py", "serve", "127.0.0.1", *FILES, "--port", "PORT"],
    ["syslog_dtls.py", "collect", "127.0.0.1", *FILES, "--port", "PORT"],
]
CLIENTS = [
    ["coap_aiocoap.py", "get", "coaps://127.0.0.1:PORT/time", *PSK],
    ["hue_entertainment_dtls.py", "stream", "127.0.0.1", *NAMED, *AREA, "--port", "PORT"],
    ["radius_dtls.py", "ask", "127.0.0.1", "a:b", *FILES, "--port", "PORT"],
    ["syslog_dtls.py", "send", "127.0.0.1", *FILES, "--port", "PORT"],
]


def program(words: list[str]) -> list[str]:
    """The command, with a free port."""
    for name in "aiocoap", "trio":
        if name in words[0]:
            python_peer(name)
    port = str(free_udp_port())
    example, *rest = (word.replace("PORT", port) for word in words)
    return [sys.executable, str(ROOT / "examples" / example), *rest]


@pytest.mark.parametrize("words", SERVERS, ids=lambda words: words[0])
def test_ctrl_c_ends_a_server_in_silence(words: list[str]) -> None:
    """After the line that says where it serves."""
    with running(program(words)) as server:
        assert server.stdout is not None
        assert b"127.0.0.1" in server.stdout.readline()
        server.send_signal(signal.SIGINT)
        assert (server.communicate(timeout=60)[0], server.returncode) == (b"", 0)


@pytest.mark.parametrize("words", CLIENTS, ids=lambda words: words[0])
def test_a_client_says_in_one_line_that_nobody_serves(words: list[str]) -> None:
    """The program and the error, and exit code 1."""
    done = subprocess.run(
        program(words), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (1, "")
    name, _, error = done.stderr.partition(": ")
    assert name == words[0]
    assert error.endswith("Connection refused\n")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("hue_entertainment_dtls.py bridge 127.0.0.1 a zz", "a key in hexadecimal is needed"),
        ("hue_entertainment_dtls.py bridge 192.0.2.1 a 00", "Cannot assign requested address"),
        ("own_sessions.py", "the following arguments are required: host, port, identity, key"),
        ("own_sessions.py 127.0.0.1 0 a zz", "a key in hexadecimal is needed, not 'zz'"),
        ("own_sessions.py 127.0.0.1 x a 00", "a port in 0..65535 is needed, not 'x'"),
        ("own_sessions.py 127.0.0.1 65536 a 00", "a port in 0..65535 is needed"),
        ("own_sessions.py 192.0.2.1 0 a 00", "Cannot assign requested address"),
    ],
)
def test_wrong_arguments_are_one_line(words: str, text: str) -> None:
    """No traceback."""
    done = subprocess.run(program(words.split()), capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert text in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
