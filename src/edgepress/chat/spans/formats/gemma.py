"""Gemma 4 and FunctionGemma: ``call:name{key:value}`` between two tokens, texts between quotes that are a token."""

import json
import re
from collections.abc import Mapping
from typing import Any

from edgepress.chat.spans.grammars import json_rule, properties_of, texts_in, unquoted_text, with_commas
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, parse_json, values_of

_QUOTES = ('<|"|>', "<escape>")
_HEAD = re.compile(r"\s*call:([^\s{]+)\s*")
_KEY = re.compile(r"\s*([^:{}\[\],]+):")
_PLAIN = re.compile(r"\s*([^\s{}\[\],]+)")
_DEEPEST = 100
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")  # of numbers


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    head = _HEAD.match(text)
    if head is None:
        raise ValueError("no call is in it")
    value, at = _value(text, head.end(), 0)
    if text[at:].strip():
        raise ValueError("something follows the call")
    return [checked(head[1], value)]


def _value(text: str, at: int, depth: int) -> tuple[Any, int]:
    """What begins at ``at``, and where it ends."""
    at = _spaces(text, at)
    if depth > _DEEPEST:
        raise ValueError("it is nested too deeply")
    for quote in _QUOTES:
        if text.startswith(quote, at):
            end = text.index(quote, at + len(quote))
            return text[at + len(quote) : end], end + len(quote)
    if text.startswith("{", at):
        return _object(text, at + 1, depth)
    if text.startswith("[", at):
        return _list(text, at + 1, depth)
    found = _PLAIN.match(text, at)
    if found is None:
        raise ValueError("a value is missing")
    return parse_json(found[1]), found.end()


def _object(text: str, at: int, depth: int) -> tuple[dict[str, Any], int]:
    found: dict[str, Any] = {}
    while not text.startswith("}", at := _spaces(text, at)):
        key = _KEY.match(text, at)
        if key is None:
            raise ValueError("a key is missing")
        found[_unquoted(key[1].strip())], at = _value(text, key.end(), depth + 1)
        at = _after_comma(text, at, "}")
    return found, at + 1


def _list(text: str, at: int, depth: int) -> tuple[list[Any], int]:
    found: list[Any] = []
    while not text.startswith("]", at := _spaces(text, at)):
        value, at = _value(text, at, depth + 1)
        found.append(value)
        at = _after_comma(text, at, "]")
    return found, at + 1


def _unquoted(key: str) -> str:
    for quote in _QUOTES:
        key = key.removeprefix(quote).removesuffix(quote)
    return key


def _spaces(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())


def _after_comma(text: str, at: int, close: str) -> int:
    at = _spaces(text, at)
    if text.startswith(",", at):
        return at + 1
    if text.startswith(close, at):
        return at
    raise ValueError("a comma is missing")


class _Rules:
    """Lark's rules for values in this notation, one for each schema inside of ``root``."""

    def __init__(self, name: str, root: Schema, literal: Literally) -> None:
        self._name, self._root, self._literal = name, root, literal
        self.rules: dict[str, str] = {}
        self._references: dict[str, str] = {}

    def rule(self, schema: object) -> str:
        """The name of the rule for what a schema allows."""
        of = schema if isinstance(schema, Mapping) else {}
        reference = of.get("$ref")
        if isinstance(reference, str) and reference in self._references:
            return self._references[reference]
        name = f"{self._name}_{len(self.rules)}"
        self.rules[name] = ""
        if isinstance(reference, str):
            self._references[reference] = name
            self.rules[name] = self.rule(_referred(self._root, reference))
        else:
            self.rules[name] = self._alternatives(of)
        return name

    def _alternatives(self, of: Schema) -> str:
        """What a schema allows, as alternatives."""
        if (values := values_of(of)) is not None:
            return " | ".join(self._literal(_written(value)) for value in values) or json_rule(of)  # which none meets
        several = of.get("anyOf") or of.get("oneOf")
        if isinstance(several, list):
            return " | ".join(map(self.rule, several))
        kinds = of.get("type", ["string", "number", "boolean", "null"])
        kinds = [kinds] if isinstance(kinds, str) else list(kinds)
        kinds += ["null"] if of.get("nullable") is True else []
        return " | ".join(f"({self._of_type(kind, of)})" for kind in kinds)

    def _of_type(self, kind: str, of: Schema) -> str:
        if kind == "string":
            quote, text = self._literal(_QUOTES[0]), f"{self._name}_{len(self.rules)}".upper()
            self.rules[text] = unquoted_text(of)
            return f"{quote} {text} {quote}"
        if kind == "array":
            return self._list(of)
        if kind == "object":
            return self._object(of)
        name = f"{self._name}_{len(self.rules)}"
        limits = {key: of[key] for key in _LIMITS if key in of}
        self.rules[name] = json_rule({"type": kind, **limits})
        return name

    def _list(self, of: Schema) -> str:
        least, most, item = int(of.get("minItems", 0)), of.get("maxItems"), self.rule(of.get("items"))
        comma, begin, end = self._literal(","), self._literal("["), self._literal("]")
        if most == 0:
            return f"{begin} {end}"
        more = f"({comma} {item}){{{max(0, least - 1)},{'' if most is None else int(most) - 1}}}"
        return f"{begin} {item} {more} {end}" if least else f"{begin} ({item} {more})? {end}"

    def _object(self, of: Schema) -> str:
        required = texts_in(of.get("required"))
        pairs = {}
        for key, value in properties_of(of).items():
            pairs[key] = f"{self._name}_{len(self.rules)}"
            self.rules[pairs[key]] = ""
            self.rules[pairs[key]] = f"{self._literal(f'{key}:')} {self.rule(value)}"
        needed = [rule for key, rule in pairs.items() if key in required]
        optional = [rule for key, rule in pairs.items() if key not in required]
        inside = with_commas(needed, optional, self._literal(","))
        return " ".join(filter(None, [self._literal("{"), inside, self._literal("}")]))


def _referred(root: Schema, reference: str) -> object:
    """What ``#/$defs/name`` refers to."""
    found: object = root
    for part in reference.removeprefix("#/").split("/"):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _written(value: object) -> str:
    """A value in this notation."""
    if isinstance(value, str):
        return f"{_QUOTES[0]}{value}{_QUOTES[0]}"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    return json.dumps(value)


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    calls, rules = [], []
    for number, (name, schema) in enumerate(tools.items()):
        made = _Rules(f"value_{number}", schema, literal)
        calls.append(f"{literal(f'call:{name}')} {made.rule({**schema, 'type': 'object'})}")
        rules += [f"{rule}: {content}" for rule, content in made.rules.items()]
    return "\n".join([f"start: {' | '.join(calls)}", *rules])


FORMAT = CallFormat(
    "gemma",
    ("<|tool_call>", "<start_function_call>"),
    ("<tool_call|>", "<end_function_call>"),
    _read,
    _grammar,
    hints=("<|tool_call>",),
    marks=_QUOTES,
)
