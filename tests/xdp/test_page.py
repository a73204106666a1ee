"""docs/xdp.md: its commands run as pasted, its unit is one."""

from __future__ import annotations

import os
import re
import shutil
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
    try:
        done = subprocess.run(
            ["sh", "-e"],
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=tmp_path,
            env=env,
            timeout=SECONDS,
        )
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", f"{own}-{name}"], capture_output=True)
    assert done.returncode == 0, done.stdout
    for said in re.findall(r"`(\d+ \w+(?:, \d+ \w+)*)`", PAGE.partition("`status` says")[2]):
        for one in said.split(", "):
            assert one in done.stdout, (one, done.stdout)
    assert "0 challenged, 1 verified" in done.stdout


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
