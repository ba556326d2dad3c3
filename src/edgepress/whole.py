"""Whole numbers that a user gives: what is none, or is out of range, is refused before anything is done with it."""

import operator

from edgepress.errors import InputError


def whole_number(name: str, number: object, *, least: int = 1, most: int | None = None, takes: str = "") -> int:
    """``number`` as an int between ``least`` and ``most``. True and 3.0 are none; 0 is 0, and never "the default".

    ``takes`` ends the message in place of the range.

    Raises:
        InputError: it is no whole number, or out of range; the message has ``name``, the number and the range.

    """
    found = None
    if not isinstance(number, bool):
        try:
            found = operator.index(number)  # type: ignore[arg-type]  # whatever has no __index__ is the point
        except TypeError:
            found = None
    if found is None:
        raise InputError(f"{name} is {number!r}; it must be a whole number")
    if found < least or (most is not None and found > most):
        said = takes or (f"it must be at least {least}" if most is None else f"it must be {least} to {most}")
        raise InputError(f"{name} is {found}; {said}")
    return found
