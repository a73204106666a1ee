"""Counters as Prometheus reads them; prometheus_client is the judge."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gnutls_cookie import (
    CloseReason,
    CookieGate,
    CookieListener,
    DiscardReason,
    KeyRing,
    PSKCredentials,
    RefusalReason,
    Server,
    ServerCounters,
)
from gnutls_cookie.blocking import connect, start_server
from gnutls_cookie.endpoint import Counters
from gnutls_cookie.gate import GateCounters
from gnutls_cookie.listener import ListenerCounters
from gnutls_cookie.metrics import Collector, Family, HasCounters, exposition, families
from tests.support.common import udp_socket

prometheus_client = pytest.importorskip("prometheus_client")

# Each number is another one, so that none can stand in the place of another.
GATE = GateCounters(1, 2, 3, 4, {reason: 10 + reason for reason in DiscardReason})
LISTENER = ListenerCounters(30, 31, 32, 33, 34, 35)
SERVER = ServerCounters(*range(40, 53))
SERVER.closed.update((reason, 60 + number) for number, reason in enumerate(CloseReason))
SERVER.refused_by.update((reason, 70 + number) for number, reason in enumerate(RefusalReason))
ALL = Counters(GATE, LISTENER, SERVER, 80)


class Counted:
    """Something with counters."""

    def __init__(self, counters: object) -> None:
        self.counters = counters


def samples(text: str) -> dict[str, float]:
    """The samples of a text in Prometheus' older format."""
    from prometheus_client.parser import text_string_to_metric_families

    return {
        f"{sample.name}{''.join(f' {value}' for value in sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("openmetrics", [False, True])
def test_text_is_that_of_prometheus_client(openmetrics: bool) -> None:
    """Byte for byte, but for the numbers, which it writes as floats."""
    from prometheus_client.exposition import generate_latest as older
    from prometheus_client.openmetrics.exposition import generate_latest as newer

    registry = prometheus_client.CollectorRegistry()
    registry.register(Collector(Counted(ALL)))
    expected = (newer if openmetrics else older)(registry).decode().replace(".0\n", "\n")
    assert exposition(families(ALL), openmetrics=openmetrics) == expected


def test_openmetrics_parser_takes_the_text() -> None:
    """It is the strict one: names, suffixes, the end."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    text = exposition(families(ALL), openmetrics=True)
    found = list(text_string_to_metric_families(text))
    assert {one.type for one in found} == {"counter", "gauge", "info"}
    assert all(one.name.startswith("gnutls_cookie_") and one.documentation for one in found)


def test_every_counter_has_its_name() -> None:
    """None is left out, none is mistaken for another, and reasons are their labels."""
    found = samples(exposition(families(ALL)))
    prefix = "gnutls_cookie_"
    assert found[f"{prefix}hellos_challenged_total"] == 1
    assert found[f"{prefix}hellos_presented_total"] == 2
    assert found[f"{prefix}hellos_verified_total current"] == 3
    assert found[f"{prefix}hellos_verified_total previous"] == 4
    for reason in DiscardReason:
        assert found[f"{prefix}datagrams_discarded_total {reason.name.lower()}"] == 10 + reason
    assert found[f"{prefix}datagrams_received_total"] == 30
    assert found[f"{prefix}replies_sent_total"] == 31
    assert found[f"{prefix}reply_errors_total"] == 32
    assert found[f"{prefix}receive_errors_total"] == 33
    assert found[f"{prefix}datagrams_truncated_total"] == 34
    assert found[f"{prefix}sessions established"] == SERVER.sessions
    assert found[f"{prefix}sessions handshake"] == SERVER.handshaking
    assert found[f"{prefix}handshakes_completed_total"] == SERVER.connected
    assert found[f"{prefix}handshakes_resumed_total"] == SERVER.resumed > 0
    assert found[f"{prefix}session_errors_total"] == SERVER.session_errors
    assert found[f"{prefix}hellos_repeated_total"] == SERVER.duplicates
    assert found[f"{prefix}datagrams_stray_total"] == SERVER.strays
    assert found[f"{prefix}records_refused_total"] == SERVER.records_refused
    assert found[f"{prefix}messages_received_total"] == SERVER.messages_received
    assert found[f"{prefix}messages_dropped_total"] == SERVER.messages_dropped
    assert found[f"{prefix}messages_sent_total"] == SERVER.messages_sent
    for number, close in enumerate(CloseReason):
        assert found[f"{prefix}sessions_closed_total {close.name.lower()}"] == 60 + number
    assert found[f"{prefix}sessions_closed_total displaced"] == SERVER.displaced
    for number, refusal in enumerate(RefusalReason):
        assert found[f"{prefix}clients_refused_total {refusal.name.lower()}"] == 70 + number
    assert found[f"{prefix}send_errors_total"] == 80


def test_sums_are_over_all_that_is_given() -> None:
    """Also where one has a reason that the other never saw."""
    other = GateCounters(5, 0, 0, 0, {DiscardReason.EPOCH: 6})
    found = samples(exposition(families(GATE, other)))
    assert found["gnutls_cookie_hellos_challenged_total"] == 6
    epoch, other_reason = DiscardReason.EPOCH, DiscardReason.SESSION_ID
    assert found["gnutls_cookie_datagrams_discarded_total epoch"] == 10 + epoch + 6
    assert found["gnutls_cookie_datagrams_discarded_total session_id"] == 10 + other_reason
    assert not any("sessions" in name for name in found)


def test_shape_is_the_same_for_all_that_was_counted() -> None:
    """Reasons that never occurred are there as 0: a rate of Prometheus needs the first value."""
    nothing = Counters(
        GateCounters(0, 0, 0, 0, {}), ListenerCounters(0, 0, 0, 0, 0, 0), ServerCounters(), 0
    )
    shapes = [
        [(one.name, labels) for one in families(counters) for labels, _ in one.samples]
        for counters in (nothing, ALL)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("wrong", [None, 1, {"challenged": 1}, SERVER.closed])
def test_what_has_no_counters_is_refused(wrong: object) -> None:
    """TypeError at once, not at the first scrape."""
    with pytest.raises(TypeError, match="counters must be those of a server"):
        families(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must"):
        Collector(wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must"):
        Collector(Counted(wrong))


def test_labels_and_help_are_escaped() -> None:
    """As the format says: a parser gives them back."""
    text = 'a "quote", a \\, a\nline'
    found = exposition([Family("odd", "counter", text, (({"label": text}, 1),))])
    from prometheus_client.parser import text_string_to_metric_families

    (family,) = text_string_to_metric_families(found)
    assert family.samples[0].labels == {"label": text}


def test_servers_of_an_application_are_registered() -> None:
    """A gate with its listener, a sans-IO server, and a whole server with a client."""
    gate = CookieGate(KeyRing.random())
    psk = PSKCredentials("sensor", bytes(16))
    with udp_socket() as sock, CookieListener(sock, gate) as listener:
        several: tuple[HasCounters, ...] = (gate, listener, Server(psk))
        registry = prometheus_client.CollectorRegistry()
        registry.register(Collector(*several))
        gate.receive(b"?", b"client")
        value = registry.get_sample_value
        reason = {"reason": "record_header"}
        assert value("gnutls_cookie_datagrams_discarded_total", reason) == 1
    with start_server(lambda _: None, "127.0.0.1", 0, credentials=psk) as server:
        registry = prometheus_client.CollectorRegistry()
        registry.register(Collector(server))
        connect(*server.address[:2], credentials=psk).close()
        assert registry.get_sample_value("gnutls_cookie_handshakes_completed_total") == 1


def test_text_needs_no_third_party_package() -> None:
    """prometheus_client is imported by collect() alone."""
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from gnutls_cookie import CookieGate, KeyRing\n"
        "from gnutls_cookie.metrics import Collector, exposition, families\n"
        "gate = CookieGate(KeyRing.random()); Collector(gate)\n"
        "print(exposition(families(gate.counters)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "gnutls_cookie_hellos_challenged_total 0" in done.stdout
