#!/bin/sh
# The suite under each Python of this machine, in bare Debian trees that are made for it, and with the
# libgnutls of an older Debian: matrix.sh [PYTEST ARGUMENTS]. Each has a copy of the last commit and a
# .venv of its own, so what is not committed is not in it. Prints a table; the exit code is that of
# the worst, 0 if all passed.
#
# PYTHONS       versions to look for here, 3.11 to 3.15 and free-threaded ones; empty for none
# DEBIAN        suites, each with the version of a Python if not its own: bookworm trixie sid sid:3.15
# OLD_DEBIAN    whose libgnutls is tried: bullseye
# DEBIAN_MIRROR if not debootstrap's default, and for OLD_DEBIAN the one of this machine
# shellcheck disable=SC2016,SC2046,SC2317 # scripts for other shells, lists of words, functions as words
set -eu
unset CDPATH PYTHON VIRTUAL_ENV
root=$(cd -- "$(dirname -- "$0")/.." && pwd -P)
logs=$root/.dev/matrix
work=$(mktemp -d "${TMPDIR:-/var/tmp}/gnutls-cookie-matrix.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
mkdir -p "$logs"
: >"$work/table"
worst=0

main() {
    for version in ${PYTHONS-3.11 3.12 3.13 3.14 3.14t 3.15 3.15t}; do
        if python=$(find_python "$version"); then
            in_copy "python$version" "$python" "$@"
        else
            row "python$version" - - - "not on this machine"
        fi
    done
    for suite in ${DEBIAN-bookworm trixie sid sid:3.15}; do
        in_debian "$suite" "$@"
    done
    for suite in ${OLD_DEBIAN-bullseye}; do
        with_library_of "$suite" "$@"
    done
    echo
    cat "$work/table"
    [ "$(git_says status --porcelain)" = "" ] || echo "What is not committed was not in it."
    exit "$worst"
}

# The interpreter itself, by its own word: a name on PATH may be a version manager's script, which
# stands there for versions that are not chosen as well.
find_python() {
    for candidate in "python$1" "${PYENV_ROOT:-${HOME:-}/.pyenv}/versions/${1%t}".*/bin/"python$1"; do
        "$candidate" -c '
import os, sys, sysconfig
threads = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
if "%d.%d%s" % (*sys.version_info[:2], threads) != sys.argv[1]:
    sys.exit(1)
print(os.path.realpath(sys.executable))
' "$1" 2>/dev/null && return
    done
    return 1
}

git_says() {
    git -C "$root" "$@" 2>/dev/null || :
}

# copy FOLDER: the last commit; without git what is here, but for what was built.
copy() {
    mkdir -p "$1"
    if [ -n "$(git_says rev-parse HEAD)" ]; then
        git -C "$root" archive HEAD | tar -x -C "$1"
    else
        tar -c -C "$root" --exclude ./.venv --exclude ./.dev --exclude ./build --exclude '*.so' . |
            tar -x -C "$1"
    fi
}

# in_copy NAME PYTHON [PYTEST ARGUMENTS]
in_copy() {
    name=$1 python=$2
    shift 2
    copy "$work/$name"
    run "$name" at "$work/$name" env PYTHON="$python" ./dev test "$@"
    row "$name" $(versions at "$work/$name" .venv/bin/python) "$seconds" "$(result "$name")"
    rm -rf "${work:?}/$name"
}

at() (
    cd -- "$1"
    shift
    "$@"
)

# in_debian SUITE[:PYTHON] [PYTEST ARGUMENTS]: a bare tree, in which ./dev installs what it needs.
in_debian() {
    suite=${1%:*} version=${1#"${1%:*}"} name=debian-$(echo "$1" | tr : -)
    version=${version#:} tree=$work/$name
    shift
    if ! lacks=$(debian_tree "$suite"); then
        row "$name" - - - "not tried: $lacks"
        return
    fi
    copy "$tree/root/project"
    export PYTHON="${version:+python$version}" # inside hands it on
    if [ -z "$version" ] || inside_apt "python$version" "python$version-venv" "python$version-dev"; then
        run "$name" inside ./dev test "$@"
        row "$name" $(versions inside .venv/bin/python) "$seconds" "$(result "$name")"
    else
        row "$name" - - - "not tried: no python$version there: $logs/apt.log"
    fi
    unset PYTHON
    rm -rf --one-file-system "$tree"
}

# debian_tree SUITE: makes $tree; says what is in the way.
debian_tree() {
    [ "$(id -u)" = 0 ] || { echo "not root" && return 1; }
    for program in debootstrap chroot unshare; do
        command -v $program >/dev/null || { echo "$program is not here" && return 1; }
    done
    base=$work/base-$1
    if [ ! -e "$base" ]; then
        echo "==> debootstrap $1" >&2
        debootstrap --variant=minbase "$1" "$base.new" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} \
            >"$logs/debootstrap.log" 2>&1 ||
            { echo "debootstrap failed: $logs/debootstrap.log" && return 1; }
        # A mirror of sid may be a snapshot, past its date.
        echo 'Acquire::Check-Valid-Until "false";' >"$base.new/etc/apt/apt.conf.d/99date"
        # How this machine reaches the network is how the tree does.
        cp -L /etc/resolv.conf "$base.new/etc/" 2>/dev/null || :
        mkdir -p "$base.new/etc/ssl/certs"
        cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" \
            "$base.new/etc/ssl/certs/host.crt" || :
        grep -v '^cert' /etc/pip.conf >"$base.new/etc/pip.conf" 2>/dev/null || :
        mv "$base.new" "$base"
    fi
    cp -a "$base" "$tree"
}

inside_apt() {
    { inside apt-get -q update && inside apt-get -q -y --no-install-recommends install "$@"; } \
        >"$logs/apt.log" 2>&1
}

# with_library_of SUITE [PYTEST ARGUMENTS]: the Python of ./dev here, and headers, libgnutls and
# gnutls-cli of an older Debian, unpacked beside the copy.
with_library_of() {
    name=libgnutls-$1 parts=$work/library-$1
    if ! library=$(unpack_library "$1" "$parts"); then
        row "$name" - - - "not tried: $logs/apt.log"
        return
    fi
    shift
    copy "$work/$name"
    set -- env PATH="$parts/usr/bin:$PATH" LD_LIBRARY_PATH="$library" \
        GNUTLS_CFLAGS="-I$parts/usr/include" GNUTLS_LIBS="-L$library -lgnutls" ./dev test "$@"
    run "$name" at "$work/$name" "$@"
    row "$name" $(versions at "$work/$name" env LD_LIBRARY_PATH="$library" .venv/bin/python) \
        "$seconds" "$(result "$name")"
    rm -rf "${work:?}/$name" "$parts"
}

# unpack_library SUITE FOLDER: prints where its libraries are. apt gets lists of its own, so that
# nothing of the system is changed.
unpack_library() {
    mkdir -p "$2/lists/partial" "$2/archives/partial"
    : >"$2/status"
    mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(REPO_URI)' | grep -v security | head -n 1)}
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "$mirror $1 main" >"$2/sources.list"
    at "$2" apt_of_its_own update >"$logs/apt.log" 2>&1 &&
        at "$2" apt_of_its_own download libgnutls30 libgnutls28-dev gnutls-bin libgnutls-dane0 \
            libunbound8 libopts25 libnettle8 libhogweed6 libtasn1-6 libunistring2 libidn2-0 \
            libp11-kit0 libffi7 libgmp10 libevent-2.1-7 libssl1.1 >>"$logs/apt.log" 2>&1 || return
    for package in "$2"/*.deb; do
        dpkg -x "$package" "$2" || return
    done
    dirname "$2"/usr/lib/*/libgnutls.so.30
}

apt_of_its_own() {
    apt-get -q -o Dir::Etc::sourcelist="$PWD/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::State::lists="$PWD/lists" -o Dir::State::status="$PWD/status" \
        -o Dir::Cache::archives="$PWD/archives" -o Acquire::Check-Valid-Until=false \
        -o APT::Sandbox::User=root "$@"
}

# inside COMMAND...: in the Debian tree. The mounts are those of a namespace, and go with it.
inside() {
    for variable in http_proxy https_proxy no_proxy PIP_INDEX_URL PYTHON CI REQUIRE_PEERS; do
        eval "value=\${$variable:-}"
        [ -z "$value" ] || set -- "$variable=$value" "$@"
    done
    unshare --mount --pid --fork sh -c '
        tree=$1
        shift
        mount --rbind /dev "$tree/dev" && mount -t proc proc "$tree/proc" &&
            exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive PIP_CERT=/etc/ssl/certs/host.crt \
                SSL_CERT_FILE=/etc/ssl/certs/host.crt \
                chroot "$tree" sh -c "cd /root/project && exec env \"\$@\"" sh "$@"
    ' sh "$tree" "$@"
}

# run NAME COMMAND...: into a log of its own; sets `seconds`, and `worst`.
run() {
    log=$logs/$1.log
    echo "==> $1: $log"
    shift
    seconds=$(date +%s)
    code=0
    "$@" >"$log" 2>&1 </dev/null || code=$?
    seconds=$(($(date +%s) - seconds))
    [ "$code" -le "$worst" ] || worst=$code
}

# What pytest said last, or where to read on.
result() {
    summary=$(grep -E ' in [0-9.]+s' "$logs/$1.log" | tail -n 1 | sed 's/^=* *//; s/ *=*$//')
    if [ "$code" = 0 ]; then
        echo "$summary"
    else
        echo "exit code $code: ${summary:-see} $logs/$1.log"
    fi
}

# The versions of Python and of libgnutls that a command knows; dashes if it cannot run.
versions() {
    "$@" -c 'import platform, gnutls_cookie as g; print(platform.python_version(), g.library_version())' \
        2>/dev/null || echo - -
}

row() {
    [ -s "$work/table" ] || printf '%-16s %-10s %-10s %-8s %s\n' where Python libgnutls seconds result \
        >"$work/table"
    printf '%-16s %-10s %-10s %-8s %s\n' "$@" >>"$work/table"
}

main "$@"
