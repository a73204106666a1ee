#!/bin/sh
# Threads of Python over an extension with ThreadSanitizer in it: python_threads.sh [SECONDS]. First a
# planted race must be found, then python_threads.py must run in silence. PYTHON is a free-threaded
# one that has cffi and setuptools; ThreadSanitizer need not be in it: see python_calls.h.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d "${TMPDIR:-/tmp}/gnutls-cookie-threads.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

"$python" -c 'import sys, sysconfig; sys.exit(not sysconfig.get_config_var("Py_GIL_DISABLED"))' || {
    echo "$python is not a free-threaded one: with a GIL there is little to be found"
    exit 2
}
mkdir "$work/gnutls_cookie"
cp -R "$root/gnutls_cookie/." "$work/gnutls_cookie"
cp -R "$root/checks" "$work"
cp "$root/build_ffi.py" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$work"
cd "$work"
rm -f gnutls_cookie/_ffi*.so
CFLAGS="-fsanitize=thread -fno-omit-frame-pointer -O1 -g -include checks/sanitize/python_calls.h" LDFLAGS=-fsanitize=thread \
    "$python" setup.py -q build_ext --inplace >"$work/said" 2>&1 || {
    cat "$work/said"
    exit 1
}
library=$(ldd gnutls_cookie/_ffi*.so | sed -n 's/.*libtsan[^ ]* => \([^ ]*\) .*/\1/p')
[ -n "$library" ] || {
    echo "the extension is not linked with a shared library of ThreadSanitizer"
    exit 1
}

watched() {
    env LD_PRELOAD="$library" PYTHONPATH="$work" \
        TSAN_OPTIONS="exitcode=66 ignore_noninstrumented_modules=1 ${TSAN_OPTIONS-}" \
        "$python" checks/sanitize/python_threads.py "$@"
}

if watched planted >"$work/said" 2>&1 || ! grep -q 'data race.*gcookie_turn_reset' "$work/said"; then
    cat "$work/said"
    echo "the planted race was not found"
    exit 1
fi
echo "the planted race was found"
watched "${1:-60}"
echo "no other race"
