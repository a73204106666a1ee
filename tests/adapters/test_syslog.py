"""examples/syslog_dtls.py: syslog over DTLS (RFC 6012), with OpenSSL and rsyslog as peers."""

from __future__ import annotations

import importlib.util
import logging
import queue
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import blocking
from tests.support.common import ROOT, free_udp_port, peer_required
from tests.support.peers import CERTS, certificate
from tests.support.servers import SECONDS, bounded

EXAMPLE = ROOT / "examples" / "syslog_dtls.py"
PEM, KEY = str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")
FILES = ("--cert", PEM, "--key", KEY, "--trust", PEM)
RFC_5424 = re.compile(rb"<(\d+)>1 [-\dT:.]+\+00:00 [!-~]+ (\S+) \d+ - - (.*)", re.DOTALL)


@pytest.fixture(scope="module")
def syslog() -> Any:
    """The module."""
    spec = importlib.util.spec_from_file_location("syslog_dtls", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server() -> Iterator[tuple[blocking.DTLSServer, queue.Queue[bytes | None]]]:
    """A server, and the records that it gets; None is a client's goodbye."""
    records: queue.Queue[bytes | None] = queue.Queue()

    def handler(connection: blocking.Connection) -> None:
        for record in connection:
            records.put(record)
        records.put(None)

    with blocking.start_server(
        handler, "127.0.0.1", 0, credentials=certificate(trust="localhost"), verify_peer=True
    ) as running:
        yield running, records


def handler_of(syslog: Any, port: int, **options: Any) -> logging.Handler:
    """A handler that sends to a server here."""
    credentials = certificate(trust="localhost")
    made = syslog.SyslogHandler("127.0.0.1", port, credentials, "localhost", **options)
    assert isinstance(made, logging.Handler)
    return made


# --- frames ---------------------------------------------------------------------------------------


def test_a_record_has_several_messages(syslog: Any) -> None:
    """Each behind its length; or one alone, of a sender that writes none."""
    several = [b"<14>1 - - - - - - one", b"<14>1 - - - - - - <two>\n", b"x"]
    assert list(syslog.messages(b"".join(map(syslog.frame, several)))) == several
    assert list(syslog.messages(b"<14>Nov 28 here: bare\n")) == [b"<14>Nov 28 here: bare"]


@pytest.mark.parametrize(
    "rest", [b"x", b"0 ", b"01 x", b"-1 x", b"5 four", b"12", b" ", b"4 a\0b", b"99999999 x"]
)
def test_what_is_no_frame_ends_a_record(syslog: Any, rest: bytes) -> None:
    """What came before it is taken."""
    found: list[bytes] = []
    with pytest.raises(ValueError, match="not a frame"):
        found.extend(message for message in syslog.messages(b"3 one" + rest))
    for message in (taken := syslog.messages(b"3 one" + rest)):
        assert message == b"one"
        break
    taken.close()


# --- the handler ----------------------------------------------------------------------------------


def test_what_is_logged_is_sent(syslog: Any, server: Any) -> None:
    """In the format of RFC 5424, with its severity; cut at what a datagram carries."""
    running, records = server
    logger = logging.Logger("a name")
    logger.addHandler(handler_of(syslog, running.address[1]))
    try:
        for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.FATAL):
            logger.log(level, "%s is ü", level)
        logger.info("\u20ac" * 9000)
        found = [syslog_of(syslog, records) for _ in range(6)]
    finally:
        logger.handlers[0].close()
    assert [pri for pri, _, _ in found] == [b"15", b"14", b"12", b"11", b"10", b"14"]
    assert {name for _, name, _ in found} == {b"a_name"}
    assert found[1][2].decode() == "20 is ü"
    assert 1000 < len(found[5][2]) < 1500
    assert set(found[5][2].decode()) == {"\u20ac"}
    assert records.get(timeout=SECONDS) is None


def syslog_of(syslog: Any, records: queue.Queue[bytes | None]) -> tuple[bytes, bytes, bytes]:
    """Priority, name and text of the one message in the next record."""
    record = records.get(timeout=SECONDS)
    assert record is not None
    (message,) = syslog.messages(record)
    matched = RFC_5424.fullmatch(message)
    assert matched is not None, message
    return matched[1], matched[2], matched[3]


def test_a_connection_is_renewed(syslog: Any, server: Any) -> None:
    """After its time: a collector that was started again would know us by that alone."""
    running, records = server
    logger = logging.Logger("renewed")
    logger.addHandler(handler_of(syslog, running.address[1], renew=0, bare=True))
    try:
        for text in "one", "two":
            logger.info(text)
        found = [records.get(timeout=SECONDS) for _ in range(3)]
    finally:
        logger.handlers[0].close()
    texts = [one and one.rpartition(b" ")[2] for one in found]
    assert sorted(texts, key=str) == [None, b"one", b"two"]


# --- the collector --------------------------------------------------------------------------------


@contextmanager
def collector(*names: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The program, for senders of these names: its port, and itself."""
    port = free_udp_port()
    senders = [word for name in names for word in ("--sender", name)]
    with running(
        sys.executable, EXAMPLE, "collect", "127.0.0.1", "--port", port, *FILES, *senders
    ) as child:
        assert said(child) == f"syslog over DTLS on 127.0.0.1 port {port}\n"
        yield port, child


@contextmanager
def running(*command: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A program that is ended."""
    child = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, **options)
    try:
        yield child
    finally:
        child.kill()
        child.communicate(timeout=SECONDS)


def said(child: subprocess.Popen[str]) -> str:
    """The next line of a program."""
    assert child.stdout is not None
    with bounded(int(SECONDS)):
        return child.stdout.readline()


def sent(port: int, text: str, *options: str, files: tuple[str, ...] = FILES) -> str:
    """What the program says that sends lines."""
    command = [sys.executable, str(EXAMPLE), "send", "127.0.0.1", "--port", str(port)]
    command += [*files, "--server-name", "localhost", *options]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS)
    return done.stderr


def test_lines_of_a_sender_with_the_right_name() -> None:
    """What is not text is shown as what it is: no line of its own, nothing for a terminal."""
    with collector("nobody", "localhost") as (port, child):
        assert sent(port, "first\n\x1b[2Jsecond\n") == ""
        first, second = said(child), said(child)
        assert re.match(r"localhost <14>1 .* syslog_dtls \d+ - - first\n$", first)
        assert second.endswith(" - - \\x1b[2Jsecond\n")


def test_senders_that_are_not_served() -> None:
    """A certificate that nobody vouches for, and a good one of another name."""
    stranger = tuple(word.replace("localhost", "stranger") for word in FILES[:4])
    with collector("web") as (port, child):
        sent(port, "x\n")  # it may see the goodbye, or not
        assert "syslog_dtls.py: " in sent(port, "y\n", files=(*stranger, *FILES[4:]))
        child.terminate()
        output, _ = child.communicate(timeout=SECONDS)
        assert output == ""


@pytest.mark.peer
def test_openssl_is_a_sender() -> None:
    """With its certificate; two frames that it writes at once."""
    openssl = peer_required("openssl", "apt install openssl")
    with collector("localhost") as (port, child):
        command = [openssl, "s_client", "-dtls1_2", "-connect", f"127.0.0.1:{port}", "-quiet"]
        command += ["-cert", PEM, "-key", KEY, "-CAfile", PEM, "-verify_return_error"]
        with running(*command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as client:
            assert client.stdin is not None
            client.stdin.write("21 <14>1 - - - - - - one21 <14>1 - - - - - - two")
            client.stdin.flush()
            assert said(child) == "localhost <14>1 - - - - - - one\n"
            assert said(child) == "localhost <14>1 - - - - - - two\n"


# --- rsyslog --------------------------------------------------------------------------------------


@contextmanager
def rsyslog(folder: Path, config: str) -> Iterator[Path]:
    """rsyslogd with this configuration, in a folder of its own."""
    program = shutil.which("rsyslogd", path="/usr/sbin:/usr/bin")
    if program is None or not list(Path("/usr/lib").glob("*/rsyslog/omdtls.so")):
        pytest.skip("no rsyslog with omdtls: apt install rsyslog-openssl, from Debian 13 on")
    file = folder / "rsyslog.conf"
    file.write_text(f'global(workDirectory="{folder}")\n{config}')
    with running(program, "-n", "-f", file, "-i", folder / "pid"):
        yield folder


@pytest.mark.peer
def test_rsyslog_is_a_sender(tmp_path: Path) -> None:
    """Its omdtls, with the certificate that we ask for, and a template of RFC 5424."""
    with ExitStack() as stack:
        port, child = stack.enter_context(collector("localhost"))
        pipe = tmp_path / "lines"
        pipe.touch()
        stack.enter_context(
            rsyslog(
                tmp_path,
                f"""
module(load="imfile" mode="inotify")
module(load="omdtls")
input(type="imfile" file="{pipe}" tag="here:" facility="user" severity="info")
action(type="omdtls" target="127.0.0.1" port="{port}" template="RSYSLOG_SyslogProtocol23Format"
       tls.authmode="certvalid" tls.cacert="{PEM}" tls.mycert="{PEM}" tls.myprivkey="{KEY}")
""",
            )
        )
        with bounded(int(SECONDS)):
            with pipe.open("a") as lines:
                lines.write("a line\n")
            shown = ""
            while "a line" not in shown:
                shown = said(child)
        assert re.match(r"localhost <14>1 .* here - - .*a line\n$", shown)


@pytest.mark.peer
def test_rsyslog_is_a_collector(tmp_path: Path) -> None:
    """Its imdtls, which wants no lengths, and binds to an address with its bytes turned round."""
    port, file = free_udp_port(), tmp_path / "messages"
    config = f"""
module(load="imdtls")
input(type="imdtls" port="{port}" tls.authmode="certvalid"
      tls.cacert="{PEM}" tls.mycert="{PEM}" tls.myprivkey="{KEY}")
action(type="omfile" file="{file}" template="RSYSLOG_SyslogProtocol23Format")
"""
    with rsyslog(tmp_path, config):
        deadline = time.monotonic() + SECONDS
        while "a line" not in (file.read_text() if file.exists() else ""):
            assert time.monotonic() < deadline
            sent(port, "a line\n", "--bare")
    assert re.search(r"^<14>1 .* syslog_dtls \d+ - - +a line$", file.read_text(), re.MULTILINE)
