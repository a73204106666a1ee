"""The options that aio and blocking pass on to a Server or a Client: their names and types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from .tickets import TicketKey

from ._settings import AlpnRequired, ClientCertificate

__all__ = ["ClientOptions", "ServerOptions", "check_names"]


class ClientOptions(TypedDict, total=False):
    """What connect() passes on to a Client; see there."""

    priority: str | None
    verify_peer: bool | None
    mtu: int | None
    retransmit_timeout: float
    handshake_timeout: float
    idle_timeout: float
    sni: str | None
    record_size: int | None
    srtp_profiles: str | None
    alpn: str | Sequence[str]
    alpn_required: AlpnRequired
    resume: Buffer | None


class ServerOptions(TypedDict, total=False):
    """What start_server() and serve() pass on to a Server; see there."""

    priority: str | None
    verify_peer: bool
    client_certificate: ClientCertificate | None
    mtu: int | None
    max_sessions: int
    max_sessions_per_address: int | None
    max_sessions_per_prefix: int | None
    max_handshakes: int
    max_handshakes_per_address: int
    max_handshakes_per_prefix: int
    handshake_timeout: float
    idle_timeout: float
    max_queue: int
    max_queue_bytes: int
    retransmit_timeout: float
    server_names: Sequence[str]
    record_size: int | None
    srtp_profiles: str | None
    alpn: str | Sequence[str]
    alpn_required: AlpnRequired
    tickets: bool | TicketKey | None


def check_names(function: str, options: Mapping[str, object], kind: type) -> None:
    """Refuse an option that the caller has misspelt.

    Raises:
        TypeError: one of the options is not of `kind`, a TypedDict; it is named.
    """
    for name in options:
        if name not in kind.__annotations__:
            known = ", ".join(kind.__annotations__)
            raise TypeError(f"{function}() has no option {name!r}; besides its own it has {known}")
