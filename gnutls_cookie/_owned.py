"""Memory in C that belongs to Python objects, and that is known to be gone once it is.

The collector calls the finalizers of a garbage cycle in any order, and the destructor of ffi.gc is
one of them. A __del__ of the same cycle that runs later still has the pointer: it must not be used.
So pointers stand in a box, which the destructor empties. The box itself is memory that the
collector does not finalize: it lasts as long as anybody can look into it.

And objects that stand for something that exists once, such as a session, a socket or a table that C
asks: a copy would share half of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from ._ffi import ffi

__all__ = ["not_copied", "owned"]


def owned(box: Any, free: Callable[[Any], object]) -> Any:
    """An owner of what box[0] points to: when it goes, that is freed, and box[0] is NULL.

    Args:
        box: of ffi.new(), a pointer to a pointer.
        free: frees the latter.
    """

    def destroy(box: Any) -> None:
        pointer, box[0] = box[0], ffi.NULL
        free(pointer)

    return ffi.gc(box, destroy)


def not_copied(self: object) -> NoReturn:
    """The __reduce__ of a class whose objects copy.copy(), copy.deepcopy() and pickle refuse."""
    raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: it exists once")
