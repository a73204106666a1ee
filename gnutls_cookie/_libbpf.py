"""libbpf, by cffi's ABI mode: what xdp.py asks of it, and of the kernel through it.

Nothing here is needed for anything but xdp.py, which alone imports it.
"""

from __future__ import annotations

import errno
import fcntl
import functools
import os
import re
import socket
import struct
from contextlib import suppress
from typing import Any

from cffi import FFI

__all__ = [
    "GENERIC",
    "NATIVE",
    "NOT_THE_EXPECTED_PROGRAM",
    "XdpError",
    "allowed",
    "attach",
    "detach",
    "driver_of",
    "ffi",
    "has_ethernet",
    "index_of",
    "library",
    "load",
    "map_descriptor",
    "map_info",
    "map_lookup",
    "map_of",
    "map_update",
    "object_by_id",
    "open_object",
    "program_info",
    "program_of",
    "programs_on",
    "reuse_map",
]

_SONAME = "libbpf.so.1"
_TO_LOAD = "the capabilities CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
# linux/capability.h
_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21, "CAP_PERFMON": 38, "CAP_BPF": 39}
_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # of the process or the machine
_LOG_BYTES = (1 << 24) - 1  # what all kernels take as the size of the verifier's log

ffi: Any = FFI()
ffi.cdef(
    """
struct bpf_object_open_opts {
    size_t sz;
    const char *object_name;
    bool relaxed_maps;
    const char *pin_root_path;
    uint32_t unused;
    const char *kconfig;
    const char *btf_custom_path;
    char *kernel_log_buf;
    size_t kernel_log_size;
    uint32_t kernel_log_level;
};
struct bpf_test_run_opts {
    size_t sz;
    const void *data_in;
    void *data_out;
    uint32_t data_size_in;
    uint32_t data_size_out;
    const void *ctx_in;
    void *ctx_out;
    uint32_t ctx_size_in;
    uint32_t ctx_size_out;
    uint32_t retval;
    int repeat;
    uint32_t duration;
    uint32_t flags;
    uint32_t cpu;
    uint32_t batch_size;
};
struct bpf_xdp_attach_opts { size_t sz; int old_prog_fd; };
struct bpf_xdp_query_opts {
    size_t sz;
    uint32_t prog_id;
    uint32_t drv_prog_id;
    uint32_t hw_prog_id;
    uint32_t skb_prog_id;
    uint8_t attach_mode;
};
/* linux/bpf.h, as far as it is read: the kernel takes shorter ones. */
struct bpf_prog_info {
    uint32_t type;
    uint32_t id;
    uint8_t tag[8];
    uint32_t jited_prog_len;
    uint32_t xlated_prog_len;
    uint64_t jited_prog_insns;
    uint64_t xlated_prog_insns;
    uint64_t load_time;
    uint32_t created_by_uid;
    uint32_t nr_map_ids;
    uint64_t map_ids;
    char name[16];
};
struct bpf_map_info {
    uint32_t type;
    uint32_t id;
    uint32_t key_size;
    uint32_t value_size;
    uint32_t max_entries;
    uint32_t map_flags;
    char name[16];
};

uint32_t libbpf_major_version(void);
void *libbpf_set_print(void *);
int libbpf_num_possible_cpus(void);

struct bpf_object *bpf_object__open_file(const char *, const struct bpf_object_open_opts *);
int bpf_object__load(struct bpf_object *);
void bpf_object__close(struct bpf_object *);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *, const char *);
int bpf_program__fd(const struct bpf_program *);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *, const char *);
int bpf_map__fd(const struct bpf_map *);
int bpf_map__reuse_fd(struct bpf_map *, int);

int bpf_map_lookup_elem(int, const void *, void *);
int bpf_map_update_elem(int, const void *, const void *, uint64_t);
int bpf_prog_get_fd_by_id(uint32_t);
int bpf_map_get_fd_by_id(uint32_t);
int bpf_obj_get_info_by_fd(int, void *, uint32_t *);
int bpf_prog_test_run_opts(int, struct bpf_test_run_opts *);
int bpf_xdp_attach(int, int, uint32_t, const struct bpf_xdp_attach_opts *);
int bpf_xdp_detach(int, uint32_t, const struct bpf_xdp_attach_opts *);
int bpf_xdp_query(int, int, struct bpf_xdp_query_opts *);
"""
)

_OPEN_OPTS = ffi.typeof("struct bpf_object_open_opts *")
_ATTACH_OPTS = ffi.typeof("struct bpf_xdp_attach_opts *")
_QUERY_OPTS = ffi.typeof("struct bpf_xdp_query_opts *")

# linux/if_link.h
GENERIC, NATIVE = 1 << 1, 1 << 2  # XDP_FLAGS_SKB_MODE, XDP_FLAGS_DRV_MODE
_IF_NONE, _REPLACE = 1 << 0, 1 << 4  # XDP_FLAGS_UPDATE_IF_NOEXIST, XDP_FLAGS_REPLACE

_SIOCGIFHWADDR = 0x8927  # linux/sockios.h
_ETHERNET = {1, 772}  # linux/if_arp.h: ARPHRD_ETHER, ARPHRD_LOOPBACK
_SIOCETHTOOL, _ETHTOOL_GDRVINFO = 0x8946, 3  # linux/sockios.h, linux/ethtool.h
_DRVINFO_BYTES = 196

NOT_THE_EXPECTED_PROGRAM = errno.EEXIST  # with _REPLACE; net/core/dev.c


class XdpError(RuntimeError):
    """The kernel or libbpf does not do what was asked for; the text says in one line why.

    Attributes:
        errno: the error's number; 0 where there is none.
        verifier_log: why the kernel's verifier refused the program, in its own words; "" where it
            did not.
    """

    def __init__(self, text: str, number: int = 0, verifier_log: str = "") -> None:
        super().__init__(text)
        self.errno = number
        self.verifier_log = verifier_log


@functools.cache
def library() -> Any:
    """libbpf, with its own messages turned off.

    Raises:
        XdpError: it is not installed, or older than 1.0.
    """
    if os.uname().sysname != "Linux":
        raise XdpError("XDP is a part of Linux, and this is another system")
    try:
        lib = ffi.dlopen(_SONAME)
        lib.bpf_xdp_attach  # noqa: B018  # all that is used is as old as this, or older
        is_old = lib.libbpf_major_version() < 1
    except OSError:
        raise XdpError(
            f"{_SONAME} is missing: install libbpf 1.0 or later (libbpf1 of Debian and Ubuntu)"
        ) from None
    except AttributeError:
        is_old = True
    if is_old:
        raise XdpError(f"{_SONAME} is older than 1.0")
    lib.libbpf_set_print(ffi.NULL)
    return lib


def allowed(what: str, capabilities: str, result: int) -> int:
    """What a call gave.

    Raises:
        XdpError: it is negative: `what` failed.
    """
    if result >= 0:
        return result
    number = -result
    if number in (errno.EPERM, errno.EACCES):
        raise XdpError(f"{what} needs root, or {capabilities}", number)
    if number == errno.ENOSYS:
        raise XdpError(f"{what}: this kernel has no BPF (CONFIG_BPF_SYSCALL)", number)
    raise XdpError(f"{what}: {os.strerror(number)}", number)


# --- objects and maps -----------------------------------------------------------------------------


def open_object(path: str) -> tuple[Any, Any]:
    """An object file, not yet in the kernel, and the buffer of the verifier's log.

    Raises:
        XdpError: it cannot be read.
    """
    lib = library()
    log = ffi.new_allocator(should_clear_after_alloc=False)("char[]", _LOG_BYTES)
    log[0] = b"\0"
    options = ffi.new(_OPEN_OPTS)
    options.sz = ffi.sizeof(_OPEN_OPTS.item)
    options.kernel_log_buf, options.kernel_log_size = log, _LOG_BYTES
    found = lib.bpf_object__open_file(os.fsencode(path), options)
    if not found:
        raise XdpError(f"{path}: {os.strerror(ffi.errno)}", ffi.errno)
    return ffi.gc(found, lib.bpf_object__close), log


def load(opened: Any, log: Any, kernel: str) -> None:
    """Load an object into the kernel.

    Args:
        opened: of open_object().
        log: of the same.
        kernel: the least version that it needs.

    Raises:
        XdpError: the kernel does not take it.
    """
    result = library().bpf_object__load(opened)
    if result >= 0:
        return
    number = -result
    if not _may_load():
        raise XdpError(f"loading the program needs root, or {_TO_LOAD}", number)
    if number in _LIMITS:  # whatever the log says by then
        allowed("loading the program", _TO_LOAD, result)
    said = ffi.string(log).decode("utf-8", "replace")
    release = os.uname().release
    if _numbers(release) < _numbers(kernel):
        raise XdpError(
            f"this kernel ({release}) is too old: Linux {kernel} or later is needed", number
        )
    if said.strip():
        lines = [one.strip() for one in said.splitlines() if one.strip()]
        words = [one for one in lines if not one.startswith("processed ")] or lines
        text = f"the verifier of this kernel ({release}) refuses the program: {words[-1][:200]}"
        raise XdpError(text, number, said)
    if number in (errno.EPERM, errno.EACCES, errno.ENOSYS):
        allowed("loading the program", _TO_LOAD, result)
    raise XdpError(f"this kernel ({release}) refuses the program: {os.strerror(number)}", number)


def _numbers(version: str) -> list[int]:
    """The first two of a version."""
    return [int(one) for one in re.findall(r"\d+", version)[:2]]


def _may_load() -> bool:
    """Whether this process has the capabilities. Without CAP_PERFMON the verifier would refuse the
    program, and say something else."""
    try:
        with open("/proc/self/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file if b":" in line)
        mask = int(fields[b"CapEff"], 16)
    except (OSError, KeyError, ValueError):
        return True
    has = {name: bool(mask >> bit & 1) for name, bit in _CAPABILITIES.items()}
    return has["CAP_NET_ADMIN"] and (
        has["CAP_SYS_ADMIN"] or (has["CAP_BPF"] and has["CAP_PERFMON"])
    )


def map_of(opened: Any, name: str) -> Any:
    """A map of an object: a struct bpf_map."""
    found = library().bpf_object__find_map_by_name(opened, name.encode())
    if not found:
        raise XdpError(f"the program has no map {name}: it was built from other sources")
    return found


def map_descriptor(opened: Any, name: str) -> int:
    """The descriptor of a map of a loaded object, which owns it."""
    return int(library().bpf_map__fd(map_of(opened, name)))


def program_of(opened: Any, name: str) -> int:
    """The descriptor of a loaded program; the object owns it."""
    found = library().bpf_object__find_program_by_name(opened, name.encode())
    if not found:
        raise XdpError(f"there is no program {name} in it: it was built from other sources")
    return int(library().bpf_program__fd(found))


def reuse_map(opened: Any, name: str, descriptor: int) -> None:
    """Have an object that is not yet loaded use a map of another one."""
    allowed(name, "CAP_BPF", library().bpf_map__reuse_fd(map_of(opened, name), descriptor))


def map_lookup(descriptor: int, key: bytes, value: Any) -> None:
    """Read a value of a map into a buffer of its size."""
    allowed("reading a map", "CAP_BPF", library().bpf_map_lookup_elem(descriptor, key, value))


def map_update(descriptor: int, key: bytes, value: bytes) -> None:
    """Write a value of a map."""
    allowed("writing a map", "CAP_BPF", library().bpf_map_update_elem(descriptor, key, value, 0))


def object_by_id(kind: str, number: int) -> int:
    """A descriptor of a program or a map, which the caller closes.

    Args:
        kind: "prog" or "map".
        number: its id.
    """
    get = getattr(library(), f"bpf_{kind}_get_fd_by_id")
    return allowed("looking at the interface's program", "CAP_SYS_ADMIN", get(number))


def program_info(descriptor: int) -> tuple[int, str, list[int]]:
    """Id, name and ids of the maps of a program."""
    ids = ffi.new("uint32_t[64]")
    info = ffi.new("struct bpf_prog_info *")
    info.map_ids, info.nr_map_ids = int(ffi.cast("uintptr_t", ids)), len(ids)
    _info(descriptor, info, ffi.sizeof("struct bpf_prog_info"))
    count = min(info.nr_map_ids, len(ids))
    return info.id, ffi.string(info.name).decode("utf-8", "replace"), list(ids[0:count])


def map_info(descriptor: int) -> tuple[str, int]:
    """Name and size of a value, in bytes, of a map."""
    info = ffi.new("struct bpf_map_info *")
    _info(descriptor, info, ffi.sizeof("struct bpf_map_info"))
    return ffi.string(info.name).decode("utf-8", "replace"), info.value_size


def _info(descriptor: int, info: Any, size: int) -> None:
    length = ffi.new("uint32_t *", size)
    result = library().bpf_obj_get_info_by_fd(descriptor, info, length)
    allowed("looking at a program", "CAP_BPF", result)


# --- interfaces -----------------------------------------------------------------------------------


def index_of(interface: str) -> int:
    """The number of an interface.

    Raises:
        XdpError: there is none of that name.
    """
    if not isinstance(interface, str):
        raise TypeError(f"interface must be a str, not {type(interface).__name__}")
    try:
        return socket.if_nametoindex(interface)
    except (OSError, ValueError):
        raise XdpError(f"there is no interface {interface!r}", errno.ENODEV) from None


def has_ethernet(interface: str) -> bool:
    """Whether its frames are Ethernet's, or may be. In those of a tunnel IP comes first."""
    # struct ifreq: a name, and a struct sockaddr in a union of 24 bytes
    request = struct.pack("@16s24x", os.fsencode(interface))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        suppress(OSError),
    ):
        answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, request)
        return struct.unpack_from("=H", answer, 16)[0] in _ETHERNET
    return True


def driver_of(interface: str) -> str:
    """The name of an interface's driver; "" where it has none."""
    info = ffi.new("char[]", _DRVINFO_BYTES)
    ffi.buffer(info)[:4] = struct.pack("=I", _ETHTOOL_GDRVINFO)
    # struct ifreq: a name, and a pointer in a union of 24 bytes
    request = struct.pack("@16sP16x", os.fsencode(interface), int(ffi.cast("uintptr_t", info)))
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        suppress(OSError),
    ):
        fcntl.ioctl(sock, _SIOCETHTOOL, request)
    driver: bytes = ffi.string(info + 4, 32)
    return driver.decode("utf-8", "replace")


def programs_on(index: int) -> list[tuple[int, int]]:
    """The programs of an interface: mode (NATIVE, GENERIC, 0 for one in hardware) and id.

    Raises:
        XdpError: there is no such interface.
    """
    options = ffi.new(_QUERY_OPTS)
    options.sz = ffi.sizeof(_QUERY_OPTS.item)
    allowed("asking for the interface's program", "", library().bpf_xdp_query(index, 0, options))
    found = {NATIVE: options.drv_prog_id, GENERIC: options.skb_prog_id, 0: options.hw_prog_id}
    return [(mode, number) for mode, number in found.items() if number]


def attach(index: int, descriptor: int, mode: int, old: int | None) -> int:
    """Attach a program to an interface, through netlink: the interface holds it from then on.

    Args:
        index: of the interface.
        descriptor: of the program.
        mode: NATIVE or GENERIC.
        old: a descriptor of the one that it replaces, at one stroke; None: there must be none.

    Returns:
        0, or a negative errno.
    """
    if old is None:
        result = library().bpf_xdp_attach(index, descriptor, mode | _IF_NONE, ffi.NULL)
    else:
        options = _expecting(old)
        result = library().bpf_xdp_attach(index, descriptor, mode | _REPLACE, options)
    return int(result)


def detach(index: int, descriptor: int, mode: int) -> int:
    """Take a program off an interface, if it is the one there.

    Returns:
        0, or a negative errno: -NOT_THE_EXPECTED_PROGRAM where it is another one, or none.
    """
    options = _expecting(descriptor)
    return int(library().bpf_xdp_detach(index, mode | _REPLACE, options))


def _expecting(descriptor: int) -> Any:
    options = ffi.new(_ATTACH_OPTS)
    options.sz, options.old_prog_fd = ffi.sizeof(_ATTACH_OPTS.item), descriptor
    return options
