"""Takes each length check of gc_parse out in turn: the proof must then leave a goal open."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
GATE = HERE.parent.parent / "gnutls_cookie" / "native" / "gate.c"

# Each must stand in gate.c exactly once, so that a stale list is an error.
CHECKS = {
    "if (size < RECORD_HEADER_SIZE) {": "if (0) {",
    "record_length > size - RECORD_HEADER_SIZE || record_length > MAX_RECORD_LENGTH": (
        "record_length > MAX_RECORD_LENGTH"
    ),
    "if (record_length < HANDSHAKE_HEADER_SIZE) {": "if (0) {",
    "HANDSHAKE_HEADER_SIZE + fragment_length != record_length || fragment_length > length": (
        "fragment_length > length"
    ),
    "if (fragment_length < SESSION_ID_FIELD + 1) {": "if (0) {",
    "if (session_id_size > MAX_SESSION_ID) {": "if (0) {",
    "if (fragment_length < cookie_field + 1) {": "if (0) {",
    "if (fragment_length < cookie_field + 1 + cookie_size) {": "if (0) {",
}


def main() -> int:
    """Prove gc_parse without each check; 0 if no such proof closes."""
    text = GATE.read_text(encoding="utf-8")
    survived = []
    with tempfile.TemporaryDirectory(prefix="gnutls-cookie-mutations-") as folder:
        for check, without in CHECKS.items():
            if text.count(check) != 1:
                print(f"not once in gate.c: {check}")
                return 2
            mutant = Path(folder, "gate.c")
            mutant.write_text(text.replace(check, without), encoding="utf-8")
            done = subprocess.run(
                ["sh", HERE / "prove.sh", mutant, "gc_parse"], capture_output=True, text=True
            )
            said = done.stdout.strip()
            print(f"without {check!r}: {said or done.stderr.strip()}", flush=True)
            if done.returncode != 1:
                survived.append(check)
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
