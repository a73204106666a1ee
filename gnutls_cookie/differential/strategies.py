"""The cases as strategies for hypothesis; needs the extra `hypothesis`."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from .cases import OPERATIONS, Case, case_of_seed, cases

__all__ = ["any_cases"]


def any_cases(operations: Sequence[str] = OPERATIONS) -> st.SearchStrategy[Case]:
    """Cases of the generator, and the same with a byte changed, a cut or other numbers.

    Args:
        operations: which of OPERATIONS.

    Example:
        >>> from hypothesis import given
        >>> @given(any_cases(["verify"]))
        ... def test_my_verify(case):
        ...     assert case.operation == "verify"
    """
    list(cases(0, operations, 1))  # what is wrong with `operations` is said here
    made = st.builds(
        case_of_seed, st.integers(0, 999), st.sampled_from(tuple(operations)), st.integers(0, 119)
    )
    return st.builds(_changed, made, st.integers(0, 400), st.integers(0, 255), st.integers(0, 3))


def _changed(case: Case, place: int, byte: int, kind: int) -> Case:
    if kind == 1 and place < len(case.message):
        return case._replace(
            message=case.message[:place] + bytes([byte]) + case.message[place + 1 :]
        )
    if kind == 2:
        return case._replace(message=case.message[:place])
    if kind == 3 and case.operation == "verify":
        return case._replace(prestate=(byte, place, byte << 24))
    return case
