#!/bin/sh
# The gate under AddressSanitizer and UBSan: run.sh [CASES [SEED]]. First a planted overread must be
# found, then the gate must agree with its reference in silence. Without arguments it is 1,000,000
# cases, then threads under ThreadSanitizer (threads.sh), and then the package's own
# tests over an extension built the same way (suite.sh).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
native=$here/../../gnutls_cookie/native
cases=${1:-1000000}
seed=${2:-$(date +%s)}
work=$(mktemp -d "${TMPDIR:-/tmp}/gnutls-cookie-sanitize.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

build() {
    program=$1
    shift
    # shellcheck disable=SC2046,SC2086 # flags are words
    ${CC:-cc} -std=gnu11 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all \
        -fno-omit-frame-pointer "$@" ${GNUTLS_CFLAGS-$(pkg-config --cflags gnutls)} -I"$native" \
        -o "$work/$program" "$here/driver.c" "$here/no_python.c" "$native/gate.c" "$native/transport.c" \
        ${GNUTLS_LIBS-$(pkg-config --libs gnutls)}
}

echo "seed $seed"
build gate
build planted -DGCOOKIE_PLANTED_OVERREAD

"${PYTHON:-python3}" "$here/make_cases.py" 2000 "$seed" >"$work/few"
if "$work/planted" 2000 <"$work/few" >"$work/said" 2>&1; then
    echo "the planted overread was not found"
    exit 1
fi
grep -q 'AddressSanitizer: heap-buffer-overflow' "$work/said" || {
    cat "$work/said"
    exit 1
}
echo "the planted overread was found"

# A pipe: a million cases are half a gigabyte. The driver counts them.
"${PYTHON:-python3}" "$here/make_cases.py" "$cases" "$seed" | "$work/gate" "$cases"
[ $# -gt 0 ] || sh "$here/threads.sh"
[ $# -gt 0 ] || sh "$here/suite.sh"
