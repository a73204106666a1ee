"""Records the first ClientHello datagrams of real clients, on loopback, for the generator of cases.

python tests/support/record_hellos.py; needs gnutls-cli, openssl and python-mbedtls.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

from gnutls_cookie import PSKCredentials, Session

HERE = Path(__file__).resolve().parent
HELLOS = HERE.parent / "gnutls_cookie" / "differential" / "hellos.json"
ALPN = ",".join(f"protocol-number-{number:03}" for number in range(40))

PROGRAMS = {
    "openssl s_client -dtls1_2": "openssl s_client -dtls1_2 -connect 127.0.0.1:PORT",
    "openssl s_client -dtls": "openssl s_client -dtls -connect 127.0.0.1:PORT",
    "openssl s_client, PSK": "openssl s_client -dtls1_2 -psk 00ff -connect 127.0.0.1:PORT",
    "openssl s_client -mtu 256, long ALPN": (
        f"openssl s_client -dtls1_2 -mtu 256 -alpn {ALPN} -connect 127.0.0.1:PORT"
    ),
    "gnutls-cli --udp": "gnutls-cli --udp --port PORT 127.0.0.1",
    "gnutls-cli --udp, DTLS 1.0": (
        "gnutls-cli --udp --priority NORMAL:-VERS-ALL:+VERS-DTLS1.0 --port PORT 127.0.0.1"
    ),
    "gnutls-cli --udp, PSK": (
        "gnutls-cli --udp --pskusername a --pskkey 00ff --priority NORMAL:+ECDHE-PSK "
        "--port PORT 127.0.0.1"
    ),
    "Mbed TLS": "PYTHON HERE/mbedtls_client.py PORT HERE/certs/localhost.pem",
}


def record(command: str) -> list[bytes]:
    """The datagrams that a program sends to a silent server within half a second."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        values = {
            "PORT": str(sock.getsockname()[1]),
            "PYTHON": sys.executable,
            "HERE": str(HERE),
        }
        words = command.split()
        for name, value in values.items():
            words = [word.replace(name, value) for word in words]
        child = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        found = []
        try:
            sock.settimeout(5)
            while True:
                found.append(sock.recv(65535))
                sock.settimeout(0.5)
        except TimeoutError:
            return found
        finally:
            child.kill()
            child.communicate()


def main() -> None:
    """Write the file."""
    hellos = {name: [one.hex() for one in record(command)] for name, command in PROGRAMS.items()}
    session = Session("client", PSKCredentials("a", b"b"))
    session.handshake()
    hellos["gnutls_cookie.Session, PSK"] = [one.hex() for one in session.datagrams_to_send()]
    text = json.dumps(hellos, indent=1)
    HELLOS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
