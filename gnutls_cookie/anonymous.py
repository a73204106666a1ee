"""Neither side proves who it is: key exchange without certificates and shared keys."""

from __future__ import annotations

from typing import Any

from ._ffi import ffi, lib
from .errors import check

__all__ = ["AnonymousCredentials"]


class AnonymousCredentials:
    """No proof of who the peer is (ANON-ECDH and ANON-DH of GnuTLS; RFC 5246 A.5, RFC 4492 2.5).

    What is sent is encrypted, and whoever stands between both sides reads it all the same: for
    tests, and for peers that prove themselves otherwise. Beside other credentials it lets in
    whoever has nothing to show.

    Raises:
        GnuTLSError: this libgnutls was built without it.

    Stands on gnutls_anon_allocate_server_credentials and gnutls_anon_allocate_client_credentials.
    """

    _meets = b"", b""  # as of CertificateCredentials

    def __init__(self) -> None:
        self._of_role("client")

    def __repr__(self) -> str:
        return "<AnonymousCredentials>"

    def _of_role(self, role: str) -> tuple[Any, Any]:
        """A box with what C's settings hold, and the box's owner; new ones each time."""
        box = ffi.new("struct gcookie_shared **")
        kind = lib.GCOOKIE_ANON_SERVER if role == "server" else lib.GCOOKIE_ANON_CLIENT
        check(lib.gcookie_shared_credentials(box, kind), "anonymous credentials")
        return box, ffi.gc(box, lib.gcookie_shared_release)
