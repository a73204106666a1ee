"""The benchmarks run: structure alone, no time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.common import ROOT, compiler


@pytest.mark.slow
def test_quick_run_measures_everything(tmp_path: Path) -> None:
    """Each part gives its figures, and the picture is drawn."""
    compiler()
    out, pictures = tmp_path / "out.json", [tmp_path / "b.svg", tmp_path / "d.svg"]
    command = [sys.executable, "-m", "benchmarks", "--quick", "--rounds", "1"]
    done = subprocess.run(
        [*command, "--json", out, "--svg", pictures[0], "--sessions-svg", pictures[1]],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=200,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(out.read_text(encoding="utf-8"))
    assert {"C send", "CookieGate.receive, no cookie"} <= set(results["a"])
    assert len(results["b"]["cpu"]) == len(results["b"]["rate"]) == 8
    assert all(value > 0 for values in results["b"]["rate"].values() for value in values)
    assert "listener: bytes an admitted peer" in results["c"]
    for kind in ("X.509", "ECDHE-PSK", "PSK"):
        for measure in ("handshakes a second", "messages a second", "server's CPU us a message"):
            figures = results["d"][f"{kind}: {measure}"]
            ours = {"aio.start_server", "aio.Protocol", "blocking.serve"}
            assert set(figures) >= {"C server over libgnutls", *ours}
            assert all(value > 0 for values in figures.values() for value in values)
    assert len(results["d"]["one client, PSK: server's CPU us a message"]) >= 4
    for mode in ("tasks", "Protocol"):
        assert results["e"][f"{mode}, 60 sessions: CPU us a handshake"] > 0
    assert all(value > 0 for values in results["f"].values() for value in values)
    for one in pictures:
        assert one.read_text(encoding="utf-8").startswith("<svg ")
