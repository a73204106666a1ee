"""Counters of `run` and `xdp` as people read them; those of `xdp` as JSON and for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gnutls_cookie.gate import DiscardReason
from gnutls_cookie.metrics import Family, families

if TYPE_CHECKING:
    from gnutls_cookie.xdp import XdpCounters

__all__ = ["counters_text", "xdp_families", "xdp_json"]

_PREFIX = "gnutls_cookie_xdp_"
_COUNTERS = {
    "hellos_challenged": (
        "challenged",
        "ClientHellos that were answered with a HelloVerifyRequest, below the socket.",
    ),
    "hellos_presented": (
        "presented",
        "Challenged ClientHellos that carried a cookie: a wrong one, or one of an old key.",
    ),
    "datagrams_dropped": ("dropped", "Other datagrams that were dropped, by --drop-junk."),
    "hellos_expired": (
        "expired",
        "ClientHellos that passed with any cookie, since the keys had expired.",
    ),
    "datagrams_untouched": (
        "untouched",
        "Datagrams that passed unread: of link-local addresses, of odd lengths.",
    ),
}
_OTHERS = {
    "left_alone": "left alone",
    "dropped": "dropped",
    "expired": "passed with expired keys",
    "untouched": "untouched",
}


def counters_text(counters: dict[str, Any]) -> str:
    """What is printed: a line, and one for each reason. Of XDP's counters more is known."""
    in_kernel = "passed" in counters
    by_reason = counters["passed" if in_kernel else "discarded"]
    others = {name: f"{counters.get(name, 0)} {text}" for name, text in _OTHERS.items()}
    line = (
        f"{counters['challenged']} challenged ({counters['presented']} with a cookie), "
        f"{counters['verified']} verified, {counters['verified_previous']} with the previous key, "
        f"{sum(by_reason.values())} "
    )
    if in_kernel:
        line += f"others ({others['dropped']}), {others['expired']}, {others['untouched']}"
    else:
        line += f"discarded, {others['left_alone']}"
    lines = [line]
    if counters.get("not_recorded"):
        lines.append(f"{counters['not_recorded']} calls not recorded: they came too fast")
    for reason, number in sorted(by_reason.items(), key=lambda one: -one[1]):
        lines.append(f"  {number:>10} {reason}")
    return "\n".join(lines)


def xdp_json(counters: XdpCounters) -> dict[str, Any]:
    """As `gnutls-cookie stats` reads them: the numbers by name, those of "passed" by reason."""
    found: dict[str, Any] = {
        name: getattr(counters, name)
        for name in ("challenged", "presented", "verified", "verified_previous")
    }
    found |= {name: getattr(counters, name) for name in ("dropped", "expired", "untouched")}
    found["passed"] = {one.name.lower(): number for one, number in counters.passed.items()}
    return found


def xdp_families(counters: XdpCounters, seconds_left: float, interface: str) -> list[Family]:
    """For exposition(): all counters, how long the keys are still good, and the versions.

    The names are others than those of a server: its hellos are those that passed here.
    """
    label = {"interface": interface}
    found = [
        Family(_PREFIX + name, "counter", text, ((label, getattr(counters, attribute)),))
        for name, (attribute, text) in _COUNTERS.items()
    ]
    by_key = {"current": counters.verified, "previous": counters.verified_previous}
    samples = tuple(({**label, "key": key}, number) for key, number in by_key.items())
    text = "ClientHellos with a good cookie, which passed, by the key that made it."
    found.append(Family(f"{_PREFIX}hellos_verified", "counter", text, samples))
    samples = tuple(
        ({**label, "reason": one.name.lower()}, counters.passed.get(one, 0))
        for one in DiscardReason
    )
    text = "Datagrams that are not ClientHellos, and passed unless they were dropped."
    found.append(Family(f"{_PREFIX}datagrams_passed", "counter", text, samples))
    text = "Seconds until the keys expire; 0: everything passes."
    found.append(Family(f"{_PREFIX}keys_seconds", "gauge", text, ((label, int(seconds_left)),)))
    return found + families()
