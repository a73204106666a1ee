"""Takes each length check of gate.c out in turn: the proof must then leave a goal open.

python checks/prove/mutations.py [--with frama-c|cbmc]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
GATE = HERE.parent.parent / "gnutls_cookie" / "native" / "gate.c"

# Lines of each answer: what is open, and not all that follows from it.
SHOWN = 5


class Check(NamedTuple):
    """One length check: where it stands, its text, and what is left without it."""

    function: str
    text: str
    without: str


# Each text must stand in gate.c exactly once, so that a stale list is an error.
CHECKS = [
    Check("gcookie_parse", "if (size < RECORD_HEADER_SIZE) {", "if (0) {"),
    Check("gcookie_parse", "record_length > size - RECORD_HEADER_SIZE || ", ""),
    Check("gcookie_parse", " || record_length > MAX_RECORD_LENGTH", ""),
    Check("gcookie_parse", "if (record_length < HANDSHAKE_HEADER_SIZE) {", "if (0) {"),
    Check("gcookie_parse", "if (message_seq > MAX_ECHOED_MESSAGE_SEQ) {", "if (0) {"),
    Check("gcookie_parse", "HANDSHAKE_HEADER_SIZE + fragment_length != record_length || ", ""),
    Check("gcookie_parse", " || fragment_length > length", ""),
    Check("gcookie_parse", " && size != RECORD_HEADER_SIZE + record_length", ""),
    Check(
        "gcookie_parse",
        "if (fragment_length == length && size != RECORD_HEADER_SIZE",
        "if (0 && size",
    ),
    Check("gcookie_parse", "if (fragment_length < SESSION_ID_FIELD + 1) {", "if (0) {"),
    Check("gcookie_parse", "if (session_id_size > MAX_SESSION_ID) {", "if (0) {"),
    Check("gcookie_parse", "if (fragment_length < cookie_field + 1) {", "if (0) {"),
    Check("gcookie_parse", "if (fragment_length < cookie_field + 1 + cookie_size) {", "if (0) {"),
    Check("judge", "hello->cookie_size != GCOOKIE_SIZE || ", ""),
    Check("judge", " || hello->record_seq > UINT32_MAX", ""),
    Check("judge", "if (keys->previous.size == 0) {", "if (0) {"),
    Check("make_reply", "if (key->size > GCOOKIE_KEY_CAPACITY) {", "if (0) {"),
    Check("make_reply", "sent == GCOOKIE_REPLY_SIZE && ", ""),
    Check("make_reply", " && capture.size == GCOOKIE_REPLY_SIZE", ""),
    Check("clear_reply", "at < GCOOKIE_REPLY_SIZE;", "at <= GCOOKIE_REPLY_SIZE;"),
]


def main() -> int:
    """Prove gate.c without each check; 0 if no such proof closes, while the whole one does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--with", dest="prover", choices=("frama-c", "cbmc"))
    prover = parser.parse_args().prover or ("cbmc" if shutil.which("cbmc") else "frama-c")

    text = GATE.read_text(encoding="utf-8")
    stale = [check.text for check in CHECKS if text.count(check.text) != 1]
    if stale:
        print(*(f"not once in gate.c: {text}" for text in stale), sep="\n")
        return 2

    # The control, under the same limits: what follows is no want of time.
    for function in dict.fromkeys(check.function for check in CHECKS):
        code, said = prove(text, function, prover)
        print(f"whole, {function}: {said}", flush=True)
        if code != 0:
            return 2
        if prover == "cbmc":  # takes the whole at once
            break

    survived = []
    for check in CHECKS:
        code, said = prove(text.replace(check.text, check.without), check.function, prover)
        print(f"{check.function} without {check.text!r}: {said}", flush=True)
        if code != 1:
            survived.append(check.text)
    print(f"{len(CHECKS) - len(survived)} of {len(CHECKS)} leave a goal open")
    return 1 if survived else 0


def prove(gate: str, function: str, prover: str) -> tuple[int, str]:
    """Run prove.sh on the text of a gate.c: its exit code, and what it said.

    A goal that closes takes its prover three seconds at most; one that is open, all the time that
    it is given.
    """
    with tempfile.TemporaryDirectory(prefix="gnutls-cookie-mutation-") as folder:
        source = Path(folder, "gate.c")
        source.write_text(gate, encoding="utf-8")
        command = ["sh", str(HERE / "prove.sh"), "--with", prover, "--gate", str(source)]
        done = subprocess.run(
            [*command, "--function", function],
            capture_output=True,
            text=True,
            env={**os.environ, "PROVE_TIMEOUT": os.environ.get("PROVE_TIMEOUT", "10")},
        )
    lines = (done.stdout + done.stderr).splitlines()
    return done.returncode, "\n".join(lines[:SHOWN] + ["  ..."] * (len(lines) > SHOWN))


if __name__ == "__main__":
    sys.exit(main())
