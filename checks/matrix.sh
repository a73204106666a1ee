#!/bin/sh
# The suite under each Python 3.11 to 3.15 of this machine, free-threaded ones (3.14t) included, and in
# a Debian 13 tree that is made for it: matrix.sh [PYTEST ARGUMENTS]. Each has a copy of the last commit and a .venv of its own, so what
# is not committed is not in it. Prints a table; the exit code is that of the worst, 0 if all passed.
#
# DEBIAN=trixie (the default), another suite, or empty for none; DEBIAN_MIRROR if not deb.debian.org.
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
    for version in 3.11 3.12 3.13 3.14 3.14t 3.15 3.15t; do
        if python=$(find_python $version); then
            in_copy "python$version" "$python" "$@"
        else
            row "python$version" - - - "not on this machine"
        fi
    done
    if [ -n "${DEBIAN-trixie}" ]; then
        in_debian "${DEBIAN-trixie}" "$@"
    fi
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

# in_debian SUITE [PYTEST ARGUMENTS]: a bare tree, in which ./dev installs what it needs.
in_debian() {
    name=debian-$1 tree=$work/debian-$1
    lacks=
    [ "$(id -u)" = 0 ] || lacks="not root"
    for program in debootstrap chroot unshare; do
        command -v $program >/dev/null || lacks="$program is not here"
    done
    if [ -z "$lacks" ]; then
        echo "==> debootstrap $1"
        debootstrap --variant=minbase "$1" "$tree" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} \
            >"$logs/debootstrap.log" 2>&1 || lacks="debootstrap failed: $logs/debootstrap.log"
    fi
    if [ -n "$lacks" ]; then
        row "$name" - - - "not tried: $lacks"
        return
    fi
    shift
    # How this machine reaches the network is how the tree does.
    cp -L /etc/resolv.conf "$tree/etc/" 2>/dev/null || :
    mkdir -p "$tree/etc/ssl/certs"
    cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$tree/etc/ssl/certs/host.crt" || :
    grep -v '^cert' /etc/pip.conf >"$tree/etc/pip.conf" 2>/dev/null || :
    copy "$tree/root/project"
    run "$name" inside ./dev test "$@"
    row "$name" $(versions inside .venv/bin/python) "$seconds" "$(result "$name")"
    rm -rf --one-file-system "$tree"
}

# inside COMMAND...: in the Debian tree. The mounts are those of a namespace, and go with it.
inside() {
    for variable in http_proxy https_proxy no_proxy PIP_INDEX_URL CI REQUIRE_PEERS; do
        eval "value=\${$variable:-}"
        [ -z "$value" ] || set -- "$variable=$value" "$@"
    done
    unshare --mount --pid --fork sh -c '
        tree=$1
        shift
        mount --rbind /dev "$tree/dev" && mount -t proc proc "$tree/proc" &&
            exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
                HOME=/root LANG=C.UTF-8 PIP_CERT=/etc/ssl/certs/host.crt \
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
