"""What arguments that name a file give, and what an error calls it."""

from __future__ import annotations

import os
from pathlib import Path

from .errors import naming

__all__ = ["FileContent", "StrPath", "called", "file_name"]

StrPath = str | os.PathLike[str]

_MAX_FILE_SIZE = 1 << 24  # bytes


class FileContent(bytes):
    """What a file holds; errors name the file."""

    path: str

    @classmethod
    def read(cls, path: StrPath, name: str = "path") -> FileContent:
        """Read a file.

        Args:
            path: of the file.
            name: what an error calls the argument.

        Raises:
            ValueError: it is larger than 16 MiB: a device, or another wrong file; or `path` is
                empty, or has a zero byte.
            TypeError: `path` is neither a str nor a path.
        """
        with Path(file_name(name, path)).open("rb") as file, naming(path):
            content = cls(file.read(_MAX_FILE_SIZE + 1))
        if len(content) > _MAX_FILE_SIZE:
            raise ValueError(f"{path} is larger than {_MAX_FILE_SIZE} bytes")
        content.path = str(path)
        return content


def file_name(name: str, path: object) -> str:
    """A path as a str.

    Raises:
        TypeError, ValueError: the argument `name` cannot be one; Path("") is the present folder.
    """
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"{name} must name a file by a str or a path, not {type(text).__name__}")
    try:
        raw = os.fsencode(text)
    except UnicodeEncodeError:
        raw = b""
    if not raw or b"\0" in raw:
        raise ValueError(f"{name} must name a file, not {text!r}")
    return text


def called(name: str, value: object) -> str:
    """What an error calls an argument: its file, where it is from one."""
    return value.path if isinstance(value, FileContent) else name
