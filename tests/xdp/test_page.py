"""docs/xdp.md: its commands run, its unit is one."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ROOT, openssl
from tests.support.network import namespaces_required
from tests.support.serve import SECONDS
from tests.support.xdp import xdp_required

PAGE = (ROOT / "docs" / "xdp.md").read_text(encoding="utf-8")


def test_two_namespaces_of_the_page(tmp_path: Path) -> None:
    """The kernel challenges, and the server counts no challenge."""
    xdp_required()
    namespaces_required()
    openssl()
    (script,) = re.findall(r"^```sh\n(ip netns add .*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    own = f"xdp-page-{os.getpid()}"
    names = ("dtls-server", "dtls-client")
    for name in names:
        script = script.replace(name, f"{own}-{name}")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if shutil.which("gnutls-cookie", path=env["PATH"]) is None:
        pytest.skip("gnutls-cookie is not installed beside this Python")
    server = f"ip netns exec {own}-dtls-server"
    ready = f"until {server} gnutls-cookie xdp status eth0; do sleep 0.2; done\n"
    ready += f"until {server} grep -i :1634 /proc/net/udp; do sleep 0.2; done\n"  # port 5684
    assert script.count("sleep 3\n") == 1
    child = subprocess.Popen(
        ["sh", "-e"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
        env=env,
        start_new_session=True,
    )
    try:
        said, _ = child.communicate(script.replace("sleep 3\n", ready), timeout=SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.communicate()
        for name in names:
            subprocess.run(["ip", "netns", "del", f"{own}-{name}"], capture_output=True)
    assert child.returncode == 0, said
    for promised in re.findall(r"`(\d+ \w+(?:, \d+ \w+)*)`", PAGE.partition("`status` says")[2]):
        for one in promised.split(", "):
            assert one in said, (one, said)
    assert "0 challenged, 1 verified" in said


def test_systemd_takes_the_unit_of_the_page(tmp_path: Path) -> None:
    """systemd-analyze has nothing to say of it."""
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is missing: apt install systemd")
    ((name, unit),) = re.findall(r"^```ini\n# \S+/(\S+)\n(.*?)^```$", PAGE, re.DOTALL | re.M)
    instance = tmp_path / name.replace("@", "@eth0")
    instance.write_text(unit.replace("/usr/local/bin/gnutls-cookie", "/bin/true"))
    done = subprocess.run(
        [program, "verify", "--man=no", str(instance)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert [line for line in done.stderr.splitlines() if "gnutls-cookie" in line] == []
    assert done.returncode == 0, done.stderr
