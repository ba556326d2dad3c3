"""What the options of a method may be: declared beside the method, checked before anything is read."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgepress.errors import InputError

OptionValue = bool | int | float | str

Options = Mapping[str, OptionValue]
"""A method's options: those that it declares, with the recipe's values."""

MANY = 1_000_000_000
"""The most steps, tokens or channels that an option may ask for; a larger number is a typing error."""

_KINDS: Mapping[type, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


@dataclass(frozen=True)
class Option:
    """One option: its ``default``, whose type it has, and what it may be.

    Numbers are from ``least`` (or ``above`` it) to ``most`` (or ``below`` it), strings one of ``choices`` where there
    are some. One that is ``unset_at_zero`` has no effect at 0, its default, and a recipe may not set it to 0.
    """

    default: OptionValue
    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    unset_at_zero: bool = False

    def problem(self, value: object) -> str:
        """What is wrong with ``value``, as the rest of a sentence that begins with the option; "" when nothing is."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        kind = type(self.default)
        if not (is_number if kind is float else isinstance(value, kind) and (is_number or kind is not int)):
            return f"must be {_KINDS[kind]}, not {value!r}"
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be a finite number, not {value!r}"
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(self.choices)}, not {value!r}"
        if self.unset_at_zero and not value:
            return f"= {value!r}: give more than 0, or leave it out"
        if isinstance(value, int | float) and is_number:
            fits = self.least <= value <= self.most and self.above < value < self.below
            return "" if fits else f"must be {self._range()}, not {value!r}"
        return ""

    def _range(self) -> str:
        words = [
            f"{word} {bound:,}"
            for word, bound in (
                ("more than", self.above),
                ("at least", self.least),
                ("at most", self.most),
                ("less than", self.below),
            )
            if math.isfinite(bound)
        ]
        return " and ".join(words)


def whole_number(default: int, least: int = 1, most: int = MANY) -> Option:
    """A whole number from ``least`` to ``most``."""
    return Option(default, least=least, most=most)


def unset(default: float, most: float = MANY) -> Option:
    """A number above 0, without effect where it is left out."""
    return Option(default, least=0, most=most, unset_at_zero=True)


def unset_share() -> Option:
    """The share that stays, above 0 and below 1, without effect where it is left out."""
    return Option(0.0, least=0, below=1, unset_at_zero=True)


def read_options(name: str, declared: Mapping[str, Option], asked: Mapping[str, object]) -> Options:
    """The options of the method ``name``: ``asked`` over what is declared.

    Raises:
        InputError: one is not declared (the nearest is named), or is not what it may be.

    """
    found = {key: option.default for key, option in declared.items()}
    for key, value in asked.items():
        if key not in declared:
            near = difflib.get_close_matches(key, declared, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(declared) or 'none'}"
            raise InputError(f"[options.{name}] has no option {key!r}; {hint}")
        if problem := declared[key].problem(value):
            raise InputError(f"[options.{name}] {key} {problem}")
        if isinstance(value, OptionValue):
            found[key] = value
    return found
