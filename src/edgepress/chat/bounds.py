"""How much a chat template may take: steps of its loops, and characters of the texts that it makes.

Jinja's sandbox keeps a template away from the machine, not from its memory: a width, a product, or a list that holds
another many times over makes a text of any length of a few characters. So what makes a text longer is measured before
it does, and everything made in one rendering is counted.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

MOST_STEPS = 1_000_000  # that all loops of one rendering take together
LONGEST = 1 << 24  # characters of one text
MOST_CHARACTERS = 1 << 30  # of all texts that are made in one rendering
_WIDENING = frozenset({"batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "wordwrap", "zfill"})
_PERCENT = re.compile(r"%(?:\([^)]*\))?[-#0 +]*(\d+|\*)?(?:\.(\d+|\*))?")  # a conversion's width and precision
_BRACES = re.compile(r"\{[^{}]*\}")


class TooLongError(Exception):
    """A template takes more steps, or makes a longer text, than it may."""


_taken: ContextVar[list[int]] = ContextVar("_taken")  # steps and characters of the rendering that goes on


@contextmanager
def counting() -> Iterator[None]:
    """Count steps and characters of one rendering from nothing."""
    token = _taken.set([0, 0])
    try:
        yield
    finally:
        _taken.reset(token)


def counted(values: Any) -> Any:
    """What a loop goes through, whose steps count."""
    found = values if isinstance(values, list | tuple | dict | str | range) else list(values)
    taken = _taken.get()
    taken[0] += len(found)
    if taken[0] > MOST_STEPS:
        raise TooLongError(f"its loops take more than {MOST_STEPS:,} steps")
    return found


def joined(parts: Iterable[Any]) -> str:
    """The texts of ``parts`` one after the other, of a bounded length."""
    texts: list[str] = []
    length = 0
    for part in parts:
        texts.append(str(measured(part)))
        length += len(texts[-1])
        if length > LONGEST:
            _make(length)
    _make(length)
    return "".join(texts)


def measured(value: Any) -> Any:
    """``value``, whose text is not too long: lists may hold others many times over."""
    if isinstance(value, list | tuple | dict):
        _make(_characters(value))
    return value


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse what would be longer than anything in a conversation."""
    if operator == "*":
        for text, number in ((left, right), (right, left)):
            if isinstance(text, str | list | tuple) and isinstance(number, int):
                _make(len(text) * number)
        if isinstance(left, int) and isinstance(right, int):
            _make(left.bit_length() + right.bit_length())
    elif operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _make(len(left) + len(right))
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _make(left.bit_length() * abs(right))
    elif operator == "%" and isinstance(left, str):
        _check_percent(left, right if isinstance(right, tuple) else (right,))


def check_call(function: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Refuse a call of a text's method whose result would be too long."""
    method = getattr(function, "__wrapped__", function)  # the sandbox wraps ``format``
    if isinstance(text := getattr(method, "__self__", None), str):
        _check_growth(method.__name__, text, arguments, named)


def bounded(filters: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """The same filters, each refusing what would make a text too long."""
    return {name: _bounded(name, function) for name, function in filters.items()}


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    own = int(hasattr(function, "jinja_pass_arg"))  # what Jinja itself gives comes first

    @functools.wraps(function)
    def checked(*arguments: Any, **named: Any) -> Any:
        if len(arguments) > own:
            value = arguments[own]
            if name == "join" and not isinstance(value, str | list | tuple | dict):
                value = list(value)
                arguments = (*arguments[:own], value, *arguments[own + 1 :])
            measured(value)
            if name == "join":
                separator = next(iter((*arguments[own + 1 :], *named.values())), "")
                _make(_characters(list(value)) + len(value) * len(str(separator)))
            elif name == "format":
                _check_percent(str(value), (*arguments[own + 1 :], *named.values()))
            else:
                _check_growth(name, str(value) if name in _WIDENING | {"replace"} else "", arguments[own + 1 :], named)
        return function(*arguments, **named)

    return checked


def _check_growth(name: str, text: str, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
    """Refuse ``text.name(…)`` where that would be too long."""
    given = (*arguments, *named.values())
    if name in _WIDENING:
        width = max((abs(one) for one in given if isinstance(one, int)), default=0)
        places = text.count("\n") + text.count("\t") + 1 if name in ("indent", "expandtabs") else 1
        _make(len(text) + width * places)
    elif name == "replace" and len(given) > 1 and isinstance(given[0], str):
        _make(len(text) + text.count(given[0]) * len(str(given[1])))
    elif name == "join" and given:
        _make(_characters(parts := list(given[0])) + len(parts) * len(text))
    elif name in ("format", "format_map"):
        fields = _BRACES.findall(text)
        nested = max((abs(one) for one in given if isinstance(one, int)), default=0) if len(fields) else 0
        widths = sum(int(number) for field in fields for number in re.findall(r"\d+", field))
        _make(len(text) + widths + (nested if re.search(r":[^{}]*\{", text) else 0) + len(fields) * _longest(given))


def _check_percent(text: str, given: tuple[Any, ...]) -> None:
    """Refuse ``text % given`` where that would be too long."""
    found = [part for pair in _PERCENT.findall(text) for part in pair if part]
    widths = sum(int(part) for part in found if part != "*")
    widths += sum(abs(one) for one in given if isinstance(one, int)) if "*" in found else 0
    _make(len(text) + widths + text.count("%") * _longest(given))


def _longest(values: Iterable[Any]) -> int:
    return max((_characters(value) for value in values), default=0)


def _characters(value: Any) -> int:
    """How long the text of plain values is, about; no further than :data:`LONGEST`."""
    total, left = 0, [value]
    while left and total <= LONGEST:
        one = left.pop()
        if isinstance(one, str):
            total += len(one)
        elif isinstance(one, list | tuple):
            total += 2 + len(one)
            left += one
        elif isinstance(one, dict):
            total += 2 + len(one)
            left += [*one.keys(), *one.values()]
        else:
            total += one.bit_length() // 3 if isinstance(one, int) else 16
    return total


def _make(length: int) -> None:
    """Count a text of this length, before it is made."""
    if length > LONGEST:
        raise TooLongError(f"a text in it has more than {LONGEST:,} characters")
    taken = _taken.get(None)
    if taken is not None:
        taken[1] += max(0, length)
        if taken[1] > MOST_CHARACTERS:
            raise TooLongError(f"its texts have more than {MOST_CHARACTERS:,} characters together")
