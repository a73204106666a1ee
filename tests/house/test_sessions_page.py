"""docs/sessions.md: its examples run as they are printed, and its table names what there is."""

from __future__ import annotations

import re
import shutil
import ssl
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import Session, blocking
from gnutls_cookie.credentials import public_key_of
from tests.support.common import ROOT, libgnutls
from tests.support.peers import CERTS, certificate, echoes, shake

PAGE = (ROOT / "docs" / "sessions.md").read_text(encoding="utf-8")


def block(text: str) -> str:
    """The Python block with that text in it."""
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    (found,) = [one for one in blocks if text in one]
    return found


def test_table_names_what_a_session_has() -> None:
    """Each attribute is there, and each function in libgnutls."""
    rows = re.findall(r"^\| (`.*?`) \| .* \|(.*)\|$", PAGE, re.MULTILINE)
    assert len(rows) >= 10
    for ours, theirs in rows:
        for name in re.findall(r"`(\w+)", ours):
            assert hasattr(Session, name), name
        for name in re.findall(r"`(\w+)`", theirs):
            assert hasattr(libgnutls(), name), name


def test_first_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a certificate and a key in files of these names."""
    shutil.copy(CERTS / "localhost.pem", tmp_path / "cert.pem")
    shutil.copy(CERTS / "localhost.key", tmp_path / "key.pem")
    monkeypatch.chdir(tmp_path)
    exec(compile(block("alpn_required"), "docs/sessions.md", "exec"), {})
    assert capsys.readouterr().out == "coap localhost True\n"


def test_raw_keys_of_the_page_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The public key in one file, the private one in the other."""
    der = ssl.PEM_cert_to_DER_cert((CERTS / "localhost.pem").read_text())
    (tmp_path / "server.pub").write_bytes(public_key_of(der))
    shutil.copy(CERTS / "localhost.key", tmp_path / "server.key")
    monkeypatch.chdir(tmp_path)
    scope: dict[str, Any] = {}
    exec(compile(block("peer_keys="), "docs/sessions.md", "exec"), scope)
    client = Session("client", scope["client"], server_name="localhost")
    server = Session("server", scope["server"])
    shake(client, server)
    assert echoes(client, server)


def test_client_of_the_page_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At a server with all its defaults."""

    def handler(connection: blocking.Connection) -> None:
        for message in connection:
            connection.send(message)

    shutil.copy(CERTS / "localhost.pem", tmp_path / "cert.pem")
    monkeypatch.chdir(tmp_path)
    with blocking.start_server(handler, "127.0.0.1", 0, credentials=certificate()) as server:
        text = block("resume=data").replace("5684", str(server.address[1]))
        exec(compile(text, "docs/sessions.md", "exec"), {})
    assert capsys.readouterr().out == "True\n"
