"""What formats share: calls as JSON objects, and values that are written without quotes."""

import json
from collections.abc import Mapping
from typing import Any

from edgepress.chat.spans.kinds import Schema, ToolCall

_NAMES = ("name", "function", "tool_name")
_ARGUMENTS = ("arguments", "parameters", "args")
_TYPES = ((str, "string"), (list, "array"), (Mapping, "object"))
_CONSTANTS: dict[str, object] = {"True": True, "False": False, "None": None}


def parse_json(text: str) -> Any:
    """A JSON value, NaN and infinities refused.

    Raises:
        ValueError: it is none.

    """
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def call_of(content: object) -> ToolCall:
    """A call from an object with a name and arguments, which may be JSON's text.

    Raises:
        ValueError: it is none.

    """
    if not isinstance(content, dict):
        raise ValueError("a call is an object")
    name = next((content[key] for key in _NAMES if isinstance(content.get(key), str)), None)
    arguments: Any = next((content[key] for key in _ARGUMENTS if key in content), {})
    return checked(
        name,
        parse_json(arguments) if isinstance(arguments, str) else arguments,
        content.get("id", content.get("tool_call_id")),
    )


def checked(name: object, arguments: object, identity: object = None) -> ToolCall:
    """A call of these, where they are what a call has; else ValueError."""
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        raise ValueError("a call has a name, and arguments by theirs")
    return ToolCall(name, arguments, identity if isinstance(identity, str) and identity else None)


def calls_of(text: str) -> list[ToolCall]:
    """One call as a JSON object, or a list of them.

    Raises:
        ValueError: it is none.

    """
    content = parse_json(text)
    calls = [call_of(one) for one in content] if isinstance(content, list) else [call_of(content)]
    if not calls:
        raise ValueError("no call is in it")
    return calls


def json_at(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins at ``at``, and where it ends.

    Raises:
        ValueError: none does.

    """
    try:
        return json.JSONDecoder(parse_constant=_refuse).raw_decode(text, at)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def typed(text: str, name: str, schema: Schema | None) -> Any:
    """A value that is written without quotes where it is a text: by the type that the tool says it has.

    ``schema`` is that of the tool's arguments. What it says nothing of is a number, list or object where it reads as
    one.
    """
    properties = (schema or {}).get("properties")
    if isinstance(properties, Mapping) and is_text(properties.get(name)):
        return text
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    try:
        return parse_json(text)
    except ValueError:
        return text


def is_text(schema: object) -> bool:
    """Whether a property is a text whatever is chosen of its schema: formats without quotes then write none."""
    if not isinstance(schema, Mapping):
        return False
    for key in ("anyOf", "oneOf"):
        if ways := schema.get(key):
            rest = {other: what for other, what in schema.items() if other != key}
            return all(isinstance(way, Mapping) and is_text({**rest, **way}) for way in ways)
    values = values_of(schema)
    if values is not None:
        return bool(values) and all(isinstance(value, str) for value in values)
    return schema.get("type") in ("string", ["string"])


def values_of(schema: Schema) -> list[Any] | None:
    """The values that ``const`` or ``enum`` name, those of another type than the schema's left out; None of neither."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list):
        return None
    kinds = schema.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if not isinstance(kinds, list):
        return values
    kinds = {*kinds, "null"} if schema.get("nullable") is True else set(kinds)
    return [value for value in values if kinds & _kinds(value)]


def _kinds(value: object) -> set[str]:
    """The types of JSON Schema that a value is of (draft 2020-12, 6.1.1: 1.0 is an integer too)."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int | float):
        return {"number", "integer"} if isinstance(value, int) or value.is_integer() else {"number"}
    return {next((name for kind, name in _TYPES if isinstance(value, kind)), "null")}
