"""native/table.c, the hash table of peers, by a small program of its own."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.common import compile_peer, seeded

# openssl mac -macopt hexkey:000102030405060708090a0b0c0d0e0f -macopt size:8 \
#   -macopt c-rounds:C -macopt d-rounds:D -in FILE SIPHASH
HASHES = [
    (2, 4, 0, "310e0edd47db6f72"),  # as in the paper's reference code
    (2, 4, 1, "fd67dc93c539f874"),
    (2, 4, 8, "6224939a79f5f593"),
    (2, 4, 15, "e545be4961ca29a1"),  # the paper's appendix A
    (2, 4, 63, "724506eb4c328a95"),
    (1, 3, 0, "dcc40f055801acab"),
    (1, 3, 7, "4011b19b987d92d3"),
    (1, 3, 15, "5699512a6dd820d3"),
    (1, 3, 24, "8c9c3467b2ae64f4"),
    (1, 3, 63, "a8b3bbb76290199d"),
]


def table(*words: object) -> str:
    command = [str(compile_peer("table.c")), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("each", "last", "size", "expected"), HASHES)
def test_siphash_gives_the_known_answers(each: int, last: int, size: int, expected: str) -> None:
    """Of SipHash-2-4 and of SipHash-1-3."""
    assert table("hash", each, last, size) == f"{expected}\n"


@pytest.mark.parametrize("nodes", [1, 16, 17, 64, 1000, 65536])
def test_a_table_keeps_what_was_added_and_no_buckets_for_what_was_removed(nodes: int) -> None:
    """A call makes one bucket more or four less; the chains stay short."""
    buckets, chain = map(int, table("walk", seeded().randrange(1 << 31), nodes).split())
    assert nodes <= buckets <= nodes + 16
    assert chain <= 40  # pairs share a hash; more than 20 keys in a bucket: once in 10**12 runs
