"""Third-party servers and our own under `gnutls-cookie probe`; writes the table of docs/peers.md.

python -m tests.support.probe_peers needs all of the servers, and names the first that is missing.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from gnutls_cookie import library_version
from gnutls_cookie.cli.probe.judging import Finding, assess
from gnutls_cookie.cli.probe.reading import Exchange
from gnutls_cookie.cli.probe.script import GROUPS, PARAMETERS
from tests.support.common import (
    PEERS,
    ROOT,
    compile_peer,
    mbedtls_required,
    openssl,
    peer_required,
    port_of_two,
)
from tests.support.peers import CERTS

DOCUMENT = ROOT / "docs" / "peers.md"
BEGIN, END = "<!-- made by tests/support/probe_peers.py -->", "<!-- end -->"
CERT, KEY = str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")
X509 = ["--x509certfile", CERT, "--x509keyfile", KEY]
SECONDS = 60.0  # an upper bound; nothing is measured by it

Command = list[str]
Findings = dict[str, Finding]


@dataclass(frozen=True)
class Peer:
    """A server to ask.

    Attributes:
        command: makes its command line for a port; a server that chooses its port prints it.
        ready: pattern of what it prints once it serves; a group in it is the port.
        version: name and version of the library that answers.
        offset: added to the port given, it is the port of DTLS.
        runs: groups of questions; a server that serves a single client is started for each.
    """

    command: Callable[[int], Command]
    ready: str
    version: Callable[[], str]
    offset: int = 0
    runs: tuple[tuple[str, ...], ...] = (GROUPS,)


def said_by(command: Command, pattern: str) -> str:
    """What the pattern's group finds in a program's output."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    found = re.search(pattern, done.stdout + done.stderr)
    assert found is not None, done
    return found[1]


def gnutls_serv() -> str:
    return peer_required("gnutls-serv", "apt install gnutls-bin")


def coap_server(library: str) -> str:
    return peer_required(f"coap-server-{library}", "apt install libcoap3-bin")


def gnutls_serv_version() -> str:
    return "GnuTLS " + said_by([gnutls_serv(), "--version"], r"gnutls-serv ([\d.]+)")


def openssl_version() -> str:
    return "OpenSSL " + said_by([openssl(), "version"], r"OpenSSL (\S+)")


def coap_version(library: str) -> str:
    # "-h" without its argument: it prints versions and usage, and exits.
    return said_by([coap_server(library), "-h"], r" v(\S+) --")


def mbedtls_version() -> str:
    mbedtls_required()
    library = importlib.import_module("mbedtls.version").version
    package = importlib.metadata.version("python-mbedtls")
    return f"python-mbedtls {package}, {library}"


def ours() -> str:
    return f"libgnutls {library_version()}"


def coap_command(library: str, port: int) -> Command:
    return [coap_server(library), "-v", "7", "-A", "127.0.0.1", "-p", str(port), "-n", "-c", CERT,
            "-j", KEY]  # fmt: skip


def module(*words: str) -> Command:
    return [sys.executable, "-m", "gnutls_cookie", *words]


PEERS_ASKED: dict[str, Peer] = {
    "gnutls-serv --udp": Peer(
        lambda port: [gnutls_serv(), "--udp", "--port", str(port), *X509],
        r"listening on IPv4 .*done",
        gnutls_serv_version,
    ),
    "the recipe of GnuTLS' manual, in C": Peer(
        lambda _: [str(compile_peer("stock_server.c")), CERT, KEY, "0"],
        r"port (\d+)\n",
        ours,
    ),
    "openssl s_server -dtls1_2 -listen": Peer(
        lambda port: [openssl(), "s_server", "-dtls1_2", "-listen", "-accept", f"127.0.0.1:{port}",
                      "-cert", CERT, "-key", KEY],
        r"ACCEPT",
        openssl_version,
        runs=(("replay",), ("dead-cookie",), ("return",), *((one,) for one in PARAMETERS),
              ("fragments",), ("junk",)),
    ),
    "coap-server-gnutls": Peer(
        lambda port: coap_command("gnutls", port),
        r"created DTLS endpoint",
        lambda: f"libcoap {coap_version('gnutls')}, {gnutls_serv_version()}",
        offset=1,
    ),
    "coap-server-openssl": Peer(
        lambda port: coap_command("openssl", port),
        r"created DTLS endpoint",
        lambda: f"libcoap {coap_version('openssl')}, {openssl_version()}",
        offset=1,
    ),
    "python-mbedtls (tests/peers/mbedtls_server.py)": Peer(
        lambda _: [sys.executable, str(PEERS / "mbedtls_server.py"), CERT, KEY],
        r"port (\d+)\n",
        mbedtls_version,
    ),
    "gnutls-cookie run -- gnutls-serv --udp": Peer(
        lambda port: module("run", "--", gnutls_serv(), "--udp", "--port", str(port), *X509),
        r"listening on IPv4 .*done",
        gnutls_serv_version,
    ),
    "gnutls-cookie serve": Peer(
        lambda _: module("serve", "--port", "0", *X509),
        r"serving on \S+ port (\d+)\n",
        ours,
    ),
}  # fmt: skip


# --- probing one server ---------------------------------------------------------------------------


@contextmanager
def serving(peer: Peer) -> Iterator[int]:
    """The server in a process that ends with the block; yields the port of DTLS."""
    port = port_of_two()
    # Its output goes into a file: a full pipe would block it.
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            peer.command(port), stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            deadline = time.monotonic() + SECONDS
            while (found := re.search(peer.ready, _text_of(output.fileno()))) is None:
                assert child.poll() is None, _text_of(output.fileno())
                assert time.monotonic() < deadline, _text_of(output.fileno())
                time.sleep(0.05)
            yield int(found[1]) if found.groups() else port + peer.offset
        finally:
            child.kill()
            child.communicate()


def _text_of(descriptor: int) -> str:
    return os.pread(descriptor, 2**20, 0).decode(errors="replace")


def probe(port: int, *options: str) -> tuple[int, dict[str, object]]:
    """Run `gnutls-cookie probe`; its exit code and its report."""
    done = subprocess.run(
        module("probe", "127.0.0.1", str(port), "--json", *options),
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=10 * SECONDS,
    )
    assert done.returncode in (0, 1), done
    return done.returncode, json.loads(done.stdout)


def asked(peer: Peer) -> Findings:
    """The findings about a server, by check."""
    exchanges: list[Exchange] = []
    others: Findings = {}
    for run in peer.runs:
        options = ["--hurtful", *(f"--only={group}" for group in run)]
        # A handshake is the last thing that a server of one client can be asked for.
        options += ["--insecure"] * ("replay" in run)
        with serving(peer) as port:
            _, report = probe(port, *options)
        exchanges += exchanges_of(report, without=() if run == peer.runs[0] else ("hello",))
        for one in findings_of(report):
            if one.check in ("handshake", "process"):
                others[one.check] = one
    if len(peer.runs) > 1:
        # After the first run it is known that no other client is served: later silence is no news.
        exchanges = [one for one in exchanges if one.received or "alive" not in one.step]
    return {one.check: one for one in assess(exchanges)} | others


def exchanges_of(report: dict[str, object], without: Sequence[str] = ()) -> list[Exchange]:
    """The exchanges of a report, to be assessed again."""
    found = report["exchanges"]
    assert isinstance(found, list)
    return [
        Exchange(
            one["step"],
            tuple(bytes.fromhex(data) for data in one["sent"]),
            tuple(bytes.fromhex(data) for data in one["received"]),
            one["refused"],
        )
        for one in found
        if one["step"] not in without
    ]


def findings_of(report: dict[str, object]) -> list[Finding]:
    """The findings of a report."""
    found = report["findings"]
    assert isinstance(found, list)
    return [Finding(**one) for one in found]


# --- the table ------------------------------------------------------------------------------------

COLUMNS = (
    "server", "library", "cookie", "HelloVerifyRequest", "versions in it", "record_seq echoed",
    "it depends on", "dead cookie heals", "hello in 3 fragments", "junk", "afterwards",
)  # fmt: skip


# What a cookie depends on, where the verdict of this check is good.
_BOUND = {"replay_address": "address", "replay_port": "port"}
_BOUND |= {f"other_{parameter}": parameter.replace("-", " ") for parameter in PARAMETERS}


def row(name: str, peer: Peer, findings: Findings) -> list[str]:
    """The cells of a server's row."""

    def seen(check: str) -> str:
        return findings[check].seen if check in findings else ""

    def good(check: str) -> bool:
        return check in findings and findings[check].verdict == "good"

    size = re.search(r"(\d+) bytes, in a HelloVerifyRequest of (\d+)", seen("cookie_size"))
    versions = re.search(r"version (\w+), server_version (\w+)", seen("versions"))
    requests = re.search(r"by (\d+) HelloVerifyRequest", seen("fragments"))
    factor = re.search(r"factor ([\d.]+)", seen("junk"))
    fragments = "silence"
    if requests is not None:
        fragments = f"{requests[1]} HelloVerifyRequest{'s' * (requests[1] != '1')}, "
        fragments += "completes" if good("fragments_return") else "does not complete"
    once = " (one client a start)" * (len(peer.runs) > 1)
    afterwards = f"serves on{once}" if good("alive") else "serves nobody"
    if "spins" in seen("process"):
        afterwards += ", spins"
    return [
        name,
        peer.version(),
        "demanded" if good("cookie") else "**not demanded**",
        f"{size[2]} bytes, cookie of {size[1]}" if size else "",
        ", ".join(dict.fromkeys(versions.groups())) if versions else "",
        "yes" if good("record_seq") else "**no**",
        ", ".join(what for check, what in _BOUND.items() if good(check)),
        "yes" if good("heals") else "**no**",
        fragments if good("fragments") and good("fragments_return") else f"**{fragments}**",
        f"**answered, {factor[1]} times its size**" if factor else "silence",
        afterwards if good("alive") else f"**{afterwards}**",
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    """The table in Markdown."""
    lines = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> int:
    """Ask all, and write the table.

    Returns:
        The exit code: 0, or 1 where a peer is missing.
    """
    sys.path.insert(0, str(ROOT))  # compile_peer() reads build_ffi.py
    rows = []
    for name, peer in PEERS_ASKED.items():
        try:
            findings = asked(peer)
            rows.append(row(name, peer, findings))
        except (pytest.skip.Exception, pytest.fail.Exception) as missing:
            print(f"{name}: {missing}", file=sys.stderr)
            return 1
        print(f"{name}:")
        for one in findings.values():
            print(f"  {one.verdict:<8}{one.check:<18}{one.seen}")
    text = DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    made = f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"
    DOCUMENT.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
