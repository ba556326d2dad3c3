"""Calls as Python writes them: ``[get_weather(place="Zürich", days=2)]``. They are parsed, never run."""

import ast
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from edgepress.chat.spans.grammars import json_rule, properties_of, texts_in, with_commas, with_definitions
from edgepress.chat.spans.kinds import Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, parse_json

_Item = TypeVar("_Item")
_CONSTANTS = {"true": True, "false": False, "null": None, "True": True, "False": False, "None": None}
_NAME, _WORD = re.compile(r"[\w.-]+"), re.compile(r"[\w.+-]+")
_ARGUMENT = re.compile(r"[^=(),\[\]{}'\"]+")
_EQUALS, _COLON, _SPACES = re.compile("="), re.compile(":"), re.compile(r"\s*")
_STRING = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\"""", re.DOTALL)
_DEEPEST = 100


def read_pythonic(text: str) -> list[ToolCall]:
    """The calls of a list, of literals by their names, which may be words that Python keeps for itself.

    Raises:
        ValueError: it is no such list.

    """
    reader = _Reader(text)
    calls = reader.items("[", "]", reader.call)
    if not calls or reader.rest:
        raise ValueError("it is no list of calls")
    return calls


class _Reader:
    """Reads a text from its beginning; ValueError where something else comes than has to."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0

    @property
    def rest(self) -> str:
        """What was not read, without spaces around it."""
        return self._text[self._at :].strip()

    def call(self) -> ToolCall:
        """A name, and arguments in parentheses."""
        name = self._take(_NAME, "a name")
        return checked(name, dict(self.items("(", ")", self._argument)))

    def items(self, open_: str, close: str, one: Callable[[], _Item]) -> list[_Item]:
        """What stands between two characters, with commas between."""
        if self._depth > _DEEPEST:
            raise ValueError("it is nested too deeply")
        self._take(re.compile(re.escape(open_)), open_)
        self._depth += 1
        found: list[_Item] = []
        while not self._skip(close):
            found.append(one())
            if not self._skip(",") and not self._is_next(close):
                raise ValueError(f"a comma or {close} is missing")
        self._depth -= 1
        return found

    def _argument(self) -> tuple[str, Any]:
        name = self._take(_ARGUMENT, "the name of an argument")
        self._take(_EQUALS, "=")
        return name.strip(), self._value()

    def _pair(self) -> tuple[str, Any]:
        key = self._string()
        self._take(_COLON, ":")
        return key, self._value()

    def _value(self) -> Any:
        """A literal, with Python's constants or JSON's."""
        if self._is_next("["):
            return self.items("[", "]", self._value)
        if self._is_next("("):
            return self.items("(", ")", self._value)
        if self._is_next("{"):
            return dict(self.items("{", "}", self._pair))
        if self._is_next("'") or self._is_next('"'):
            return self._string()
        word = self._take(_WORD, "a value")
        return _CONSTANTS[word] if word in _CONSTANTS else parse_json(word)

    def _string(self) -> str:
        literal = self._take(_STRING, "a text")
        try:
            return str(ast.literal_eval(literal)) if literal[0] == "'" else str(parse_json(literal))
        except (ValueError, SyntaxError):
            return _python_string(literal)

    def _is_next(self, text: str) -> bool:
        spaces = _SPACES.match(self._text, self._at)
        self._at = self._at if spaces is None else spaces.end()
        return self._text.startswith(text, self._at)

    def _skip(self, text: str) -> bool:
        is_next = self._is_next(text)
        self._at += len(text) if is_next else 0
        return is_next

    def _take(self, expression: re.Pattern[str], what: str) -> str:
        self._is_next("")
        found = expression.match(self._text, self._at)
        if found is None:
            raise ValueError(f"{what} is missing")
        self._at = found.end()
        return found[0]


def _python_string(literal: str) -> str:
    """A text between double quotes with escapes that are Python's and not JSON's."""
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError) as error:
        raise ValueError("a text is none") from error


def pythonic_calls(tools: Mapping[str, Schema], literal: Literally) -> str:
    """The rule ``call``: a tool's name and its arguments, whose values are JSON, which this module reads as well."""
    calls, rules = [], []
    for number, (name, schema) in enumerate(tools.items()):
        needed: list[str] = []
        optional: list[str] = []
        for at, (argument, of) in enumerate(properties_of(schema).items()):
            rule = f"args_{number}_{at}"
            rules.append(f"{rule}: {literal(argument + '=')} {rule}_value")
            rules.append(f"{rule}_value: {json_rule(with_definitions(of, schema))}")
            (needed if argument in texts_in(schema.get("required")) else optional).append(rule)
        arguments = with_commas(needed, optional, literal(", "))
        calls.append(" ".join(filter(None, [literal(f"{name}("), arguments, literal(")")])))
    return "\n".join([f"call: {' | '.join(calls)}", *rules])
