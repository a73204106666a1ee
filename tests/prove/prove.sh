#!/bin/sh
# Proves gate.c with Frama-C WP: every memory access and every bound, for datagrams of 0..65535
# bytes, and the contract of each function. Exit code 0 only if every goal closes.
#   prove.sh [GATE_C [FUNCTION]]     another gate.c in its place; one function alone
set -eu
here=$(cd "$(dirname "$0")" && pwd)
native=$(cd "$here/../../gnutls_cookie/native" && pwd)
gate=${1:-$native/gate.c}
work=$(mktemp -d "${TMPDIR:-/tmp}/gnutls-cookie-prove.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

for tool in frama-c why3 z3 cvc4; do
    command -v "$tool" >/dev/null || {
        echo "prove: $tool is not installed (Debian 12: apt install frama-c-base why3 z3 cvc4)" >&2
        exit 2
    }
done

# libgnutls' headers alone: the C library's are Frama-C's own.
include=$(pkg-config --variable=includedir gnutls 2>/dev/null || echo /usr/include)
mkdir "$work/include"
ln -s "$include/gnutls" "$work/include/gnutls"
cp "$here/libgnutls.h" "$here/wp.c" "$work/"
cp "$gate" "$work/gate.c"

export WHY3CONFIG="$work/why3.conf"
why3 config detect >"$work/detect" 2>&1 || {
    cat "$work/detect" >&2
    exit 2
}

code=0
frama-c -machdep gcc_x86_64 -cpp-extra-args="-I$work -I$native -I$work/include" "$work/wp.c" \
    -wp -wp-model Typed+Cast -wp-rte \
    -warn-unsigned-overflow -warn-unsigned-downcast -warn-signed-downcast \
    -wp-prover z3,cvc4 -wp-timeout "${WP_TIMEOUT:-20}" -wp-par 2 ${2:+-wp-fct "$2"} \
    >"$work/log" 2>&1 || code=$?

goals=$(sed -n 's/^\[wp\] Proved goals: *\([0-9]*\) *\/ *\([0-9]*\).*/\1 \2/p' "$work/log")
if [ "$code" -ne 0 ] || [ -z "$goals" ]; then
    tail -20 "$work/log" >&2
    exit 2
fi
echo "proved ${goals% *} of ${goals#* } goals"
[ "${goals% *}" = "${goals#* }" ] && [ "${goals% *}" -gt 0 ] || {
    grep -E '^\[wp\] \[(Failed|Timeout|Unknown)|: (Timeout|Unknown|Failed)' "$work/log" >&2 || :
    exit 1
}
