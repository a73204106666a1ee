"""`serve --metrics`: what a scraper sees of all workers, and what a hostile one can do."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from gnutls_cookie.blocking import connect
from gnutls_cookie.credentials import certificate_validity
from tests.support.common import running
from tests.support.peers import CERTS, trusting
from tests.support.serve import (
    CERT,
    SECONDS,
    Served,
    client,
    command,
    echoes,
    serving,
    wait_until,
    workers_of,
)

prometheus_parser = pytest.importorskip("prometheus_client.parser")

OPENMETRICS = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}


@contextmanager
def measured(*options: str, host: str = "127.0.0.1") -> Iterator[tuple[Served, int]]:
    """A server with metrics, and their port."""
    with serving(*CERT, "--metrics", f"{host}:0", *options) as served:
        where = re.escape(host)
        port = int(served.wait_for(rf"metrics at http://{where}:(\d+)/metrics\n")[1])
        yield served, port


def request(
    port: int,
    method: str = "GET",
    path: str = "/metrics",
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
) -> tuple[http.client.HTTPResponse, str]:
    """An answer and its text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer, answer.read().decode()
    finally:
        connection.close()


def samples(text: str) -> dict[str, float]:
    """Numbers by name and label values."""
    return {
        f"{sample.name}{''.join(f' {value}' for value in sample.labels.values())}": sample.value
        for family in prometheus_parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(port: int) -> dict[str, float]:
    """The numbers, without their common prefix."""
    answer, text = request(port)
    assert answer.status == 200
    return {name.removeprefix("gnutls_cookie_"): value for name, value in samples(text).items()}


def raw(port: int, data: bytes) -> bytes:
    """What is answered to some bytes, until the server closes."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as sock:
        sock.sendall(data)
        found = b""
        while more := sock.recv(65536):
            found += more
        return found


@pytest.mark.parametrize("workers", ["1", "3"])
def test_numbers_are_those_of_all_workers(workers: str) -> None:
    """Sessions, messages, refused datagrams: as many as there were, wherever they came to."""
    with measured("--workers", workers) as (served, port):
        with ExitStack() as stack:
            for _ in range(6):
                connection = stack.enter_context(client(served.port))
                connection.send(b"hello")
                assert connection.receive(timeout=SECONDS) == b"hello"
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                    sock.sendto(b"?", ("127.0.0.1", served.port))
            wait_until(lambda: scrape(port)["messages_sent_total"] >= 6, "told")
            wait_until(
                lambda: scrape(port)["datagrams_discarded_total record_header"] == 6, "counted"
            )
            found = scrape(port)
        assert found["sessions established"] == 6
        assert found["handshakes_completed_total"] == 6
        assert found["hellos_verified_total current"] == 6
        assert found["hellos_challenged_total"] >= 6
        assert found["messages_received_total"] == found["messages_sent_total"] == 6
        assert found["workers"] == int(workers)
        assert found["worker_restarts_total"] == 0
        wait_until(lambda: scrape(port)["sessions_closed_total peer"] == 6, "closed")
        assert scrape(port)["sessions established"] == 0
        assert served.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_resumed_handshakes_are_counted(workers: int) -> None:
    """A client that comes back with a ticket, at whichever worker, after all were killed too."""
    with measured("--workers", str(workers)) as (served, port):
        with client(served.port) as connection:
            assert echoes(connection)
            data = connection.session.session_data
        assert data is not None
        for number in range(4):
            if number == 2:
                for pid in workers_of(served):
                    os.kill(pid, signal.SIGKILL)
                wait_until(lambda: scrape(port)["worker_restarts_total"] == workers, "started")
            with connect(
                "127.0.0.1",
                served.port,
                credentials=trusting(),
                server_name="localhost",
                resume=data,
                handshake_timeout=SECONDS,
            ) as connection:
                assert echoes(connection)
                assert connection.session.resumed
            wait_until(
                lambda number=number: scrape(port)["handshakes_resumed_total"] == number + 1,  # type: ignore[misc]
                "counted",
            )
        assert served.end() == 0


def test_openmetrics_is_given_to_whom_asks_for_it() -> None:
    """Prometheus does, by the field Accept; both are read by the parsers of prometheus_client."""
    parser = pytest.importorskip("prometheus_client.openmetrics.parser")
    with measured() as (served, port):
        answer, text = request(port, headers=OPENMETRICS)
        assert (answer.headers["Content-Type"] or "").startswith("application/openmetrics-text; ")
        newer = {one.name: one.type for one in parser.text_string_to_metric_families(text)}
        answer, text = request(port)
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        older = list(prometheus_parser.text_string_to_metric_families(text))
        assert len(newer) == len(older)
        assert newer["gnutls_cookie_build"] == "info"
        assert served.end() == 0


def test_counters_never_go_back_when_workers_are_killed() -> None:
    """What the dead have counted stays, their sessions do not, and each restart is counted."""
    with measured("--workers", "2") as (served, port):
        for _ in range(4):
            with client(served.port) as connection:
                assert echoes(connection)
        wait_until(lambda: scrape(port)["handshakes_completed_total"] == 4, "told")
        with client(served.port) as connection:
            assert echoes(connection)
            wait_until(lambda: scrape(port)["sessions established"] == 1, "told of the open one")
            for number in range(3):
                before = workers_of(served)
                for pid in before:
                    os.kill(pid, signal.SIGKILL)
                wait_until(
                    lambda number=number: scrape(port)["worker_restarts_total"] == 2 + 2 * number,  # type: ignore[misc]
                    "started again",
                )
                wait_until(lambda: scrape(port)["workers"] == 2, "serving")
        found = scrape(port)
        assert found["handshakes_completed_total"] == 5
        assert found["sessions established"] == 0
        with client(served.port) as connection:
            assert echoes(connection)
        wait_until(lambda: scrape(port)["handshakes_completed_total"] == 6, "counted on")
        assert served.end() == 0


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"GET /metrics?name=x HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 40000\r\n\r\n" + b"x" * 40_000, 405),
        (b"get /metrics HTTP/1.1\r\n\r\n", 405),
        (b"GET /metrics\r\n\r\n", 400),
        (b"GET  /metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/2\r\n\r\n", 400),
        (b"\x16\xfe\xfd\x00\r\n\r\n", 400),
        (b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 4000, 431),
        (b"x" * 20_000, 431),
    ],
)
def test_requests_and_their_status(data: bytes, status: int, metrics: tuple[Served, int]) -> None:
    """One answer with its length, then the end of the connection, whatever is asked."""
    head, _, body = raw(metrics[1], data).partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0].startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in lines
    assert b"Content-Length: %d" % len(body) in lines
    assert (b"Allow: GET, HEAD" in lines) == (status == 405)


@pytest.fixture(scope="module")
def metrics() -> Iterator[tuple[Served, int]]:
    with measured() as found:
        yield found
        assert found[0].end() == 0


def test_head_has_no_body(metrics: tuple[Served, int]) -> None:
    """It says how long the page would be (RFC 9110 9.3.2)."""
    for path, status in ("/metrics", 200), ("/", 404):
        answer, text = request(metrics[1], "HEAD", path)
        assert (answer.status, text) == (status, "")
        assert int(answer.headers["Content-Length"]) > 0


def test_scrapers_that_say_nothing_keep_nobody_out(metrics: tuple[Served, int]) -> None:
    """A hundred connections, silent or in the middle of a line: the next is answered, and so are
    clients."""
    served, port = metrics
    with ExitStack() as stack:
        socks = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), SECONDS))
            for _ in range(100)
        ]
        for sock in socks[::2]:
            with suppress(OSError):  # it had to give way
                sock.sendall(b"GET /met")
        for _ in range(3):
            assert scrape(port)["workers"] == 1
            with client(served.port) as connection:
                assert echoes(connection)


def test_flood_of_scrapes_is_bounded(metrics: tuple[Served, int]) -> None:
    """However fast they ask, there are so many answers in a second; clients are served, and whoever
    asks afterwards is answered."""
    served, port = metrics
    before, count = time.monotonic(), 0
    while time.monotonic() - before < 1:
        count += scrape(port)["workers"] == 1
    assert 0 < count <= 170 * (time.monotonic() - before) + 10
    with client(served.port) as connection:
        assert echoes(connection)


def test_scraper_that_does_not_end_is_ended(metrics: tuple[Served, int]) -> None:
    """One says nothing, one does not go away after its answer: both are closed in some seconds."""
    _, port = metrics
    with (
        socket.create_connection(("127.0.0.1", port), SECONDS) as silent,
        socket.create_connection(("127.0.0.1", port), SECONDS) as lasting,
    ):
        lasting.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        while lasting.recv(65536):
            pass
        assert silent.recv(1) == b""


def test_place_that_cannot_be_had() -> None:
    """A port in use is exit code 1, what is no place 2; one line each, before "serving"."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        used = f"127.0.0.1:{taken.getsockname()[1]}"
        for where, code in (
            (used, 1),
            ("192.0.2.1:0", 1),
            ("9100", 2),
            (":9100", 2),
            ("127.0.0.1:", 2),
            ("127.0.0.1:65536", 2),
            ("127.0.0.1:-1", 2),
            ("::1:9100", 2),
            ("[::1]", 2),
            (f"{'x' * 64}.example:1", 2),
        ):
            done = subprocess.run(
                command(*CERT, "--quiet", "--metrics", where),
                capture_output=True,
                text=True,
                timeout=SECONDS,
            )
            assert (done.returncode, done.stdout) == (code, ""), (where, done.stderr)
            last = done.stderr.splitlines()[-1]
            assert last.startswith("gnutls-cookie serve: "), done.stderr
            assert "metrics" in last
            assert "Traceback" not in done.stderr


def test_metrics_over_ipv6() -> None:
    """An address in brackets."""
    with measured("--workers", "2", host="[::1]") as (served, port):
        with socket.create_connection(("::1", port), SECONDS) as sock:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert sock.recv(12) == b"HTTP/1.1 200"
        assert served.end() == 0


def test_expiry_of_the_certificate(tmp_path: Path) -> None:
    """Of the one that is served, after SIGHUP as well."""

    def install(name: str) -> int:
        for kind in "pem", "key":
            shutil.copy(CERTS / f"{name}.{kind}", tmp_path / f"mine.{kind}")
        return certificate_validity(files[0].read_bytes())[1]

    files = tmp_path / "mine.pem", tmp_path / "mine.key"
    first = install("localhost")
    words = "--x509certfile", str(files[0]), "--x509keyfile", str(files[1])
    with serving(*words, "--metrics", "127.0.0.1:0") as served:
        port = int(served.wait_for(r"metrics at http://127.0.0.1:(\d+)/")[1])
        name = f"certificate_expiry_timestamp_seconds {files[0]}"
        assert scrape(port)[name] == first
        second = install("localhost-rsa")
        served.child.send_signal(signal.SIGHUP)
        wait_until(lambda: scrape(port)[name] == second, "the new one")


def test_place_of_the_metrics_in_json() -> None:
    """In the object that says where it serves."""
    words = command(*CERT, "--json", "--metrics", "127.0.0.1:0")
    with running(words) as child:
        served = Served(child, 0)
        served.wait_for(r'"metrics": "http://127.0.0.1:\d+/metrics"\}\n')
        assert served.end() == 0
