"""Budgets: a TOML file with a section for each gauge, and in it a rule for each figure.

    [size]
    bundle_megabytes = { most = 90 }

    [memory]
    peak_megabytes = { most = 300, worse_by_most = 0.10, slack = 20 }

    [speed]
    prompt_length = 64
    decode_tokens_per_second = { least = 30, worse_by_most = 0.05 }

A rule has bounds (``most`` or ``least``, in the unit of the figure's name), or what may be lost against a baseline
(``worse_by_most``, a share; ``slack`` in the figure's unit, for figures so small that a share of them is nothing: both
have to be exceeded), or all of them. A file without a rule, a section without one and a rule without a number are
errors: a budget that nobody filled in passes everything.
"""

import tomllib
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import msgspec

from edgepress.errors import InputError
from edgepress.runtime.gate.figures import Gauge
from edgepress.samples.read import names_function


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a figure has to keep; at least one of the bounds or ``worse_by_most`` is given."""

    most: float | None = None
    least: float | None = None
    worse_by_most: float | None = None
    slack: float = 0.0


@dataclass(frozen=True)
class Section:
    """One gauge's part of a budget: its settings, and a rule for each figure that has one."""

    gauge: Gauge
    options: dict[str, Any]
    rules: dict[str, Rule]


def read_budget(path: Path, gauges: dict[str, Gauge]) -> list[Section]:
    """Read a budget.

    Raises:
        InputError: the file cannot be read or is no budget; the message names the section, the entry and what is known.

    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error}") from None
    sections = [_section(path, name, entries, gauges) for name, entries in content.items()]
    if not sections:
        raise InputError(f"{path} has no section, so it would pass everything; known are {', '.join(gauges)}")
    return sections


def _section(path: Path, name: str, entries: object, gauges: dict[str, Gauge]) -> Section:
    if name not in gauges:
        raise InputError(f"{path}: there is nothing to gauge by the name of {name!r}; known are {', '.join(gauges)}")
    if not isinstance(entries, dict):
        raise InputError(f"{path}: {name} is a value; it has to be a section, [{name}]")
    gauge = gauges[name]
    options: dict[str, Any] = {key: option.default for key, option in gauge.options.items()}
    rules = {}
    for key, value in entries.items():
        where = f"{path}, [{name}]: {key}"
        if key in gauge.options:
            options[key] = _option(where, value, gauge.options[key].kind, path.parent)
        elif key in gauge.figures:
            rules[key] = _rule(where, value)
        else:
            raise InputError(f"{where} is not known; figures are {', '.join(gauge.figures)}{_settings(gauge)}")
    if not rules:
        raise InputError(
            f"{path}: [{name}] has no rule, so it would pass everything; give one of {', '.join(gauge.figures)}"
        )
    for key, option in gauge.options.items():
        if option.required and options[key] is None:
            raise InputError(f"{path}: [{name}] needs {key}")
    return Section(gauge, options, rules)


def _settings(gauge: Gauge) -> str:
    return f", settings {', '.join(gauge.options)}" if gauge.options else ""


def _option(where: str, value: object, kind: type, folder: Path) -> object:
    """The value of a setting; a path is taken from the budget's folder, and a function by its name."""
    if kind is Path and isinstance(value, str):
        return value if names_function(value) else str(folder / value)
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise InputError(f"{where} is {value!r}; it has to be {kind.__name__}")
    return value


def _rule(where: str, value: object) -> Rule:
    try:
        rule = msgspec.convert(value, Rule)
    except msgspec.ValidationError as error:
        raise InputError(
            f"{where} is {value!r}, which is no rule ({error}); write for example {{ most = 90 }} or "
            "{ worse_by_most = 0.05 }"
        ) from None
    given = [number for number in (rule.most, rule.least, rule.worse_by_most) if number is not None]
    if not given:
        raise InputError(f"{where} has no bound, so it would pass everything; give most, least or worse_by_most")
    for number in (*given, rule.slack):
        if not isfinite(number):
            raise InputError(f"{where} has {number}, which bounds nothing")
    if rule.worse_by_most is not None and not 0 <= rule.worse_by_most < 10:
        raise InputError(f"{where} has worse_by_most = {rule.worse_by_most}; it is a share, such as 0.05 for 5 %")
    if rule.slack < 0 or (rule.slack and rule.worse_by_most is None):
        raise InputError(f"{where} has slack = {rule.slack}; it is not negative, and goes with worse_by_most")
    return rule
