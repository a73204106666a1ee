"""Clients that a server turns away are told of in the log, once in a while."""

from __future__ import annotations

import logging

import pytest

from gnutls_cookie import RefusalReason
from gnutls_cookie.log import RefusalLog


def test_refusals_are_a_line_a_minute_with_their_reasons(caplog: pytest.LogCaptureFixture) -> None:
    """Each is told of once, however many there are."""
    log = RefusalLog()
    refused = dict.fromkeys(RefusalReason, 0)
    log.write(0.0, refused)
    assert caplog.records == []
    for now in range(130):
        refused[RefusalReason.ADDRESS] += 10
        refused[RefusalReason.EARLY] += now == 70
        log.write(float(now), refused)
    lines = [record.getMessage() for record in caplog.records]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert [line.partition(": ")[2] for line in lines] == [
        "10 since their address has its share",
        "600 since their address has its share",
        "600 since their address has its share, "
        "1 since a handshake from their address and port had just begun",
    ]
