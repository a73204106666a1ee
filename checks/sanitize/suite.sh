#!/bin/sh
# The tests of the package over an extension with AddressSanitizer and UBSan in it: suite.sh [PYTEST
# ARGUMENTS]. First it must find a planted overread. PYTHON has the package's test requirements.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d "${TMPDIR:-/tmp}/gnutls-cookie-suite.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

# A copy: the extension of this checkout stays as it is.
mkdir "$work/gnutls_cookie"
cp -R "$root/gnutls_cookie/." "$work/gnutls_cookie"
cp "$root/build_ffi.py" "$root/setup.py" "$root/pyproject.toml" "$root/README.md" "$root/LICENSE" "$work"
cp -R "$root/tests" "$root/checks" "$work"
cd "$work"
rm -f gnutls_cookie/_ffi*.so
flags="-fsanitize=address,undefined"
CFLAGS="$flags -fno-sanitize-recover=undefined -fno-omit-frame-pointer -O1 -g" LDFLAGS=$flags \
    "$python" setup.py -q build_ext --inplace >"$work/said" 2>&1 || {
    cat "$work/said"
    exit 1
}

# Python itself is not built with them, so they must be there before it.
libraries=$(ldd gnutls_cookie/_ffi*.so | sed -n 's/.*lib[au]b*san[^ ]* => \([^ ]*\) .*/\1/p' | tr '\n' ' ')
[ -n "$libraries" ] || {
    echo "the extension is not linked with a shared library of the sanitizers"
    exit 1
}

# Leaks: Python's own at its end are many; tests of their own look for those of the package.
# PYTHONMALLOC: memory of Python's pools has no borders that can be watched.
watched() {
    env LD_PRELOAD="$libraries" ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc \
        PYTHONPATH="$work:$work/tests" "$python" "$@"
}

if watched checks/sanitize/planted.py >"$work/said" 2>&1; then
    echo "the overread planted in Python was not found"
    exit 1
fi
grep -q 'AddressSanitizer: heap-buffer-overflow' "$work/said" || {
    cat "$work/said"
    exit 1
}
echo "the overread planted in Python was found"
[ $# -gt 0 ] || set -- tests/binding/test_cookie.py tests/gate/test_gate.py tests/gate/test_keys.py tests/binding/test_locks.py \
    tests/gate/test_gate_property.py tests/gate/test_listener.py tests/session/test_session.py tests/binding/test_identity.py \
    tests/session/test_tickets.py tests/session/test_agreed.py tests/session/test_raw_keys.py tests/session/test_revocation.py \
    tests/session/test_session_hostile.py tests/session/test_guard.py tests/session/test_costs.py tests/server/test_server.py tests/server/test_fair.py \
    tests/server/test_attack.py tests/adapters/test_aio_protocol.py -m "not slow and not long and not peer"
watched -m pytest -q -p no:cacheprovider "$@"
