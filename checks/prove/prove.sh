#!/bin/sh
# Proves gate.c with Frama-C WP, with CBMC, or with both where the machine has both: every memory
# access and every bound, for datagrams of 0..65535 bytes, and what each function promises.
#   prove.sh [--install] [--with frama-c|cbmc] [--gate FILE] [--function NAME]
# --install brings a prover by apt-get; --gate takes another gate.c; --function proves one alone
# (Frama-C; CBMC always takes the whole). Exit code 0: every goal closes. 1: a goal is open. 2: nothing
# could be tried.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
native=$(cd "$here/../../gnutls_cookie/native" && pwd)

main() {
    gate=$native/gate.c
    function=
    provers=
    while [ $# -gt 0 ]; do
        case $1 in
        --install) install_prover ;;
        --with) provers=$2 && shift ;;
        --gate) gate=$2 && shift ;;
        --function) function=$2 && shift ;;
        *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2 && exit 2 ;;
        esac
        shift
    done
    if [ -z "$provers" ]; then
        ! has_frama_c || provers=frama-c
        ! has_cbmc || provers="$provers cbmc"
    fi
    [ -n "$provers" ] || cannot "no prover here. Debian 12: apt-get install frama-c-base why3 z3" \
        "cvc4; Debian 13: apt-get install cbmc; or: sh checks/prove/prove.sh --install"

    work=$(mktemp -d "${TMPDIR:-/tmp}/gnutls-cookie-prove.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    trap 'exit 2' INT TERM
    # Everything side by side, so that each #include finds these and no others.
    cp "$native"/*.h "$native/transport.c" "$here"/*.[ch] "$work/"
    cp "$gate" "$work/gate.c"
    cd "$work"

    for prover in $provers; do
        case $prover in
        frama-c) with_frama_c ;;
        cbmc) with_cbmc ;;
        *) cannot "no prover is called $prover" ;;
        esac
    done
}

with_frama_c() {
    has_frama_c || cannot "frama-c, why3, z3 or cvc4 is missing"
    # libgnutls' headers alone: the C library's are Frama-C's own.
    headers=$(gnutls_headers)
    [ -n "$headers" ] || cannot "no gnutls/gnutls.h (Debian: apt-get install libgnutls28-dev)"
    mkdir include
    ln -s "$headers/gnutls" include/gnutls
    # The provers' list is made here and goes with the rest: the user's own stays as it is.
    export WHY3CONFIG="$work/why3.conf"
    why3 config detect >detected 2>&1 || {
        cat detected >&2
        cannot "why3 config detect failed"
    }
    # Typed+Cast lets a pointer go through void * and come back. That is sound here: what goes
    # through comes back as the type that it had, and nothing is read as two types.
    if frama-c -machdep gcc_x86_64 -cpp-extra-args="-Iinclude" wp.c \
        -wp -wp-model Typed+Cast -wp-rte \
        -warn-unsigned-overflow -warn-unsigned-downcast -warn-signed-downcast \
        -wp-prover cvc4,z3 -wp-timeout "${PROVE_TIMEOUT:-60}" -wp-par "$(processors)" \
        ${function:+-wp-fct "$function"} >log 2>&1; then
        goals=$(sed -n 's/^\[wp\] Proved goals: *\([0-9]*\) *\/ *\([0-9]*\).*/\1 \2/p' log)
    else
        goals=
    fi
    # "0 / 0" would be a run that saw nothing.
    [ "${goals:-0 0}" != "0 0" ] || {
        tail -20 log >&2
        cannot "Frama-C did not get through"
    }
    echo "Frama-C WP: ${goals% *} of ${goals#* } goals proved"
    [ "${goals% *}" = "${goals#* }" ] || {
        sed -n '/ : Valid/d
            s/^\[wp\] \[[A-Za-z]*\] Goal typed_cast_\([^ ]*\).*/  open: \1/p' log
        exit 1
    }
}

with_cbmc() {
    has_cbmc || cannot "cbmc or its C compiler is missing"
    for entry in prove_parse prove_gate; do
        # The longest loop is over the 44 bytes of a reply; that it ends there is a goal as well.
        if run_cbmc "$entry"; then
            goals=$(sed -n 's/^\*\* 0 of \([0-9]*\) failed.*/\1/p' log)
        elif grep -q '^VERIFICATION FAILED' log; then
            sed -n "s/^\*\* \([0-9]*\) of \([0-9]*\) failed.*/CBMC, $entry: \1 of \2 goals open/p" log
            sed -n 's/^\(\[.*\): FAILURE$/  open: \1/p' log
            exit 1
        else
            tail -20 log >&2
            cannot "CBMC did not get through"
        fi
        [ "${goals:-0}" -gt 0 ] || cannot "CBMC saw no goals"

        # And the states that the goals speak of do occur: harness.c, REACH.
        ! run_cbmc "$entry" -DREACH || cannot "$entry reaches none of the states that it judges"
        states=$(grep -c "^\[$entry\..*unreached: " log) || :
        reached=$(grep -c "^\[$entry\..*unreached: .*: FAILURE\$" log) || :
        { [ "$states" -gt 0 ] && [ "$reached" = "$states" ]; } || {
            grep "^\[$entry\..*unreached: " log >&2 || tail -20 log >&2
            cannot "$entry does not reach all of the states that it judges"
        }
        echo "CBMC, $entry: $goals of $goals goals proved, $reached of $states states reached"
    done
}

run_cbmc() {
    entry=$1
    shift
    # shellcheck disable=SC2046 # compiler flags are split on purpose
    cbmc "$@" $(gnutls_cflags) -I. --function "$entry" harness.c gate.c transport.c \
        --bounds-check --pointer-check --pointer-overflow-check --pointer-primitive-check \
        --signed-overflow-check --unsigned-overflow-check --conversion-check \
        --div-by-zero-check --undefined-shift-check --unwind 46 --unwinding-assertions \
        >log 2>&1
}

has_frama_c() {
    command -v frama-c && command -v why3 && command -v z3 && command -v cvc4
} >/dev/null 2>&1

# CBMC lets gcc read the #includes.
has_cbmc() {
    command -v cbmc && command -v gcc
} >/dev/null 2>&1

gnutls_cflags() {
    if [ -n "${GNUTLS_CFLAGS:-}" ]; then
        echo "$GNUTLS_CFLAGS"
    else
        pkg-config --cflags gnutls 2>/dev/null || :
    fi
}

# The folder in which the compiler finds gnutls/gnutls.h.
gnutls_headers() {
    # shellcheck disable=SC2046,SC2086 # compiler and flags are split on purpose
    printf '#include <gnutls/gnutls.h>\n' | ${CC:-cc} $(gnutls_cflags) -E - 2>/dev/null |
        sed -n 's|^# [0-9]* "\(.*\)/gnutls/gnutls\.h".*|\1|p' | head -n 1
}

processors() {
    getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2
}

install_prover() {
    command -v apt-get >/dev/null || cannot "--install knows apt-get only"
    apt-get update -qq
    # Debian 13 has no Frama-C.
    if apt-cache show frama-c-base 2>/dev/null | grep -q '^Package:'; then
        set -- frama-c-base why3 z3 cvc4
    else
        set -- cbmc gcc
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" \
        libgnutls28-dev gcc libc6-dev >/dev/null
}

cannot() {
    echo "prove: $*" >&2
    exit 2
}

main "$@"
