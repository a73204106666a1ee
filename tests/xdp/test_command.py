"""`gnutls-cookie xdp` at an interface: attach, status, detach, what is left, what is refused."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gnutls_cookie.xdp import attached
from tests.cli.test_systemd import Manager
from tests.support.common import ROOT, compile_peer, peer_required, running
from tests.support.network import ip
from tests.support.serve import SECONDS, Served, wait_until
from tests.support.xdp import xdp_required
from tests.support.xdp_host import Host, Word, host, is_in_kernel, kept_by


@pytest.fixture
def here() -> Iterator[Host]:
    with host() as made:
        yield made


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a secret of 32 bytes in hex."""
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text(secrets.token_hex(32))
    return path


def test_attach_status_detach(here: Host, secret: Path, tmp_path: Path) -> None:
    """One line when it is ready; counters three ways; nothing is left at its end."""
    stats = tmp_path / "stats.json"
    options: list[Word] = ["-p", "5684", "-p", "5683", "--cookie-secret-file", secret]
    assert here.status() == {}
    with here.attached(*options, "--stats", stats, "--metrics", "127.0.0.1:0") as guard:
        url = guard.wait_for(r"metrics at (http://\S+)\n")[1].decode()
        status = here.status()
        assert status["ports"] == [5683, 5684]
        assert 3500 <= status["keys_seconds"] <= 7200
        kept = kept_by(status["program_id"])
        code, said = here.run("status", "veth1")
        words = (
            r"veth1: generic mode, UDP ports 5683, 5684, keys expire in \d+ s\n0 challenged .*\n"
        )
        assert (code, bool(re.fullmatch(words, said))) == (0, True), said
        asked = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1]).read().decode())"
        page = subprocess.run(
            [*here.prefix, sys.executable, "-c", asked, url], capture_output=True, text=True
        ).stdout
        assert 'gnutls_cookie_xdp_hellos_challenged_total{interface="veth1"} 0\n' in page
        text = (ROOT / "docs" / "xdp.md").read_text(encoding="utf-8")
        named = set(re.findall(r"^\| `(gnutls_cookie_xdp_\w+)`", text, re.MULTILINE))
        assert set(re.findall(r"^(gnutls_cookie_xdp_\w+)", page, re.MULTILINE)) == named
        assert json.loads(stats.read_text())["passed"] == {}
        done = subprocess.run(
            [sys.executable, "-m", "gnutls_cookie", "stats", str(stats)],
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.stdout == said.partition("\n")[2]
        assert guard.end() == 0
    assert guard.said.decode().startswith(
        "attached to veth1 in generic mode (on veth the native mode may lose replies), "
        "UDP ports 5683, 5684\n"
    )
    assert here.status() == {}
    wait_until(lambda: not any(is_in_kernel(*one) for one in kept), "freed")


def test_the_program_outlives_its_process_until_its_keys_expire(
    here: Host, secret: Path, tmp_path: Path
) -> None:
    """kill -9; status sees it; attach goes on with its counters; detach takes it off."""
    options: list[Word] = ["-p", "5684", "--cookie-secret-file", secret]
    with here.attached(*options, "--rotate", "1") as guard:
        first = here.status()
        kept = kept_by(first["program_id"])
        assert first["keys_seconds"] <= 2
        guard.child.kill()
        guard.child.wait(SECONDS)
    wait_until(lambda: here.status()["keys_seconds"] == 0, "expired")
    assert "the keys have expired" in here.run("status", "veth1")[1]
    with here.attached(*options, "--stats", tmp_path / "veth1.prom") as guard:
        second = here.status()
        assert second["program_id"] != first["program_id"]
        assert second["keys_seconds"] > 0
        assert b"(the mode of the program that it replaces)" in guard.said
        assert '_hellos_expired_total{interface="veth1"}' in (tmp_path / "veth1.prom").read_text()
        # A third one takes over at one stroke, and the second ends by itself.
        with here.attached("-p", "9", "--cookie-secret-file", secret) as third:
            assert guard.child.wait(SECONDS) == 1
            assert here.status()["ports"] == [9]
            guard.wait_for("another process has attached its own program\n")
            kept += kept_by(here.status()["program_id"])
            third.child.kill()
            third.child.wait(SECONDS)
    assert here.run("detach", "veth1") == (0, "veth1: detached\n")
    assert here.run("detach", "veth1") == (0, "veth1: no program was attached\n")
    wait_until(lambda: not any(is_in_kernel(*one) for one in kept), "freed")


def test_a_program_of_others_is_refused_and_stays(here: Host, secret: Path) -> None:
    """By its id and name, by each of the three."""
    stranger = subprocess.run(
        [*here.prefix, sys.executable, "-m", "tests.support.xdp_host", "veth1", "generic"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.strip()
    reason = f"veth1: another program is attached: id {stranger}, name 'stranger'"
    options: list[Word] = ["-p", "5684", "--cookie-secret-file", secret]
    for words in ["attach", "veth1", *options], ["detach", "veth1"], ["status", "veth1"]:
        assert here.run(*words) == (2, f"gnutls-cookie xdp: {reason}\n")
    assert is_in_kernel("prog", int(stranger))


def test_an_interface_without_ethernet_is_refused(here: Host, secret: Path) -> None:
    """The program would see nothing in a tunnel's frames. A name may be of any bytes."""
    if not Path("/dev/net/tun").exists():
        pytest.skip("no /dev/net/tun: modprobe tun")
    name = "t-é\udcff"
    ip("-n", here.prefix[3], "tuntap", "add", "dev", name, "mode", "tun")
    code, said = here.run("attach", name, "-p", "5684", "--cookie-secret-file", secret)
    assert code == 2, said
    assert re.fullmatch(r"gnutls-cookie xdp: [^\n]+: its frames are not Ethernet's, [^\n]+\n", said)


def test_below_a_bridge_that_has_a_program_none_is_attached(here: Host, secret: Path) -> None:
    """The kernel refuses it, by the number by which it also says that a program is there."""
    namespace = here.prefix[3]
    made = ["ip", "-n", namespace, "link", "add", "name", "bridge0", "type", "bridge"]
    if subprocess.run(made, stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip("no bridges: modprobe bridge")
    ip("-n", namespace, "link", "set", "dev", here.interface, "master", "bridge0")
    stranger = [sys.executable, "-m", "tests.support.xdp_host", "bridge0", "generic"]
    subprocess.run([*here.prefix, *stranger], check=True, cwd=ROOT, capture_output=True)
    said = here.run("attach", here.interface, "-p", "5684", "--cookie-secret-file", secret)
    reason = "veth1: an interface above it (a bridge, say) has a program: attach to that one only"
    assert said == (2, f"gnutls-cookie xdp: {reason}\n")


def test_an_interface_that_goes_ends_it(here: Host, secret: Path) -> None:
    """In one line, with code 1; Ctrl-C ends one with code 0."""
    options: list[Word] = ["-p", "5684", "--cookie-secret-file", secret]
    with here.attached(*options) as guard:
        assert guard.end(signal.SIGINT) == 0
    with here.attached(*options) as guard:
        ip("-n", here.prefix[3], "link", "del", "veth1")
        assert guard.child.wait(SECONDS) == 1
        guard.wait_for(r"\ngnutls-cookie xdp: there is no interface 'veth1'\n$")


def test_a_service_manager_hears_of_it(here: Host, secret: Path, tmp_path: Path) -> None:
    """READY, signs of life, a reload that reads the secret anew or says why not, STOPPING."""
    manager = Manager(str(tmp_path / "notify"))
    env = {"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "4000000"}
    options: list[Word] = ["-p", "5684", "--cookie-secret-file", secret]
    with manager.sock, here.attached(*options, env=env) as guard:
        assert manager.next()["READY"] == "1"
        assert manager.has_sign_of_life(SECONDS)
        for content, words in (secrets.token_hex(32), "read anew"), ("short", "not read anew: "):
            secret.write_text(content)
            guard.child.send_signal(signal.SIGHUP)
            assert manager.next_with("RELOADING")["RELOADING"] == "1"
            assert manager.next_with("READY")["STATUS"].startswith("attached to veth1 in generic")
            guard.wait_for(words)
        assert guard.end() == 0
        assert manager.next_with("STOPPING")
    assert secret.read_text() not in guard.said.decode()


BINDS = """
import socket, sys
family = getattr(socket, sys.argv[1])
sock = socket.socket(family, socket.SOCK_DGRAM)
sock.bind((sys.argv[2], 5684))
print("bound", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("family", "address", "options", "warning"),
    [
        ("AF_INET6", "::", [], "port 5684: its socket is of IPv6; if it is dual-stack, --mapped"),
        ("AF_INET", "0.0.0.0", ["--mapped"], "port 5684: its socket is of IPv4, whose clients"),
        ("AF_INET6", "::", ["--mapped"], ""),
        ("AF_INET", "0.0.0.0", [], ""),
    ],
)
def test_a_socket_that_shows_ipv4_clients_otherwise_is_warned_of(
    here: Host, secret: Path, family: str, address: str, options: list[Word], warning: str
) -> None:
    """None of them would come in."""
    own: list[Word] = ["-p", "5684", "--cookie-secret-file", secret]
    with running([*here.prefix, sys.executable, "-c", BINDS, family, address]) as child:
        Served(child, 0).wait_for("bound")
        with here.attached(*own, *options) as guard:
            if warning:
                guard.wait_for(f"WARNING {warning}")
            assert guard.end() == 0
            assert guard.said.count(b"WARNING") == (1 if warning else 0)


def test_a_step_of_the_realtime_clock_is_followed(here: Host, secret: Path, tmp_path: Path) -> None:
    """The keys of the new time are there within a second or so, and last for as long."""
    clock = tmp_path / "clock"
    period = 10_000
    own_ms = int(time.time() * 1000)
    clock.write_bytes(struct.pack("=qq", -(own_ms % (period * 1000)), 0))
    library = compile_peer("stepped_clock.c", "-shared", "-fPIC")
    env = {"LD_PRELOAD": str(library), "STEPPED_CLOCK": str(clock)}
    options: list[Word] = ["-p", "5684", "--cookie-secret-file", secret, "--rotate", str(period)]
    with here.attached(*options, env=env):
        assert here.status()["keys_seconds"] > 1.9 * period
        (offset, _) = struct.unpack("=qq", clock.read_bytes())
        clock.write_bytes(struct.pack("=qq", offset + period * 900, 0))
        wait_until(lambda: here.status()["keys_seconds"] < 1.2 * period, "followed")
        assert here.status()["keys_seconds"] > period


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ("--cookie-secret-file /no/file", 2, "cookie keys: /no/file: No such file or directory"),
        ("--cookie-secret-file SECRET --address here", 2, "--address: addresses must be IP"),
        ("--cookie-secret-file SECRET --stats /no/folder/x", 2, "there is no such folder"),
        ("--cookie-secret-file SECRET --stats /dev/null", 2, "/dev/null: it is not a file"),
        ("--cookie-secret-file SECRET --metrics nowhere", 2, "HOST:PORT or [ADDRESS]:PORT"),
        ("--cookie-secret-file SECRET --mode native", 2, "lo: its driver has no native mode"),
    ],
)
def test_what_cannot_be_attached_is_said_in_a_line(
    secret: Path, words: str, code: int, said: str
) -> None:
    """And nothing is attached."""
    xdp_required()
    command = [sys.executable, "-m", "gnutls_cookie", "xdp", "attach", "lo", "-p", "5684"]
    command += words.replace("SECRET", str(secret)).split()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert re.fullmatch(r"gnutls-cookie xdp: [^\n]+\n", done.stderr), done.stderr
    assert said in done.stderr
    assert attached("lo") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root has nothing to lose")
def test_without_rights_it_is_refused_in_a_line(secret: Path) -> None:
    """With the capabilities that are missing."""
    xdp_required()
    program = peer_required("setpriv", "apt install util-linux")
    drop = [program, "--bounding-set=-all", "--inh-caps=-all"]
    command = [sys.executable, "-m", "gnutls_cookie", "xdp", "attach", "lo", "-p", "5684"]
    done = subprocess.run(
        [*drop, *command, "--cookie-secret-file", str(secret)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=SECONDS,
    )
    reason = "needs root, or the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
    assert done.stderr == f"gnutls-cookie xdp: loading the program {reason}\n"
    assert done.returncode == 2
