"""The writer's view of the shared memory: whatever is in it, by accident or by intent."""

from __future__ import annotations

import errno
import json
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gnutls_cookie import DiscardReason
from gnutls_cookie.cli.writer import (
    HEADER_SIZE,
    REASONS,
    UNIT_SIZE,
    Recorder,
    Writer,
    counters_for,
    counters_json,
    counters_text,
    open_for_appending,
    printable,
    replace_file,
)
from gnutls_cookie.gate import GateCounters
from gnutls_cookie.metrics import families
from tests.support.common import seeded

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memfd_create")

UNITS = 4096
HEAD, TAIL = 512 // 8, 576 // 8
RECORD = struct.Struct("=IIqi3I3I3I8x")


class Memory:
    """A ring that a test fills by hand."""

    def __init__(self) -> None:
        self.file = os.memfd_create("test")
        os.ftruncate(self.file, HEADER_SIZE + UNITS * UNIT_SIZE)
        self.words = [0] * (HEADER_SIZE // 8)
        self.recorder = Recorder(self.file, UNITS)

    def unit(self, number: int, data: bytes, tag: int | None = None, first: bool = True) -> None:
        """Write one unit, with the tag that it has once it is finished."""
        if tag is None:
            tag = (number + 1) * 2 + first
        place = HEADER_SIZE + number % UNITS * UNIT_SIZE
        os.pwrite(self.file, struct.pack("=Q", tag & (2**64 - 1)) + data, place)

    def verify(self, number: int, message: bytes = b"") -> None:
        """A whole record of one unit."""
        head = RECORD.pack(RECORD.size + 3 + len(message), 0, 0, -9, *[0] * 6, 2, 1, len(message))
        self.unit(number, head + b"kkc" + message)

    def take(self, now: float = 0.0, is_last: bool = False) -> list[object]:
        """What the recorder gives at once."""
        _, lines = self.recorder.take(self.words, now, is_last)
        return [json.loads(line) for line in lines.splitlines()]


@pytest.fixture
def memory() -> Iterator[Memory]:
    made = Memory()
    yield made
    os.close(made.file)


def test_record_that_is_not_finished_holds_up_the_others_for_a_while(memory: Memory) -> None:
    """Its process may be slow; after seconds, or with the last process, it is passed over."""
    memory.verify(0)
    memory.verify(2)
    memory.words[HEAD] = 3
    assert len(memory.take(now=100)) == 1
    assert memory.take(now=101) == []
    assert memory.take(now=105) == []
    assert memory.words[TAIL] == 1
    assert memory.take(now=106.1) == []
    assert len(memory.take(now=106.2)) == 1
    assert (memory.words[TAIL], memory.recorder.lost) == (3, 1)
    memory.verify(4)
    memory.words[HEAD] = 5
    assert memory.take(now=200, is_last=True) == []
    assert len(memory.take(now=200, is_last=True)) == 1
    assert memory.recorder.lost == 2


def test_record_that_is_finished_in_time(memory: Memory) -> None:
    """The order is that of the calls, and nothing is lost."""
    memory.verify(1, b"second")
    memory.words[HEAD] = 2
    assert memory.take(now=0) == []
    memory.verify(0, b"first")
    found = [bytes.fromhex(line["message"]) for line in memory.take(now=1)]  # type: ignore[index]
    assert found == [b"first", b"second"]
    assert memory.recorder.lost == 0


def test_tags_of_a_former_round_count_for_nothing(memory: Memory) -> None:
    """A ring is written over and over; what is still there is not read twice."""
    total = 0
    for lap in range(3):
        for number in range(lap * UNITS, (lap + 1) * UNITS):
            memory.verify(number)
        memory.words[HEAD] = (lap + 1) * UNITS
        while found := memory.take():
            total += len(found)
    assert total == 3 * UNITS
    memory.words[HEAD] += 10
    assert memory.take() == []


@pytest.mark.parametrize("head", [UNITS + 1, 2**63, 2**64 - 1])
def test_head_that_cannot_be(memory: Memory, head: int) -> None:
    """A server that was broken into writes any number; it is gone on with from there."""
    memory.words[HEAD] = head
    assert memory.take() == []
    assert memory.words[TAIL] == head
    memory.words[HEAD] = 7
    assert memory.take() == []
    memory.verify(7)
    memory.words[HEAD] = 8
    assert len(memory.take()) == 1
    assert memory.recorder.lost == 2


def test_sizes_that_cannot_be(memory: Memory) -> None:
    """Of a record, or of its parts: no line, and the next record is read."""
    good = (RECORD.size, 0, 0, 0, *[0] * 6, 0, 0, 0)
    heads = [
        (size, *good[1:]) for size in (0, 1, RECORD.size - 1, 504 * 161, 2**31, 2**32 - 1, 1000)
    ]
    heads += [(*good[:10], *sizes) for sizes in ((1, 0, 0), (2**32 - 2, 0, 0), (9, 9, 2**32 - 1))]
    for number, head in enumerate(heads):
        memory.unit(number, RECORD.pack(*head))
    memory.verify(len(heads))
    memory.words[HEAD] = len(heads) + 1
    found: list[object] = []
    for _ in range(2 * len(heads)):
        found += memory.take(is_last=True)
    assert len(found) == 1
    assert memory.words[TAIL] == memory.words[HEAD]
    assert memory.recorder.lost == len(heads) - 1  # that of 1000 bytes takes the next unit too


def test_no_content_of_memory_harms_the_writer(memory: Memory) -> None:
    """Random units, tags and heads: every line is JSON, no error, and there is an end."""
    numbers: random.Random = seeded()
    for _ in range(200):
        begin = memory.words[TAIL]
        for at in range(numbers.randrange(300)):
            size = numbers.choice([0, 60, 64, 70, 500, 600, 5000, 80_640, numbers.getrandbits(32)])
            parts = [numbers.choice([0, 1, 400, 2**32 - 1, size - 64]) % 2**32 for _ in range(3)]
            head = RECORD.pack(size, numbers.randrange(3), -1, 5, *[7] * 6, *parts)
            tag = numbers.choice([None, None, None, 0, numbers.getrandbits(64)])
            memory.unit(begin + at, head + numbers.randbytes(400), tag, numbers.random() < 0.7)
        memory.words[HEAD] = numbers.choice([begin + 300, begin + 1, begin])
        if numbers.random() < 0.02:
            memory.words[HEAD] = numbers.getrandbits(64)
        for _ in range(1000):
            memory.take(is_last=True)
            if memory.words[TAIL] == memory.words[HEAD]:
                break
        assert memory.words[TAIL] == memory.words[HEAD]
        if begin > 2**62:
            memory.recorder = Recorder(memory.file, UNITS)
            memory.words[HEAD] = memory.words[TAIL] = 0


@pytest.mark.parametrize("pidfd", [True, False])
def test_writer_of_a_server_that_never_came(
    pidfd: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It ends with the process that was to become one; on an old Linux without pidfd too."""

    def old_linux(_: int) -> int:
        raise OSError(errno.ENOSYS, "")

    if not pidfd:
        monkeypatch.setattr(os, "pidfd_open", old_linux)
    memory = os.memfd_create("test", os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, HEADER_SIZE)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    thread = threading.Thread(target=Writer(memory, child.pid, -1, "", -1, ["", ""]).run)
    thread.start()
    try:
        thread.join(0.1)
        assert thread.is_alive()
    finally:
        child.communicate(b"\n")
        thread.join(30)
        os.close(memory)
    assert not thread.is_alive()
    assert capfd.readouterr().err.count("the library was not loaded") == 1


def test_counters_as_json() -> None:
    """Each has its place, by the order of native/counters.h; none of the reasons is left out."""
    words = [0] * (HEADER_SIZE // 8)
    words[16 : 16 + 20] = range(100, 120)
    found = json.loads(counters_json(words, 5.9, 3))
    assert found.pop("discarded") == {name: 100 + at for at, name in enumerate(REASONS) if name}
    assert found == {
        "time": 5,
        "challenged": 115,
        "presented": 116,
        "verified": 117,
        "verified_previous": 118,
        "left_alone": 119,
        "not_recorded": 3,
    }


def test_text_for_node_exporter_is_that_of_the_metrics() -> None:
    """Names, types, descriptions and labels are those of gnutls_cookie.metrics, of which the writer
    imports nothing; a label tells servers apart."""
    parse = pytest.importorskip("prometheus_client.parser").text_string_to_metric_families
    words = [0] * (HEADER_SIZE // 8)
    words[16 : 16 + 20] = range(100, 120)
    found = {one.name: one for one in parse(counters_text(words, 3, 'co"ap\\1').decode())}
    discarded = {reason: 100 + reason for reason in DiscardReason}
    for family in families(GateCounters(115, 116, 117, 118, discarded), build_info=False):
        same = found.pop(family.name)
        assert (same.type, same.documentation) == (family.kind, family.text)
        assert [(sample.labels, sample.value) for sample in same.samples] == [
            ({"server": 'co"ap\\1', **labels}, value) for labels, value in family.samples
        ]
    rest = {name: one.samples[0].value for name, one in found.items()}
    assert rest == {"gnutls_cookie_calls_left_alone": 119, "gnutls_cookie_calls_not_recorded": 3}


@pytest.mark.parametrize(
    ("name", "is_text"),
    [("coap.prom", True), ("coap.json", False), ("prom", False), ("a.prom.json", False)],
)
def test_name_of_the_file_says_what_is_in_it(name: str, is_text: bool) -> None:
    """node_exporter reads files that end in .prom; all others are JSON."""
    data = counters_for(name, [0] * (HEADER_SIZE // 8), 0)
    assert data.startswith(b"# HELP gnutls_cookie_") == is_text
    assert data.startswith(b'{"time": ') != is_text
    assert (b'{server="coap"}' in data) == is_text


def test_names_of_reasons_are_those_of_the_gate() -> None:
    """The writer imports nothing of the package, and so has them a second time."""
    assert {one.value: one.name.lower() for one in DiscardReason} == {
        at: name for at, name in enumerate(REASONS) if name
    }


def test_record_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    """Keys go into it; what is in it already stays."""
    file = tmp_path / "record"
    file.write_text("before\n")
    file.chmod(0o644)
    folder = os.open(tmp_path, os.O_RDONLY)
    opened = open_for_appending("record", folder)
    os.write(opened, b"after\n")
    os.close(opened)
    os.close(folder)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text() == "before\nafter\n"


def test_file_that_cannot_be_replaced(tmp_path: Path) -> None:
    """Nothing is left in its folder."""
    (tmp_path / "taken").mkdir()
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(OSError, match="directory"):
            replace_file("taken", folder, b"data")
        assert os.listdir(tmp_path) == ["taken"]
        replace_file("free", folder, b"data")
        assert (tmp_path / "free").read_bytes() == b"data"
        assert sorted(os.listdir(tmp_path)) == ["free", "taken"]
    finally:
        os.close(folder)


def test_printable() -> None:
    """What is not printable is escaped, text of any language is not."""
    assert printable("añ 漢 \\") == "añ 漢 \\"
    assert printable("\x1b[31m\n\x9b\udcff\u2028") == r"\x1b[31m\n\x9b\udcff\u2028"
