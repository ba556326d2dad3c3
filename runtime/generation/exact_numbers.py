"""Numbers of a JSON schema that llguidance would hold an answer to another value of.

It reads every number as a float64, and bounds of integers as 64-bit ones after that: 2⁵³ + 1 becomes 2⁵³, the least
integer of 10³⁰ becomes 2⁶³ − 1, and a constant is written with the shortest digits that give its float.
"""

from collections.abc import Mapping
from decimal import Decimal

_EXACT = 1 << 53  # integers up to here are floats
_LEAST, _MOST = -(1 << 63), (1 << 63) - 1
_LOWER, _UPPER, _VALUES = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum"), ("const", "enum")
_SAID_ONLY = ("default", "examples")  # which hold an answer to nothing


def misread_number(schema: object) -> str:
    """``minimum 9007199254740993``, the first number of a schema that would be read as another; "" where there is none.

    A bound that is read as a narrower one is none of them: what keeps to it keeps to the schema.
    """
    left = [("", schema)]
    while left:
        name, value = left.pop()
        if isinstance(value, Mapping):
            inner = value if name in _VALUES else {key: one for key, one in value.items() if key not in _SAID_ONLY}
            left += [(name if name in _VALUES else str(key), one) for key, one in inner.items()]
        elif isinstance(value, list):
            left += [(name, one) for one in value]
        elif isinstance(value, int | float) and abs(value) > _EXACT and _is_misread(name, value):
            return f"{name} {value}"
    return ""


def _is_misread(name: str, value: float) -> bool:
    try:
        read = float(value)
        whole = min(max(int(read), _LEAST), _MOST)
    except OverflowError:  # it is no finite float64
        return isinstance(value, int)
    if name in _LOWER:
        return whole < value
    if name in _UPPER:
        return whole > value
    return name in _VALUES and isinstance(value, int) and Decimal(repr(read)) != value
