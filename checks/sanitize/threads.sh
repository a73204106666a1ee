#!/bin/sh
# The C half under ThreadSanitizer: threads.sh [SECONDS]. First a planted race must be found, then
# threads.c must run in silence. libgnutls is watched at its locks alone.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
native=$here/../../gnutls_cookie/native
seconds=${1:-60}
work=$(mktemp -d "${TMPDIR:-/tmp}/gnutls-cookie-threads.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

build() {
    program=$1
    shift
    # shellcheck disable=SC2046,SC2086 # flags are words
    ${CC:-cc} -std=gnu11 -O1 -g -fsanitize=thread -pthread "$@" \
        ${GNUTLS_CFLAGS-$(pkg-config --cflags gnutls)} -I"$native" -o "$work/$program" \
        "$here/threads.c" "$here/no_python.c" "$native"/*.c ${GNUTLS_LIBS-$(pkg-config --libs gnutls)} -lm
}

build threads
build planted -DGCOOKIE_PLANTED_RACE
export TSAN_OPTIONS="exitcode=66 ${TSAN_OPTIONS-}"
if "$work/planted" 1 >"$work/said" 2>&1 || ! grep -q "global 'planted'" "$work/said"; then
    cat "$work/said"
    echo "the planted race was not found"
    exit 1
fi
echo "the planted race was found"
"$work/threads" "$seconds"
echo "no other race"
