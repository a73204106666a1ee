"""Counters for Prometheus: as its text, as OpenMetrics, or through prometheus_client.

Nothing here listens: an application registers a Collector, or serves what exposition() gives. The
command `serve --metrics` does the latter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ._check import flag, items
from ._version import __version__
from .cookie import library_version
from .endpoint import Counters
from .gate import DiscardReason, GateCounters
from .listener import ListenerCounters
from .server import CloseReason, RefusalReason, ServerCounters

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = [
    "CONTENT_TYPE",
    "OPENMETRICS_CONTENT_TYPE",
    "Collector",
    "Family",
    "HasCounters",
    "exposition",
    "families",
]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_PREFIX = "gnutls_cookie_"

AnyCounters = Counters | GateCounters | ListenerCounters | ServerCounters


class HasCounters(Protocol):
    """A DTLSServer, CookieGate, CookieListener or Server."""

    @property
    def counters(self) -> Any:
        """What it has counted."""


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one name.

    Attributes:
        name: without the suffix `_total` or `_info`.
        kind: "counter", "gauge" or "info".
        text: what it counts, in a line.
        samples: each with its labels.
    """

    name: str
    kind: str
    text: str
    samples: tuple[tuple[Mapping[str, str], int], ...]

    @property
    def sample_name(self) -> str:
        """The name of its samples."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


def families(*counters: AnyCounters, build_info: bool = True) -> list[Family]:
    """What was counted, summed over all that is given.

    Every reason is there, those that never occurred as 0, so that the list has one shape.

    Args:
        counters: `counters` of a DTLSServer, CookieGate, CookieListener or Server.
        build_info: add one whose labels are the versions of this package and of libgnutls.

    Raises:
        TypeError: something else is given.
    """
    found: list[Family] = []
    parts = list(_parts(counters))
    for kind, rows in _ROWS.items():
        of_kind = [part for part in parts if isinstance(part, kind)]
        if not of_kind:
            continue
        for name, sort, text, values in rows:
            sums: dict[tuple[tuple[str, str], ...], int] = {}
            for part in of_kind:
                for labels, value in values(part):
                    sums[labels] = sums.get(labels, 0) + value
            samples = tuple((dict(labels), value) for labels, value in sums.items())
            found.append(Family(_PREFIX + name, sort, text, samples))
    if flag("build_info", build_info):
        versions = {"libgnutls": library_version(), "version": __version__}
        text = "Versions of gnutls-cookie and of the libgnutls in use."
        found.append(Family(f"{_PREFIX}build", "info", text, ((versions, 1),)))
    return found


def exposition(found: Iterable[Family], *, openmetrics: bool = False) -> str:
    """The text that Prometheus scrapes.

    Args:
        found: what families() gave.
        openmetrics: whether it is to be OpenMetrics 1.0 (OPENMETRICS_CONTENT_TYPE); else it is the
            older format (CONTENT_TYPE), which node_exporter's textfile collector reads.

    Raises:
        TypeError: an argument is of another type.
    """
    flag("openmetrics", openmetrics)
    lines: list[str] = []
    for family in items("found", found, Family):
        name = family.name if openmetrics else family.sample_name
        kind = "gauge" if family.kind == "info" and not openmetrics else family.kind
        lines += [f"# HELP {name} {_escaped(family.text)}", f"# TYPE {name} {kind}"]
        for labels, value in family.samples:
            pairs = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
            lines.append(f"{family.sample_name}{f'{{{pairs}}}' if pairs else ''} {value}")
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


class Collector:
    """Gives the counters of servers to prometheus_client (the extra `metrics`).

    Args:
        sources: DTLSServers of aio or blocking, CookieGates, CookieListeners or Servers, whose
            counters are summed. A CookieGate that several of them share is counted with each.

    Raises:
        TypeError: one has no such counters.

    Example:
        >>> from gnutls_cookie import CookieGate, KeyRing
        >>> from gnutls_cookie.metrics import Collector
        >>> collector = Collector(CookieGate(KeyRing.random()))
        >>> from prometheus_client import CollectorRegistry  # doctest: +SKIP
        >>> CollectorRegistry().register(collector)  # doctest: +SKIP
    """

    def __init__(self, *sources: HasCounters) -> None:
        self._sources = sources
        self._families()  # what is wrong is said here

    def collect(self) -> Iterator[Metric]:
        """What there is now, as prometheus_client wants it."""
        from prometheus_client import Metric

        for family in self._families():
            metric = Metric(family.name, family.text, family.kind)
            for labels, value in family.samples:
                metric.add_sample(family.sample_name, dict(labels), value)
            yield metric

    def _families(self) -> list[Family]:
        for source in self._sources:
            if not hasattr(source, "counters"):
                raise TypeError(f"sources must have counters, not be {type(source).__name__}")
        return families(*(source.counters for source in self._sources))


# --- what there is --------------------------------------------------------------------------------

_Labelled = tuple[tuple[tuple[str, str], ...], int]
_Row = tuple[str, str, str, Callable[[Any], Iterable[_Labelled]]]


def _one(attribute: str) -> Callable[[Any], list[_Labelled]]:
    return lambda counters: [((), getattr(counters, attribute))]


def _by(label: str, **attributes: str) -> Callable[[Any], list[_Labelled]]:
    """Samples by a label: its values, each with an attribute."""
    return lambda counters: [
        (((label, value),), getattr(counters, attribute)) for value, attribute in attributes.items()
    ]


def _by_reason(
    attribute: str, reasons: type[DiscardReason | CloseReason | RefusalReason], **more: str
) -> Callable[[Any], list[_Labelled]]:
    """Samples by reason, and by attributes that are none of the enum's."""

    def samples(counters: Any) -> list[_Labelled]:
        counted = getattr(counters, attribute)
        found = [((("reason", reason.name.lower()),), counted.get(reason, 0)) for reason in reasons]
        return found + _by("reason", **more)(counters)

    return samples


_ROWS: dict[type, tuple[_Row, ...]] = {
    GateCounters: (
        (
            "hellos_challenged",
            "counter",
            "ClientHellos that were answered with a HelloVerifyRequest.",
            _one("challenged"),
        ),
        (
            "hellos_presented",
            "counter",
            "Challenged ClientHellos that carried a cookie: a wrong one, or one of an old key.",
            _one("presented"),
        ),
        (
            "hellos_verified",
            "counter",
            "ClientHellos with a good cookie, by the key that made it.",
            _by("key", current="verified", previous="verified_previous"),
        ),
        (
            "datagrams_discarded",
            "counter",
            "Datagrams of unknown clients that got no answer.",
            _by_reason("discarded", DiscardReason),
        ),
    ),
    ListenerCounters: (
        ("datagrams_received", "counter", "Datagrams received.", _one("received")),
        (
            "datagrams_truncated",
            "counter",
            "Datagrams that the kernel cut, and that were dropped.",
            _one("truncated"),
        ),
        (
            "receive_errors",
            "counter",
            "Errors received in the place of a datagram, mostly from ICMP.",
            _one("receive_errors"),
        ),
        ("replies_sent", "counter", "HelloVerifyRequests sent.", _one("replies")),
        (
            "reply_errors",
            "counter",
            "HelloVerifyRequests that the kernel did not take.",
            _one("reply_errors"),
        ),
    ),
    ServerCounters: (
        (
            "sessions",
            "gauge",
            "Sessions now.",
            _by("state", established="sessions", handshake="handshaking"),
        ),
        ("handshakes_completed", "counter", "Handshakes completed.", _one("connected")),
        (
            "handshakes_resumed",
            "counter",
            "Completed handshakes that went on from an earlier session.",
            _one("resumed"),
        ),
        (
            "sessions_closed",
            "counter",
            "Sessions that ended, those in their handshake included.",
            _by_reason("closed", CloseReason, displaced="displaced"),
        ),
        (
            "clients_refused",
            "counter",
            "Verified clients that were turned away.",
            _by_reason("refused_by", RefusalReason),
        ),
        (
            "session_errors",
            "counter",
            "Verified clients for whom no session could be made.",
            _one("session_errors"),
        ),
        (
            "hellos_repeated",
            "counter",
            "Repeated ClientHellos that went to the session they had opened.",
            _one("duplicates"),
        ),
        (
            "datagrams_stray",
            "counter",
            "Datagrams of addresses without a session.",
            _one("strays"),
        ),
        (
            "records_refused",
            "counter",
            "Records that sessions refused in their handshake.",
            _one("records_refused"),
        ),
        (
            "messages_received",
            "counter",
            "Messages of peers.",
            _one("messages_received"),
        ),
        (
            "messages_dropped",
            "counter",
            "Messages of peers that a full queue did not take.",
            _one("messages_dropped"),
        ),
        ("messages_sent", "counter", "Messages to peers.", _one("messages_sent")),
    ),
    Counters: (
        (
            "send_errors",
            "counter",
            "Datagrams of sessions that the kernel did not take.",
            _one("send_errors"),
        ),
    ),
}


def _parts(counters: Iterable[Any]) -> Iterator[Any]:
    for one in counters:
        if not isinstance(one, AnyCounters):
            raise TypeError(f"counters must be those of a server, not {type(one).__name__}")
        yield one
        if isinstance(one, Counters):
            yield from (one.gate, one.listener, one.server)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
