"""What belongs to one Python object alone.

The collector calls the finalizers of a garbage cycle in any order, and the destructor of ffi.gc is
one of them. A __del__ of the same cycle that runs later still has the pointer: it must not be used.
So pointers to memory in C stand in a box, which the destructor empties. The box itself is memory
that the collector does not finalize: it lasts as long as anybody can look into it. The destructor
is a function in C: an exception of a signal handler cannot end it half-way.

And objects that stand for something that exists once, such as a session, a socket or a table that C
asks: a copy would share half of it.
"""

from __future__ import annotations

from typing import NoReturn

__all__ = ["not_copied"]


def not_copied(self: object) -> NoReturn:
    """The __reduce__ of a class whose objects copy.copy(), copy.deepcopy() and pickle refuse."""
    raise TypeError(f"a {type(self).__name__} cannot be copied or pickled: it exists once")
