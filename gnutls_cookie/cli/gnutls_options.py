"""What becomes of each option of gnutls-serv and gnutls-cli: `serve` and `connect` take it with
its meaning, take it where nothing is left to do, or refuse it and say why.

docs/drop-in.md has these as tables.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["CLI", "SERV", "Fate", "add_others"]


class Fate(NamedTuple):
    """What becomes of an option.

    Attributes:
        kind: "same"; "nothing": it is taken, and changes nothing; "refused".
        why: in one line; of "same" where it differs a little, else empty.
        short: its letter, if it has one.
        metavar: of its value; None: it has none.
    """

    kind: str
    why: str = ""
    short: str = ""
    metavar: str | None = None


def _same(why: str = "", short: str = "", metavar: str | None = None) -> Fate:
    return Fate("same", why, short, metavar)


def _nothing(why: str, metavar: str | None = None, short: str = "") -> Fate:
    return Fate("nothing", why, short, metavar)


def _refused(why: str, metavar: str | None = None, short: str = "") -> Fate:
    return Fate("refused", why, short, metavar)


_TLS_1_3 = "is of TLS 1.3, and DTLS 1.2 has no such thing"
_TCP = "is of TCP"
_SRP = "SRP (RFC 5054) has no suite without SHA-1, and many a libgnutls lacks it"
_DH = "DHE is in groups of RFC 7919, which libgnutls knows"
_HEARTBEAT = "libgnutls ends the process at an empty one, which any peer can send (RFC 6520)"
_PROVIDER = "name the module in p11-kit's configuration"
_LIST = "`gnutls-cli --list` prints what libgnutls has"
_ATTIME = "certificates are judged by the system's time; libfaketime changes it"
_BENCHMARK = "`gnutls-cli` measures libgnutls, which is the same"

SERV: Mapping[str, Fate] = {
    "debug": _same("0..9999; above 0: tracebacks, too", "d", "LEVEL"),
    "sni-hostname": _same("a warning in the log, and no warning alert (RFC 6066 3)", "", "NAME"),
    "sni-hostname-fatal": _same(),
    "alpn": _same("at most 8", "", "NAME"),
    "alpn-fatal": _same(),
    "noticket": _same(),
    "earlydata": _refused(f"it {_TLS_1_3}"),
    "maxearlydata": _refused(f"it {_TLS_1_3}", "BYTES"),
    "nocookie": _refused("the cookie exchange is what this server is for"),
    "generate": _nothing(_DH, short="g"),
    "quiet": _same("", "q"),
    "nodb": _nothing("there is no database of sessions, which resume by tickets alone"),
    "http": _nothing("over UDP both echo"),
    "echo": _nothing("over UDP both echo"),
    "crlf": _nothing("over UDP both leave line ends as they are"),
    "udp": _same("as gnutls-serv also where `serve` differs without it: see above", "u"),
    "mtu": _same("128..65507; 0: the default, which is 1200", "", "BYTES"),
    "srtp-profiles": _same("", "", "TEXT"),
    "disable-client-cert": _same("", "a"),
    "require-client-cert": _same(
        "with `--x509cafile` it is verified, as by `--verify-client-cert`", "r"
    ),
    "verify-client-cert": _same(),
    "compress-cert": _refused(f"it {_TLS_1_3}", "METHOD"),
    "heartbeat": _refused(_HEARTBEAT, short="b"),
    "x509fmtder": _nothing("PEM and DER are told apart"),
    "priority": _same(
        "without it there is no DTLS 1.0; PSK is on where there are keys", "", "TEXT"
    ),
    "dhparams": _nothing(_DH, "FILE"),
    "x509cafile": _same("a URL of a token (pkcs11:...) too", "", "FILE"),
    "x509crlfile": _same("signed by an authority of `--x509cafile`", "", "FILE"),
    "x509keyfile": _same("a URL of a token (pkcs11:...) too", "", "FILE"),
    "x509certfile": _same("a URL of a token (pkcs11:...) too", "", "FILE"),
    "x509dsakeyfile": _same("another name of `--x509keyfile`", "", "FILE"),
    "x509dsacertfile": _same("another name of `--x509certfile`", "", "FILE"),
    "x509ecckeyfile": _same("another name of `--x509keyfile`", "", "FILE"),
    "x509ecccertfile": _same("another name of `--x509certfile`", "", "FILE"),
    "rawpkkeyfile": _same("one; no priority string is needed", "", "FILE"),
    "rawpkfile": _same("not read: the public key follows from the private one", "", "FILE"),
    "srppasswd": _refused(_SRP, "FILE"),
    "srppasswdconf": _refused(_SRP, "FILE"),
    "pgpkeyfile": _refused("GnuTLS has no OpenPGP keys since 3.6", "FILE"),
    "pskpasswd": _same("", "", "FILE"),
    "pskhint": _same("", "", "TEXT"),
    "ocsp-response": _same("the first is of the first certificate, and so on", "", "FILE"),
    "ignore-ocsp-response-errors": _refused("a response must be of its certificate"),
    "port": _same("", "p", "PORT"),
    "list": _refused(_LIST, short="l"),
    "provider": _refused(_PROVIDER, "FILE"),
    "keymatexport": _same("in the log; gnutls-serv does nothing over UDP", "", "LABEL"),
    "keymatexportsize": _same("", "", "BYTES"),
    "recordsize": _same("512..16384; 0: any", "", "BYTES"),
    "httpdata": _nothing("over UDP both echo", "FILE"),
    "timeout": _nothing("of TCP alone: see `--handshake-timeout`, `--idle-timeout`", "SECONDS"),
    "attime": _refused(_ATTIME, "TIME"),
    "version": _same("", "v"),
    "help": _same("", "h"),
    "more-help": _refused("`--help` is all there is", short="!"),
}

CLI: Mapping[str, Fate] = {
    "debug": _same("0..9999", "d", "LEVEL"),
    "verbose": _same("", "V"),
    "tofu": _refused(
        "keys of servers are not kept; `--x509cafile` takes a server's own certificate"
    ),
    "strict-tofu": _refused(
        "keys of servers are not kept; `--x509cafile` takes a server's own certificate"
    ),
    "dane": _refused("DANE needs DNSSEC, which is not asked"),
    "local-dns": _refused("DANE needs DNSSEC, which is not asked"),
    "ca-verification": _same("`--no-ca-verification` too"),
    "ocsp": _refused("no OCSP server is asked"),
    "resume": _same("", "r"),
    "earlydata": _refused(f"it {_TLS_1_3}", "FILE"),
    "rehandshake": _refused("a session has one handshake: no renegotiation", short="e"),
    "sni-hostname": _same("", "", "NAME"),
    "verify-hostname": _same("", "", "NAME"),
    "starttls": _refused(f"STARTTLS {_TCP}", short="s"),
    "app-proto": _refused(f"STARTTLS {_TCP}", "NAME"),
    "starttls-proto": _refused(f"STARTTLS {_TCP}", "NAME"),
    "starttls-name": _refused(f"STARTTLS {_TCP}", "NAME"),
    "udp": _same("prints what gnutls-cli prints: see above", "u"),
    "mtu": _same("128..65507; 0: the default, which is 1200", "", "BYTES"),
    "crlf": _same(),
    "fastopen": _refused(f"it {_TCP}"),
    "x509fmtder": _nothing("PEM and DER are told apart"),
    "print-cert": _same(),
    "save-cert": _same("", "", "FILE"),
    "save-ocsp": _same("", "", "FILE"),
    "save-ocsp-multi": _same("in DTLS 1.2 there is one at most", "", "FILE"),
    "save-server-trace": _refused("tcpdump and SSLKEYLOGFILE show more", "FILE"),
    "save-client-trace": _refused("tcpdump and SSLKEYLOGFILE show more", "FILE"),
    "dh-bits": _refused("%PROFILE_... in `--priority` says how long keys must be", "BITS"),
    "priority": _same(
        "without it there is no DTLS 1.0; PSK is on where there is a key", "", "TEXT"
    ),
    "x509cafile": _same("a URL of a token (pkcs11:...) too", "", "FILE"),
    "x509crlfile": _same("signed by an authority of `--x509cafile`", "", "FILE"),
    "x509keyfile": _same("a URL of a token (pkcs11:...) too", "", "FILE"),
    "x509certfile": _same("a URL of a token (pkcs11:...) too", "", "FILE"),
    "rawpkkeyfile": _same("one; no priority string is needed", "", "FILE"),
    "rawpkfile": _same("not read: the public key follows from the private one", "", "FILE"),
    "srpusername": _refused(_SRP, "TEXT"),
    "srppasswd": _refused(_SRP, "TEXT"),
    "pskusername": _same("", "", "TEXT"),
    "pskkey": _same("never asked for at a terminal", "", "HEX"),
    "port": _same("", "p", "PORT"),
    "insecure": _same(),
    "verify-allow-broken": _same(),
    "ranges": _refused("records are not padded (ranges)"),
    "benchmark-ciphers": _refused(_BENCHMARK),
    "benchmark-tls-kx": _refused(_BENCHMARK),
    "benchmark-tls-ciphers": _refused(_BENCHMARK),
    "list": _refused(_LIST, short="l"),
    "priority-list": _refused("`gnutls-cli --priority-list` prints what libgnutls has"),
    "noticket": _same("which gnutls-cli 3.7 to 3.8 do not heed"),
    "srtp-profiles": _same("", "", "TEXT"),
    "alpn": _same("at most 8", "", "NAME"),
    "compress-cert": _refused(f"it {_TLS_1_3}", "METHOD"),
    "heartbeat": _refused(_HEARTBEAT, short="b"),
    "recordsize": _same("512..16384; 0: any", "", "BYTES"),
    "disable-sni": _same(),
    "disable-extensions": _refused("without extensions no handshake is safe"),
    "single-key-share": _refused(f"it {_TLS_1_3}"),
    "post-handshake-auth": _refused(f"it {_TLS_1_3}"),
    "inline-commands": _refused("a session has one handshake: lines are messages alone"),
    "inline-commands-prefix": _refused(
        "a session has one handshake: lines are messages alone", "CHARACTER"
    ),
    "provider": _refused(_PROVIDER, "FILE"),
    "fips140-mode": _refused("`gnutls-cli --fips140-mode` says it of libgnutls"),
    "list-config": _refused("`gnutls-cli --list-config` says it of libgnutls"),
    "logfile": _same("", "", "FILE"),
    "keymatexport": _same("", "", "LABEL"),
    "keymatexportsize": _same("", "", "BYTES"),
    "waitresumption": _nothing("the ticket of DTLS 1.2 comes before the end of the handshake"),
    "ca-auto-retrieve": _refused("no certificate is fetched"),
    "attime": _refused(_ATTIME, "TIME"),
    "version": _same("", "v"),
    "help": _same("", "h"),
    "more-help": _refused("`--help` is all there is", short="!"),
}


def add_others(parser: argparse.ArgumentParser, fates: Mapping[str, Fate]) -> None:
    """The options that the command has not: those that change nothing, and those that it refuses.

    They are not in its help.
    """
    for name, fate in fates.items():
        strings = [f"--{name}", *([f"-{fate.short}"] if fate.short else [])]
        if fate.kind == "nothing":
            parser.add_argument(
                *strings, action=_Nothing, nargs=_nargs(fate), help=argparse.SUPPRESS
            )
        elif fate.kind == "refused":
            parser.add_argument(
                *strings,
                action=_Refused,
                nargs=_nargs(fate),
                why=fate.why.replace("`", ""),
                help=argparse.SUPPRESS,
            )


def _nargs(fate: Fate) -> int | None:
    return 0 if fate.metavar is None else None


class _Nothing(argparse.Action):
    """An option that is taken and changes nothing."""

    def __init__(self, option_strings: Sequence[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, **more)

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        """Do nothing with it."""


class _Refused(_Nothing):
    """An option that is refused, in one line."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, why: str, **more: Any) -> None:
        super().__init__(option_strings, dest, **more)
        self._why = why

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        parser.error(f"{option_string}: {self._why}")
