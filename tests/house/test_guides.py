"""The shell blocks of README and docs/, run as they are written.

Each in a network of its own, where the ports and addresses that the guides name are free. Blocks
of nftables and nginx are run by test_fleet.py, other Python by test_readme.py, test_dropin.py and
test_sessions_page.py.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gnutls_cookie import blocking
from tests.support.common import ROOT, free_udp_port, missing, peer_required, running
from tests.support.peers import CERTS, trusting

pytestmark = pytest.mark.slow

Shell = Callable[[str], str]

# The commands of a block that start a server, then what is done with it.
SERVE = """
: >server.log
{server} >server.log 2>&1 &
server=$!
for _ in $(seq 300); do
    grep -q {ready} server.log && break
    kill -0 $server || {{ cat server.log; exit 1; }}
    sleep 0.1
done
{then}
kill -TERM $server
code=0
wait $server || code=$?
cat server.log
echo "ended $code"
"""


def commands(page: str, begin: str) -> list[str]:
    """The commands of the sh block of a page whose first command begins so, one a line."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^( *)```sh\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    for _, block in blocks:
        lines = block.replace("\\\n", " ").splitlines()
        made = [line for line in (re.sub(r"(^| +)#.*", "", line).strip() for line in lines) if line]
        if made[0].startswith(begin):
            return made
    raise AssertionError(f"{page} has no such block: {begin}")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs a script in a folder with certificates, and in a network that has only a loopback."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("namespaces need Linux and root")
    peer_required("ip", "apt install iproute2")
    prefix = [peer_required("unshare", "apt install util-linux"), "--net", "--pid", "--fork"]
    if subprocess.run([*prefix, "true"], capture_output=True, timeout=60).returncode != 0:
        missing("no namespaces here")
    for name, copied in (("cert.pem", "localhost.pem"), ("ca.pem", "localhost.pem")):
        shutil.copy(CERTS / copied, tmp_path / name)
    shutil.copy(CERTS / "localhost.key", tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(0o600)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    network = "ip link set lo up; ip address add 10.77.1.2/32 dev lo\n"

    def run(script: str) -> str:
        done = subprocess.run(
            [*prefix, "--kill-child", "sh", "-ec", network + script],
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    if not shutil.which("gnutls-cookie", path=path):
        missing("gnutls-cookie is not installed beside this Python")
    return run


def serving(server: str, then: str = "", ready: str = "'serving on'") -> str:
    return SERVE.format(server=server, then=then, ready=ready)


def test_serve_and_connect_of_the_readme(shell: Shell) -> None:
    """An echo comes back over a session; the server ends on SIGTERM."""
    server, client = commands("README.md", "gnutls-cookie serve")
    said = shell(serving(server, f"echo hello | {client}"))
    assert re.search("^hello$", said, re.MULTILINE), said
    assert "ended 0" in said


def test_probes_of_the_guide(shell: Shell) -> None:
    """Our own server, asked in the ways that the page shows; its third host is an example."""
    (server, _) = commands("README.md", "gnutls-cookie serve")
    careful, hurtful, elsewhere, alive = commands("docs/peers.md", "gnutls-cookie probe")
    assert "sensor.example" in elsewhere
    third = elsewhere.replace("sensor.example", "127.0.0.1")
    said = shell(serving(server, "\n".join((careful, hurtful, third, alive))))
    assert "127.0.0.1 port 5684: 4 info, 12 good" in said
    assert "127.0.0.1 port 5684: alive, HelloVerifyRequest after " in said
    assert "good    handshake" in said
    assert '"findings"' in said or '"checks"' in said, said


def test_node_of_the_fleet_guide(shell: Shell) -> None:
    """With the secret made as the guide says there is no warning."""
    (server,) = commands("docs/fleet.md", "gnutls-cookie serve")
    (secret,) = re.findall(r"`(\(umask .*? > cookie\))`", (ROOT / "docs/fleet.md").read_text())
    server = server.replace("/run/secrets/cookie", "cookie")
    said = shell(f"{secret}\n{serving(server)}")
    assert said == "serving on 10.77.1.2 port 5684\nended 0\n"


def test_metrics_of_the_guide(shell: Shell) -> None:
    """Scraped as the page says, with the names of its table, and no others."""
    if shutil.which("curl") is None:
        pytest.skip("curl is missing: apt install curl")
    server, scrape = commands("docs/operations.md", "gnutls-cookie serve")
    said = shell(serving(server, scrape))
    assert "ended 0" in said
    table = (ROOT / "docs/operations.md").read_text(encoding="utf-8").partition("| name |")[2]
    named = re.findall(r"`([a-z_]+)`(?=[^|]*\|[^|]*\|[^|]*\|$)", table, re.MULTILINE)
    assert set(re.findall(r"^gnutls_cookie_([a-z_]+)", said, re.MULTILINE)) == set(named)


@pytest.mark.peer
@pytest.mark.parametrize("page", ["README.md", "docs/drop-in.md"])
def test_run_of_the_guides(shell: Shell, page: str) -> None:
    """A server that nobody recompiles counts what its gate does."""
    if " " in str(ROOT):
        pytest.skip(f"LD_PRELOAD cannot name {ROOT}")
    for program in ("coap-server-gnutls", "coap-client-openssl"):
        peer_required(program, "apt install libcoap3-bin")
    server, *stats = commands(page, "gnutls-cookie run")
    stats = stats or ["gnutls-cookie stats cookies.json"]
    before = "mkdir -p server; (umask 077; openssl rand -hex 32 >cookie)"
    client = "coap-client-openssl -m get -C cert.pem -B 5 coaps://localhost/"
    # The server needs a moment to bind, and the counters are written once a second.
    ready = "'' cert.pem"  # it says nothing then
    until = "for _ in $(seq 300); do {0} 2>/dev/null | grep {1} && break; sleep 0.1; done"
    then = f"{until.format(client, 'libcoap')}\n{until.format(stats[-1], '1.verified')}"
    script = f"{before}\n{serving(server, then, ready)}"
    said = shell(script.replace("/run/secrets/", "").replace("/run/server/", "server/"))
    assert "This is a test server made with libcoap" in said
    assert "1 verified" in said


def test_diffs_of_the_guides(shell: Shell) -> None:
    """Modules of one's own, and the example in JavaScript; with fewer cases than the README's."""
    (readme,) = commands("README.md", "gnutls-cookie diff")
    module, gate, program = commands("docs/differential.md", "gnutls-cookie diff")
    lines = [readme.replace("1000000", "2000"), f"{module} --cases 2000", f"{gate} --cases 2000"]
    if shutil.which("node"):
        lines.append(f"cd {str(ROOT)!r}; {program} --cases 200")
    said = shell(f"""
mkdir my_package
echo 'from gnutls_cookie.reference.cookie import cookie_send, cookie_verify' >my_package/cookies.py
echo 'from gnutls_cookie import CookieGate as Gate' >my_package/gate.py
{chr(10).join(lines)}
""")
    assert said.count("no disagreement") == len(lines), said


def test_manual_pages_and_completion_of_the_guide(shell: Shell) -> None:
    """A page is read by man, all are written, and bash takes its script."""
    if not (shutil.which("man") and shutil.which("bash")):
        pytest.skip("no man and bash here: apt install man-db bash")
    lines = "\n".join(commands("docs/commands.md", "gnutls-cookie manual"))
    bash, *_ = commands("docs/commands.md", "eval")
    home = "export HOME=$PWD MANPAGER=cat MAN_KEEP_FORMATTING="
    complete = f"bash -c {shlex.quote(f'{bash}; complete -p gnutls-cookie')}"
    said = shell(f"{home}; {lines}\nls .local/share/man/man1\n{complete}")
    assert "GNUTLS-COOKIE-SERVE(1)" in said
    assert "gnutls-cookie-connect.1" in said
    assert "complete -o default -F _gnutls_cookie gnutls-cookie" in said


@pytest.mark.parametrize(
    ("page", "text"),
    [("docs/fleet.md", "TicketKey.from_secret("), ("docs/operations.md", "Collector(server)")],
)
def test_server_in_python_runs_as_pasted(
    page: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a file of its own it has all that it needs, beside the files that it names."""
    if "Collector" in text:
        pytest.importorskip("prometheus_client")
    blocks = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE
    )
    (program,) = [one for one in blocks if text in one]
    port = free_udp_port()
    for printed, here in ("5684", str(port)), ("10.77.1.2", "127.0.0.1"), ("::1", "127.0.0.1"):
        program = program.replace(printed, here)
    (tmp_path / "server.py").write_text(program.replace("9684", "0"))
    for name, source in ("cert.pem", "localhost.pem"), ("key.pem", "localhost.key"):
        shutil.copy(CERTS / source, tmp_path / name)
    for name in "cookie", "ticket":
        (tmp_path / name).write_text(name * 8)
    monkeypatch.chdir(tmp_path)
    deadline = time.monotonic() + 60
    with running([sys.executable, "server.py"]) as server:
        while True:
            assert server.poll() is None, server.communicate()
            try:
                client = blocking.connect(
                    "127.0.0.1", port, credentials=trusting(), server_name="localhost"
                )
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            else:
                break
        with client:
            client.send(b"hello")
            assert client.receive(60) == b"hello"
