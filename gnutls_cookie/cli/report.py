"""What `connect` tells of its session: a line of its log, or with -u the lines of gnutls-cli, which
scripts look for."""

from __future__ import annotations

import argparse
import binascii
import errno
import logging
import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from gnutls_cookie import CertificateVerificationError, Session
from gnutls_cookie.credentials import TextStyle, certificate_text
from gnutls_cookie.errors import naming

from .options import key_material

__all__ = ["Report", "wait_for"]

_log = logging.getLogger("gnutls_cookie")

_PEM_LINE_BYTES = 48  # of DER; 64 characters in base64 (RFC 7468 2)


class Report:
    """Where it is told, and how.

    Args:
        options: of the command line: udp, logfile, verbose, print_cert, save_cert.

    Raises:
        OSError: the log file cannot be opened.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._verified = not options.insecure and options.ca_verification
        self._descriptor: int | None = 1 if options.udp else None
        self._is_own = options.logfile is not None
        if options.logfile is not None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            self._descriptor = os.open(options.logfile, flags, 0o666)

    def __enter__(self) -> Report:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if self._is_own and self._descriptor is not None:
            os.close(self._descriptor)

    def say(self, line: str, log: str = "") -> None:
        """A line, which gnutls-cli prints; without -u `log` goes to the log instead.

        Raises:
            OSError: it cannot be written.
        """
        if self._descriptor is not None:
            self._write(self._descriptor, f"{line}\n")
        elif log:
            _log.info("%s", log)

    def connected(self, session: Session, again: bool) -> None:
        """The handshake is complete, the first one or one that should resume a session.

        Raises:
            OSError: what is to be written cannot be.
        """
        certificates = session.peer_certificates
        pem = [_pem(one) for one in certificates]
        if self._options.save_cert is not None:
            with naming(self._options.save_cert):
                self._options.save_cert.write_text("\n".join(pem))
        self._save_ocsp(session)
        if certificates and not session.resumed:
            self._say_certificates(certificates)
        if session.certificate_requested:
            self.say(f"- Successfully sent {_own_size(self._options)} certificate(s) to server.")
        self.say(f"- Description: {session.description}", f"connected: {session.description}")
        if session.session_id:
            self.say(f"- Session ID: {session.session_id.hex(':').upper()}")
        if session.psk_hint is not None:
            self.say(f"- PSK authentication. PSK hint '{session.psk_hint}'")
        if self._options.pskusername is not None and not certificates:
            self.say(f"- PSK authentication. Connected as '{self._options.pskusername}'")
        self.say(f"- Options:{_agreed(session)}")
        if session.srtp_profile is not None:
            self.say(f"- SRTP profile: {session.srtp_profile}")
        if session.alpn is not None:
            self.say(f"- Application protocol: {session.alpn}")
        material = key_material(self._options, session)
        if material is not None:
            self._write(1 if self._descriptor is None else self._descriptor, f"{material}\n")
        self.say(f"- {'Resume ' if again else ''}Handshake was completed")
        if session.resumed:
            self.say("*** This is a resumed session", "resumed")

    def _say_certificates(self, certificates: Sequence[bytes]) -> None:
        self.say("- Certificate type: X.509")
        self.say(f"- Got a certificate list of {len(certificates)} certificates.")
        style: TextStyle = "full" if self._options.verbose else "compact"
        for number, one in enumerate(certificates):
            self.say(f"- Certificate[{number}] info:\n - {certificate_text(one, style)}")
            if self._options.print_cert or self._options.verbose:
                self._write(1 if self._descriptor is None else self._descriptor, f"\n{_pem(one)}\n")
            style = "oneline" if style == "compact" else style
        trusted = "is trusted" if self._verified else "was NOT verified"
        self.say(f"- Status: The certificate {trusted}. ")

    def _save_ocsp(self, session: Session) -> None:
        options, response = self._options, session.ocsp_response
        if options.save_ocsp is None and options.save_ocsp_multi is None:
            return
        if response is None:
            _log.warning("the server has stapled no OCSP response")
        elif options.save_ocsp is not None:
            with naming(options.save_ocsp):
                options.save_ocsp.write_bytes(response)
        else:  # DTLS 1.2 has one at most
            with naming(options.save_ocsp_multi):
                options.save_ocsp_multi.write_text(_pem(response, "OCSP RESPONSE"))

    def ready(self) -> None:
        """Messages may come and go."""
        # gnutls-cli's source says that programs look for this line.
        self.say("\n- Simple Client Mode:\n")

    def failed(self, error: Exception) -> None:
        """There is no connection."""
        if isinstance(error, CertificateVerificationError):
            self.say(f"- Status: {error.detail} ")
            self.say("*** PKI verification of server certificate failed...")

    def sent(self, size: int) -> None:
        """A message was sent."""
        if self._options.verbose:
            self.say(f"- Sent: {size} bytes")

    def received(self, message: bytes) -> None:
        """A message has come: print it.

        Raises:
            OSError: it cannot be written.
        """
        if self._options.verbose and self._descriptor is not None:
            line = f"- Received[{len(message)}]: "
            if self._descriptor == 1:  # by one call: what the sender says must not come between
                message = line.encode() + message
            else:
                self._write(self._descriptor, line)
        _write_all(1, message)

    def _write(self, descriptor: int, text: str) -> None:
        name = "stdout" if descriptor == 1 else str(self._options.logfile)
        _write_all(descriptor, text.encode("utf-8", "backslashreplace"), name)


def _agreed(session: Session) -> str:
    """What was agreed on beside the suite, as gnutls-cli has it."""
    is_checked = "[ignored]" if session.resumed else ""
    known = {
        "extended master secret": session.extended_master_secret,
        "safe renegotiation": session.safe_renegotiation,
        "EtM": session.encrypt_then_mac,
        f"OCSP status request{is_checked}": session.ocsp_response is not None,
    }
    return "".join(f" {name}," for name, is_so in known.items() if is_so)


def _own_size(options: argparse.Namespace) -> int:
    """Certificates in the chain of a client's own."""
    file = options.x509certfile
    if not isinstance(file, Path):
        return int(file is not None or options.rawpkkeyfile is not None)
    return max(file.read_bytes().count(b"-----BEGIN CERTIFICATE-----"), 1)


def _write_all(descriptor: int, data: bytes, name: str = "stdout") -> None:
    """Write all of it, even where the descriptor does not wait by itself.

    Raises:
        OSError: it cannot be written; `name` stands in it.
    """
    if descriptor == 1 and sys.stdout is None:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF), name)
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            wait_for(descriptor, select.POLLOUT)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, name) from None


def wait_for(descriptor: int, what: int) -> None:
    """Wait where a descriptor does not: somebody else has made it non-blocking."""
    poll = select.poll()
    poll.register(descriptor, what)
    poll.poll()


def _pem(der: bytes, label: str = "CERTIFICATE") -> str:
    parts = range(0, len(der), _PEM_LINE_BYTES)
    lines = [binascii.b2a_base64(der[at : at + _PEM_LINE_BYTES]).decode() for at in parts]
    return f"-----BEGIN {label}-----\n{''.join(lines)}-----END {label}-----\n"
