"""The program in the kernel as Python drives it: keys, ports, counters, and what is refused."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gnutls_cookie import Challenge, CookieGate, DiscardReason, KeyRing, client_data
from gnutls_cookie import _libbpf as libbpf
from gnutls_cookie import xdp as xdp_module
from gnutls_cookie.reference import wire
from gnutls_cookie.xdp import XdpError, XdpGate
from tests.support.common import ROOT, compiler
from tests.support.xdp import DROP, PASS, TX, datagram_in, frame, xdp_required

CLIENTS = (("10.1.2.3", 40000), ("2001:db8::3", 40000))
SERVERS = {4: ("10.9.9.9", 5684), 6: ("2001:db8::9", 5684)}
KEY, OTHER_KEY = (
    b"a key of sixteen",
    b"another key, which is longer than a block of SHA-1, of 64 bytes",
)


def server_of(client: tuple[str, int]) -> tuple[str, int]:
    return SERVERS[6 if ":" in client[0] else 4]


def cookie(key: bytes, client: tuple[str, int]) -> bytes:
    verdict = CookieGate(key).receive(wire.client_hello(), client_data.sockaddr(client))
    assert isinstance(verdict, Challenge)
    return verdict.datagram[-16:]


def second_hello(key: bytes, client: tuple[str, int]) -> bytes:
    return wire.client_hello(cookie=cookie(key, client), record_seq=1, message_seq=1)


@pytest.fixture
def gate() -> Iterator[XdpGate]:
    """One that guards port 5684 under KEY."""
    xdp_required()
    with XdpGate([5684]) as made:
        made.set_keys(KEY, None, 3600)
        yield made


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("key", [KEY, OTHER_KEY, b"k", bytes(300)])
def test_strangers_get_libgnutls_own_bytes(
    gate: XdpGate, key: bytes, client: tuple[str, int]
) -> None:
    """The reply of CookieGate, under keys of every size."""
    gate.set_keys(key, None, 3600)
    hello = wire.client_hello(record_seq=300, message_seq=7)
    expected = CookieGate(key).receive(hello, client_data.sockaddr(client))
    action, sent, _ = gate.run(frame(hello, client, server_of(client)))
    assert isinstance(expected, Challenge)
    assert (action, datagram_in(sent)) == (TX, expected.datagram)
    assert gate.counters.challenged == 1
    assert gate.counters.presented == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_keys_change_between_two_datagrams(gate: XdpGate, client: tuple[str, int]) -> None:
    """A cookie is good under its key, under it as the previous one, and then no longer."""
    hello = frame(second_hello(KEY, client), client, server_of(client))
    actions = []
    for current, previous in (KEY, None), (OTHER_KEY, KEY), (b"third", OTHER_KEY), (b"third", None):
        gate.set_keys(current, previous, 3600)
        actions.append(gate.run(hello)[0])
    assert actions == [PASS, PASS, TX, TX]
    counters = gate.counters
    assert (counters.verified, counters.verified_previous, counters.presented) == (1, 1, 2)


def test_keys_expire() -> None:
    """Without keys, and with old ones, all is passed on and counted."""
    xdp_required()
    hello = frame(wire.client_hello())
    with XdpGate([5684]) as gate:
        assert gate.seconds_left == 0
        assert gate.run(hello)[0] == PASS
        gate.set_keys(KEY, None, 100)
        assert 0 < gate.seconds_left <= 100
        assert gate.run(hello)[0] == TX
        gate.set_keys(KEY, None, 0)
        assert gate.run(hello)[0] == PASS
        assert gate.counters.expired == 2


def test_ports_and_addresses_are_those_asked_for() -> None:
    """All others pass, uncounted."""
    xdp_required()
    with XdpGate([1, 64, 65535], addresses=["10.9.9.9", "2001:db8::9"]) as gate:
        gate.set_keys(KEY, None, 3600)
        hello = wire.client_hello()
        for port in 1, 63, 64, 65, 65535:
            action, _, _ = gate.run(frame(hello, destination=("10.9.9.9", port)))
            assert action == (PASS if port in (63, 65) else TX)
        for here, there in ("10.1.2.3", "10.9.9.8"), ("2001:db8::3", "2001:db8::8"):
            assert gate.run(frame(hello, (here, 9), (there, 64)))[0] == PASS
        assert gate.run(frame(hello, ("2001:db8::3", 9), ("2001:db8::9", 64)))[0] == TX
        assert gate.counters.challenged == 4


def test_dual_stack_sockets_have_mapped_addresses() -> None:
    """To these an IPv4 client is one of IPv6."""
    xdp_required()
    hello = wire.client_hello()
    with XdpGate([5684], mapped=True) as gate:
        gate.set_keys(KEY, None, 3600)
        _, sent, _ = gate.run(frame(hello))
    assert datagram_in(sent)[-16:] == cookie(KEY, ("::ffff:10.1.2.3", 40000))


def test_other_datagrams_pass_by_reason_and_junk_on_request(gate: XdpGate) -> None:
    """A session may want them; what none can want is dropped if that is asked for."""
    junk = frame(wire.client_hello(record_version=0x0303))
    of_a_session = frame(wire.client_hello(epoch=1))
    assert gate.run(junk)[0] == PASS
    assert gate.run(of_a_session)[0] == PASS
    assert gate.counters.passed == {DiscardReason.RECORD_VERSION: 1, DiscardReason.EPOCH: 1}
    with XdpGate([5684], drop_junk=True) as dropping:
        dropping.set_keys(KEY, None, 3600)
        assert dropping.run(junk)[0] == DROP
        assert dropping.run(of_a_session)[0] == PASS
        assert dropping.counters.dropped == 1


def test_a_run_tells_its_duration(gate: XdpGate) -> None:
    """And may be repeated."""
    assert gate.run(frame(second_hello(KEY, CLIENTS[0])), 100)[2] > 0
    assert gate.counters.verified == 100


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"ports": []}, ValueError, "ports must not be empty"),
        ({"ports": [0]}, ValueError, r"ports must be in 1\.\.65535, not 0"),
        ({"ports": [65536]}, ValueError, r"ports must be in 1\.\.65535"),
        ({"ports": ["5684"]}, TypeError, "ports must be an int, not str"),
        ({"ports": 5684}, TypeError, "ports must be several, not one int"),
        ({"addresses": "10.0.0.1"}, TypeError, "addresses must be several, not one str"),
        ({"addresses": ["localhost"]}, ValueError, "addresses must be IP addresses"),
        ({"addresses": [5]}, TypeError, "addresses must be str, not int"),
        ({"addresses": ["fe80::1%eth0"]}, ValueError, "addresses must have no scope"),
        ({"addresses": [f"10.0.{n}.1" for n in range(256)] + ["10.1.1.1"]}, ValueError, "at most"),
        ({"mapped": 1}, TypeError, "mapped must be a bool"),
        ({"drop_junk": "no"}, TypeError, "drop_junk must be a bool"),
        ({"layout": "text"}, ValueError, "layout must be one of sockaddr, coap"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: dict[str, Any], kind: type[Exception], words: str
) -> None:
    """Before the kernel is asked for anything."""
    with pytest.raises(kind, match=words):
        XdpGate(**{"ports": [5684], **arguments})


def test_wrong_keys_are_named(gate: XdpGate) -> None:
    """And the keys stay as they were."""
    for arguments, kind, words in (
        ((b"", None, 1), ValueError, "current must not be empty"),
        ((KEY, b"", 1), ValueError, "previous must not be empty"),
        (("key", None, 1), TypeError, "current must be a bytes-like object"),
        ((KEY, None, -1), ValueError, "seconds must be in"),
        ((KEY, None, float("nan")), ValueError, "seconds must be in"),
    ):
        with pytest.raises(kind, match=words):
            gate.set_keys(*arguments)
    assert gate.run(frame(second_hello(KEY, CLIENTS[0])))[0] == PASS
    assert gate.counters.verified == 1


def test_a_frame_too_large_or_too_small_is_an_error(gate: XdpGate) -> None:
    """Not a crash."""
    with pytest.raises(ValueError, match="frame must be of at most 65536 bytes"):
        gate.run(bytes(65537))
    for repeat in 0, -1, 2**31:
        with pytest.raises(ValueError, match=r"repeat must be in 1\.\.2147483647"):
            gate.run(bytes(60), repeat)
    for size in 0, 13:
        with pytest.raises(XdpError, match="running the program"):
            gate.run(bytes(size))


def test_a_wrong_interface_is_named(gate: XdpGate) -> None:
    """One of another type, one that is not there, a former program that is none."""
    nobody: Any = None
    for use in gate.attach, xdp_module.attached:
        with pytest.raises(TypeError, match="interface must be a str"):
            use(nobody)
        for name in "", "no-such-interface", "a" * 300, "a\0b":
            with pytest.raises(XdpError, match="there is no interface"):
                use(name)
    wrong: Any = "lo"
    with pytest.raises(TypeError, match="counts_of must be an Attached, not str"):
        XdpGate([5684], counts_of=wrong)


def test_closed_twice_and_used_afterwards(gate: XdpGate) -> None:
    """An error, not a descriptor of somebody else."""
    gate.close()
    gate.close()
    for use in (
        lambda: gate.counters,
        lambda: gate.set_keys(KEY, None, 1),
        lambda: gate.run(frame(wire.client_hello())),
        lambda: gate.attach("lo"),
    ):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert not gate.detach()
    assert not gate.is_attached


def test_nothing_imports_it_unasked() -> None:
    """Nor cffi's parser of C, which it needs."""
    code = (
        "import sys, gnutls_cookie, gnutls_cookie.aio, gnutls_cookie.blocking, gnutls_cookie.cli;"
        "assert not {'gnutls_cookie.xdp', 'pycparser'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


# --- what is not there ----------------------------------------------------------------------------


@pytest.mark.parametrize("left", [2, 5, 6])
def test_a_lack_of_descriptors_is_not_the_kernels_refusal(left: int) -> None:
    """Whichever descriptor is the one too many: of a map, or of the program."""
    xdp_required()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, soft), hard))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for descriptor in taken[-left:]:
            os.close(descriptor)
        del taken[-left:]
        with pytest.raises(XdpError) as caught:
            XdpGate([5684])
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert str(caught.value) == "loading the program: Too many open files"


@pytest.fixture
def _fresh_library() -> Iterator[None]:
    libbpf.library.cache_clear()
    yield
    libbpf.library.cache_clear()


@pytest.mark.usefixtures("_fresh_library")
def test_a_missing_libbpf_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """As does asking for an interface's program."""
    monkeypatch.setattr(libbpf, "_SONAME", "libbpf-of-nobody.so.1")
    with pytest.raises(XdpError, match=r"install libbpf 1\.0 or later"):
        xdp_module.attached("lo")


@pytest.mark.usefixtures("_fresh_library")
@pytest.mark.parametrize(
    "source", ["unsigned libbpf_major_version(void) { return 0; } void bpf_xdp_attach(void) {}", ""]
)
def test_an_old_libbpf_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    """By its number, or by what it lacks."""
    library = tmp_path / "libbpf.so"
    command = [*compiler(), "-shared", "-fPIC", "-x", "c", "-", "-o", str(library)]
    subprocess.run(command, input=source, text=True, check=True)
    monkeypatch.setattr(libbpf, "_SONAME", str(library))
    with pytest.raises(XdpError, match=r"is older than 1\.0"):
        xdp_module.attached("lo")


def test_a_program_that_was_not_built_says_what_was_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the build of the package."""
    monkeypatch.setattr(xdp_module, "_OBJECT", Path("not-built.o"))
    with pytest.raises(XdpError, match=r"clang or libbpf's headers \(libbpf-dev\) were missing"):
        XdpGate([5684])


def test_an_object_without_the_program_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that libbpf does not understand."""
    try:
        libbpf.library()
    except XdpError as error:
        pytest.skip(str(error))
    (tmp_path / "broken.o").write_bytes(b"no ELF at all")
    monkeypatch.setattr(xdp_module, "_OBJECT", tmp_path / "broken.o")
    with pytest.raises(XdpError, match=r"broken\.o"):
        XdpGate([5684])


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The program, but no verifier takes it: there is no such instruction as its last one."""
    xdp_required()
    leave, nothing = b"\x95" + bytes(7), b"\xff" + bytes(7)
    path = tmp_path / "refused.o"
    path.write_bytes(xdp_module._OBJECT.read_bytes().replace(leave, nothing))
    monkeypatch.setattr(xdp_module, "_OBJECT", path)


@pytest.mark.usefixtures("refused")
def test_a_verifier_s_refusal_is_in_its_words() -> None:
    """One line of them in the text, all as an attribute."""
    with pytest.raises(XdpError, match=r"the verifier of this kernel \(.*\) refuses the") as caught:
        XdpGate([5684])
    assert "\n" not in str(caught.value)
    assert "\n" in caught.value.verifier_log
    assert caught.value.errno > 0


@pytest.mark.usefixtures("refused")
def test_an_old_kernel_is_told_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """What its verifier says would not help."""
    monkeypatch.setattr(xdp_module, "_KERNEL", "99.0")
    with pytest.raises(XdpError, match=r"this kernel \(.*\) is too old: Linux 99\.0 or later"):
        XdpGate([5684])


def test_maps_of_another_version_are_left_alone(
    gate: XdpGate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values of another size would be written past a buffer's end."""
    sizes = {"gcookie_counts": 8, "gcookie_keys": 8, "gcookie_state": 8, "gcookie_ports": 8}
    monkeypatch.setattr(xdp_module, "_VALUE_BYTES", sizes)
    with XdpGate([5684]) as other:
        for use in lambda: other.counters, lambda: other.set_keys(KEY, None, 1):
            with pytest.raises(XdpError, match="of another version of this package"):
                use()


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root cannot become somebody else")
def test_who_lacks_capabilities_is_told_which() -> None:
    """Loading, and looking at what is loaded."""
    xdp_required()
    code = """
from gnutls_cookie.xdp import XdpError, XdpGate
try:
    XdpGate([5684])
except XdpError as error:
    print(error)
"""
    # root without any: another user could not read the package in a folder of root's.
    without = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--"]
    done = subprocess.run(
        [*without, sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert (
        "needs root, or the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN" in done.stdout
    ), done.stderr


def test_the_ring_of_a_fleet_goes_in_as_it_is(gate: XdpGate) -> None:
    """keys_at() gives what set_keys() takes."""
    ring = KeyRing.from_secret(bytes(32), 60)
    gate.set_keys(*ring.keys_at(0.0), 60)
    hello = frame(second_hello(ring.keys_at(-60.0)[0], CLIENTS[0]))
    assert gate.run(hello)[0] == PASS
    assert gate.counters.verified_previous == 1
