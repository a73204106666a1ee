"""A folder of cases: findings of earlier runs, which come first, and files of vectors."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from .cases import Case, case_of_json
from .harness import Finding
from .outcomes import described
from .sources import recorded_cases

__all__ = ["keep", "kept"]

_VECTORS_SIZE_MAX = 64 << 20  # bytes of a file


def kept(folder: Path) -> list[list[Case]]:
    """The cases of a folder, in lists each of which is for a fresh target.

    A file of one case goes together with the others; one of several may need them in their order.

    Args:
        folder: its `*.jsonl` have a case a line, its `*.json` may be files of vectors. It need not
            be there.

    Raises:
        ValueError: a file is not what its name says; the text names it.
        OSError: a file cannot be read.
    """
    single: list[Case] = []
    groups = [single]
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix == ".jsonl" and path.is_file():
            found = list(recorded_cases(path))
            if len(found) == 1:
                single += found
            else:
                groups.append(found)
        elif path.suffix == ".json" and path.is_file():
            groups.append(_vectors(path))
    return groups


def keep(folder: Path, finding: Finding) -> tuple[Path, bool]:
    """Write a finding down, with what has to come before it: the whole file, or none.

    Returns:
        The file, and whether it is new.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = "".join(one.as_json() + "\n" for one in (*finding.before, finding.case))
    name = hashlib.sha256(lines.encode()).hexdigest()[:16]
    path = folder / f"{finding.case.operation}-{name}.jsonl"
    new = not path.exists()
    if new:
        part = path.with_suffix(".part")
        part.write_text(lines, encoding="utf-8")
        part.replace(path)
    return path, new


def _vectors(path: Path) -> list[Case]:
    """The cases of a file of vectors; none where it is another file."""
    if path.stat().st_size > _VECTORS_SIZE_MAX:
        raise ValueError(f"{path} has more than {_VECTORS_SIZE_MAX} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if "testGroups" in found:
            listed = [one for group in found["testGroups"] for one in group["tests"]]
        else:  # as of the first version
            listed = found["vectors"]
        return [case_of_json(json.dumps(one["case"])) for one in listed]
    except (KeyError, TypeError):
        return []
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: {described(error)}") from None
