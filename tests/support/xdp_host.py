"""Interfaces to attach the program to, and what is left of it in the kernel."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gnutls_cookie import _libbpf as libbpf
from gnutls_cookie.xdp import XdpError
from tests.support.common import ROOT, running
from tests.support.network import ip, namespace_with_veth
from tests.support.serve import SECONDS, Served
from tests.support.xdp import PASS, xdp_required

Word = str | Path


class Host:
    """An interface in a network namespace.

    Args:
        prefix: of a command that runs there.
        interface: its name.
    """

    def __init__(self, prefix: list[str], interface: str) -> None:
        self.prefix = prefix
        self.interface = interface

    def command(self, *words: Word) -> list[str]:
        """The command line of `gnutls-cookie xdp`."""
        program = [sys.executable, "-X", "dev", "-m", "gnutls_cookie", "xdp"]
        return [*self.prefix, *program, *map(str, words)]

    def run(self, *words: Word) -> tuple[int, str]:
        """Exit code of the command, and what it said."""
        done = subprocess.run(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            timeout=SECONDS,
        )
        return done.returncode, done.stdout

    @contextmanager
    def attaching(self, *words: Word, env: dict[str, str] | None = None) -> Iterator[Served]:
        """`attach` to its interface, as soon as it is started."""
        with running(self.command("attach", self.interface, *words), env) as child:
            yield Served(child, 0)

    @contextmanager
    def attached(self, *words: Word, env: dict[str, str] | None = None) -> Iterator[Served]:
        """The same once it is attached."""
        with self.attaching(*words, env=env) as served:
            served.wait_for(r"(?m)^attached to .*\n")
            yield served

    def status(self) -> dict[str, Any]:
        """What `status --json` says; {} where no program is attached."""
        code, said = self.run("status", self.interface, "--json")
        found = json.loads(said)
        assert code == (1 if found is None else 0), said
        return found or {}


@contextmanager
def host() -> Iterator[Host]:
    """One whose other end is in the same namespace; skip where it cannot be."""
    xdp_required()
    with namespace_with_veth() as namespace:
        ip("-n", namespace, "link", "set", "dev", "lo", "up")
        yield Host(["ip", "netns", "exec", namespace], "veth1")


def kept_by(program_id: int) -> list[tuple[str, int]]:
    """A program and its maps: kind and id of each."""
    descriptor = libbpf.object_by_id("prog", program_id)
    try:
        number, name, maps = libbpf.program_info(descriptor)
    finally:
        os.close(descriptor)
    assert (number, name) == (program_id, "gcookie_gate")
    assert len(maps) >= 5
    return [("prog", number), *(("map", one) for one in maps)]


def is_in_kernel(kind: str, number: int) -> bool:
    """Whether a program or a map of that id is there."""
    try:
        os.close(libbpf.object_by_id(kind, number))
    except XdpError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def attach_stranger(interface: str, mode: int = libbpf.GENERIC) -> int:
    """Attach a program of nobody's that passes everything; its id. The interface holds it."""
    mov_r0_pass, leave = 0x00000000_000000B7 | PASS << 32, 0x95
    instructions = struct.pack("=QQ", mov_r0_pass, leave)
    xdp_type = 6  # BPF_PROG_TYPE_XDP
    load = ctypes.CDLL("libbpf.so.1").bpf_prog_load  # which the package does not need
    load.argtypes = [
        *(ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p),
        *(ctypes.c_size_t, ctypes.c_void_p),
    ]
    program = load(xdp_type, b"stranger", b"GPL", instructions, 2, None)
    assert program >= 0, os.strerror(-program)
    result = libbpf.attach(socket.if_nametoindex(interface), program, mode, None)
    assert result == 0, os.strerror(-result)
    return libbpf.program_info(program)[0]


if __name__ == "__main__":
    modes = {"generic": libbpf.GENERIC, "native": libbpf.NATIVE}
    print(attach_stranger(sys.argv[1], modes[sys.argv[2]]))
