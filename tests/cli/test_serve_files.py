"""The files that `serve` reads: what is in them, what is wrong with them, who can read them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gnutls_cookie.cli.credentials import psk_file
from tests.support.common import peer_required
from tests.support.peers import CERTS, IDENTITY, PSK_KEY
from tests.support.serve import CERT, SECONDS, client, echoes, serving

KEY = "00112233445566778899aabbccddeeff"


def put(path: Path, content: bytes | str) -> Path:
    """Write a file that its owner alone can read."""
    path.touch(mode=0o600)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- pre-shared keys ------------------------------------------------------------------------------

WHOLE_FILES: dict[str, tuple[bytes, dict[str, bytes]]] = {
    "comments": (
        b"# devices of the east wing\na:00\n#b:01\n#\n# 2026: all new\n##x:02\n  # indented\n",
        {"a": b"\0"},
    ),
    "blank lines": (b"\n\na:00\n \t \n\nb:01\n\n", {"a": b"\0", "b": b"\1"}),
    "carriage returns": (b"# x\r\na:00\r\n\r\nb:01\r\n", {"a": b"\0", "b": b"\1"}),
    "a byte order mark": (b"\xef\xbb\xbfa:00\n", {"a": b"\0"}),
    "a byte order mark before a comment": (b"\xef\xbb\xbf# x\na:00\n", {"a": b"\0"}),
    "no end of the last line": (b"a:00\nb:01", {"a": b"\0", "b": b"\1"}),
    "identities in hex": (b"#6d79:0a0b\n#613A62:01\n", {"my": b"\n\v", "a:b": b"\1"}),
    "an identity with a zero byte": (b"#610062:01\n", {"a\0b": b"\1"}),
    "an identity that is not text": (b"#ff:01\n", {"\udcff": b"\1"}),
    "colons": (b"urn:dev:1:01\n", {"urn:dev:1": b"\1"}),
    "white space at the end": (b"a:00  \nb:01\t\n", {"a": b"\0", "b": b"\1"}),
    "white space at the start is the identity's": (b" a:00\n", {" a": b"\0"}),
    "upper case": (b"a:0A0b\n", {"a": b"\n\v"}),
    "a comment with a colon": (b"# note: cafe\n# added: by hand\na:00\n", {"a": b"\0"}),
    "umlauts": ("h\u00f6he:00\n".encode(), {"h\u00f6he": b"\0"}),
    "an identity again": (b"a:00\nb:01\na:02\n", {"a": b"\0", "b": b"\1"}),
}


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_file_of_keys(name: str, tmp_path: Path) -> None:
    """Read as libgnutls' own reader does (lib/auth/psk_passwd.c)."""
    content, keys = WHOLE_FILES[name]
    assert psk_file(put(tmp_path / "psk", content)) == keys


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"a:00\nno key here\n", "line 2: not identity:hex"),
        (b"# x\n\r\na:0\n", "line 3: not identity:hex"),
        (b"a:xy\n", "line 1: not identity:hex"),
        (b"a:\n", "line 1: a key has 1..65535 bytes, not 0"),
        (b"#6d79:\n", "line 1: a key has 1..65535 bytes, not 0"),
        (b"#6d79:secret\n", "line 1: not identity:hex"),
        (b"a:" + b"00" * 65536, "line 1: a key has 1..65535 bytes, not 65536"),
        (b"", "no keys in it"),
        (b"# nothing but this\n", "no keys in it"),
        ("a:00\n".encode("utf-16"), "line 1: not identity:hex"),
        (bytes(200), "line 1: not identity:hex"),
    ],
)
def test_error_of_a_file_of_keys(content: bytes, text: str, tmp_path: Path) -> None:
    """Its name and the number of the line; the key itself is never in it."""
    path = put(tmp_path / "psk", content)
    with pytest.raises(ValueError, match=text) as raised:
        psk_file(path)
    assert str(raised.value).startswith(str(path))
    assert "secret" not in str(raised.value)


def test_warnings_of_a_file_of_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An identity again, and what looks like one in hex and is not: each with its line."""
    psk_file(
        put(tmp_path / "psk", "a:00\n#b:01\n#abc:02\na:03\n# abc: words\n#6161:00\n#6161:01\n")
    )
    first, second, third, fourth = (record.getMessage() for record in caplog.records)
    assert "psk, line 2: a comment" in first
    assert "psk, line 3: a comment" in second
    assert "psk, line 4: the identity of line 1 again" in third
    assert "psk, line 7: the identity of line 6 again" in fourth


@pytest.mark.peer
def test_file_that_psktool_writes(tmp_path: Path) -> None:
    """Every identity that psktool takes is served, those with a colon (in hex there) included."""
    psktool = peer_required("psktool", "apt install gnutls-bin")
    path = tmp_path / "psk"
    names = ["sensor", "a:b", " lead", "h\u00f6he", "two words"]
    for name in names:
        subprocess.run(
            [psktool, "-u", name, "-p", str(path)], check=True, capture_output=True, timeout=SECONDS
        )
    assert list(psk_file(path)) == names
    assert {len(key) for key in psk_file(path).values()} == {32}


def test_huge_file_is_not_read_to_its_end() -> None:
    """A device in the place of a file: an error, not all of memory."""
    with pytest.raises(ValueError, match="/dev/zero is larger than 16777216 bytes"):
        psk_file(Path("/dev/zero"))


# --- what is wrong, and where ---------------------------------------------------------------------


def refused(*options: str) -> str:
    """The one line of a server that does not start for unusable options."""
    words = [sys.executable, "-m", "gnutls_cookie", "serve", "--port", "0", *options]
    done = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("gnutls-cookie serve: ")
    return line


def test_errors_name_the_file_and_the_reason(tmp_path: Path) -> None:
    """Absent, a folder, unreadable, not what it should be, encrypted, of another pair."""
    certificate, key = str(CERTS / "localhost.pem"), str(CERTS / "localhost.key")
    junk = str(put(tmp_path / "junk", "junk"))
    folder = str(tmp_path)

    def with_pair(one: str, two: str) -> str:
        return refused("--x509certfile", one, "--x509keyfile", two)

    assert "/nowhere/a.pem: No such file or directory" in with_pair("/nowhere/a.pem", key)
    assert f"{folder}: Is a directory" in with_pair(certificate, folder)
    assert "junk is not a certificate" in with_pair(junk, key)
    assert "junk is not a private key" in with_pair(certificate, junk)
    encrypted = str(CERTS / "localhost-encrypted.key")
    assert "localhost-encrypted.key is encrypted" in with_pair(certificate, encrypted)
    other = with_pair(certificate, str(CERTS / "stranger.key"))
    assert "do not match" in other
    assert "localhost.pem and " in other
    assert "stranger.key" in other
    assert "junk" in refused(*CERT, "--x509cafile", junk)
    assert "/nowhere: No such file or directory" in refused("--pskpasswd", "/nowhere")
    assert f"{folder}: Is a directory" in refused("--pskpasswd", folder)
    assert f"{folder}: Is a directory" in refused("--cookie-secret-file", folder)
    assert f"{junk}: a cookie secret has" in refused("--cookie-secret-file", junk)
    assert f"{junk}, line 1: not identity" in refused("--pskpasswd", junk)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can read every file")
def test_unreadable_file_is_named(tmp_path: Path) -> None:
    """Permission denied, and of which."""
    path = put(tmp_path / "psk", f"a:{KEY}\n")
    path.chmod(0)
    assert "psk: Permission denied" in refused("--pskpasswd", str(path))


# --- warnings -------------------------------------------------------------------------------------


def warnings_of(*options: str) -> list[str]:
    """The warnings of a server that starts all the same; not asyncio's, of a busy machine."""
    with serving(*options) as served:
        assert served.end() == 0
        lines = served.said.decode().splitlines()
    said = [line.removeprefix("WARNING ") for line in lines if line.startswith("WARNING ")]
    return [line for line in said if not line.startswith("Executing <")]


def test_secret_that_others_can_read_is_warned_of(tmp_path: Path) -> None:
    """As ssh does: by its group too, where the file is one's own; a line for each file, once."""
    key = tmp_path / "key.pem"
    shutil.copy(CERTS / "localhost.key", key)
    psk = put(tmp_path / "psk", f"{IDENTITY}:{PSK_KEY.hex()}\n")
    secret = put(tmp_path / "secret", bytes(32) + b".")
    options = ["--x509certfile", CERT[1], "--x509keyfile", str(key), "--pskpasswd", str(psk)]
    options += ["--cookie-secret-file", str(secret), "--workers", "2"]
    for mode in 0o600, 0o400:
        for path in key, psk, secret:
            path.chmod(mode)
        assert warnings_of(*options) == []
    for mode in 0o640, 0o604, 0o620, 0o644:
        for path in key, psk, secret:
            path.chmod(mode)
        said = warnings_of(*options)
        assert sorted(said) == [
            f"{path}: others than its owner can read it" for path in (key, psk, secret)
        ]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_group_of_another_owner_s_file_is_how_it_is_shared(tmp_path: Path) -> None:
    """As with /etc/ssl/private of Debian: no warning for the group, one for everybody."""
    psk = put(tmp_path / "psk", f"{IDENTITY}:{PSK_KEY.hex()}\n")
    os.chown(psk, 65534, 65534)
    psk.chmod(0o640)
    assert warnings_of("--pskpasswd", str(psk)) == []
    psk.chmod(0o644)
    assert warnings_of("--pskpasswd", str(psk)) == [f"{psk}: others than its owner can read it"]


def test_expired_certificate_is_warned_of_and_served(tmp_path: Path) -> None:
    """At the start, and at a SIGHUP that brings one; by one line, with workers too."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    put(key, (CERTS / "localhost.key").read_bytes())
    shutil.copy(CERTS / "expired.pem", certificate)
    options = ["--x509certfile", str(certificate), "--x509keyfile", str(key)]
    assert warnings_of(*options) == [f"{certificate}: the certificate expired on 2002-01-01"]
    shutil.copy(CERTS / "localhost.pem", certificate)
    with serving(*options, "--workers", "2") as served:
        assert b"expired" not in served.said
        shutil.copy(CERTS / "expired.pem", certificate)
        served.child.send_signal(signal.SIGHUP)
        for number in 0, 1:
            served.wait_for(f"worker {number}: read anew")
        assert served.end() == 0
    assert served.said.count(b"the certificate expired on 2002-01-01") == 1


def test_credentials_that_no_priority_lets_in(tmp_path: Path) -> None:
    """A priority string for certificates alone, beside shared keys: a warning, at SIGHUP too."""
    psk = put(tmp_path / "psk", f"{IDENTITY}:{PSK_KEY.hex()}\n")
    options = [*CERT, "--pskpasswd", str(psk), "--priority"]
    warning = "WARNING --pskpasswd is not used: priority allows no key exchange with a shared key"
    with serving(*options, "NORMAL", "--quiet") as served:
        served.wait_for(warning)
        served.child.send_signal(signal.SIGHUP)
        served.wait_for(f"(?s){warning}.*{warning}")
        assert served.end() == 0


# --- SIGHUP ---------------------------------------------------------------------------------------


def test_sighup_reads_all_pairs(tmp_path: Path) -> None:
    """A second pair that is broken changes nothing, and is named; mended, it is taken."""
    second, key = tmp_path / "second.pem", tmp_path / "second.key"
    put(second, (CERTS / "localhost-rsa.pem").read_bytes())
    put(key, (CERTS / "localhost-rsa.key").read_bytes())
    with serving(*CERT, "--x509certfile", str(second), "--x509keyfile", str(key)) as served:
        key.write_bytes((CERTS / "stranger.key").read_bytes())
        served.child.send_signal(signal.SIGHUP)
        served.wait_for(
            r"ERROR not read anew: credentials: .*do not match.*second\.key.* stays in use"
        )
        with client(served.port) as connection:
            assert echoes(connection)
        second.write_bytes((CERTS / "stranger.pem").read_bytes())
        served.child.send_signal(signal.SIGHUP)
        served.wait_for("INFO read anew")
        with client(served.port) as connection:
            assert echoes(connection)
        assert served.end() == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_sighup_does_not_wait_for_a_pipe(workers: int, tmp_path: Path) -> None:
    """A file that became a pipe which nobody writes to: a line, and clients are served."""
    psk = put(tmp_path / "psk", f"{IDENTITY}:{PSK_KEY.hex()}\n")
    options = ["--pskpasswd", str(psk), "--workers", str(workers)]
    with serving(*options) as served:
        psk.unlink()
        os.mkfifo(psk, 0o600)
        served.child.send_signal(signal.SIGHUP)
        served.wait_for("not read anew: .*: a pipe can be read once")
        with client(served.port, "PSK") as connection:
            assert echoes(connection)
        assert served.end() == 0


# --- messages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1163, 1164, 1400, 5000, 16000])
def test_message_longer_than_a_datagram_carries(size: int) -> None:
    """Echoed in parts, in order; the session goes on, and nothing is logged."""
    from gnutls_cookie.blocking import connect
    from tests.support.peers import trusting

    message = bytes(range(256)) * 64
    options = {"credentials": trusting(), "server_name": "localhost", "mtu": 16384}
    with serving(*CERT, "--quiet") as served:
        before = served.said
        with connect("127.0.0.1", served.port, **options) as connection:  # type: ignore[arg-type]
            for _ in range(2):
                connection.send(message[:size])
                answer = b""
                while len(answer) < size:
                    answer += connection.receive(timeout=SECONDS) or b"?"
                assert answer == message[:size]
        assert served.end() == 0
        assert served.said == before
