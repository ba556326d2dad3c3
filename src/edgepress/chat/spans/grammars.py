"""Lark rules for calls, as llguidance reads them: names that there are, and arguments that their schemas allow."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgepress.chat.spans.kinds import Literally, Schema
from edgepress.chat.spans.values import is_text, values_of

_SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}
_VALUES = ("enum", "const", "default", "examples")  # whose content is no schema


def quoted(text: str) -> str:
    """A text as a literal of the grammar; nothing for none."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def json_rule(schema: Schema) -> str:
    """What a schema allows, with spaces as Python's json writes them, which is what templates show models.

    Of what llguidance does not know of schemas it warns (``lenient``): tools come from everywhere.
    """
    return "%json " + json.dumps({**_with_null(schema), "x-guidance": _SPACED}, ensure_ascii=False)


def _with_null(schema: Any) -> Any:
    """A schema in which ``nullable``, of OpenAPI, is said as JSON Schema says it."""
    if isinstance(schema, list):
        return [_with_null(one) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: value if key in _VALUES else _with_null(value) for key, value in schema.items()}
    return {"anyOf": [found, {"type": "null"}]} if found.pop("nullable", False) is True else found


def one_call(tools: Mapping[str, Schema], literal: Literally, before: str, between: str, after: str) -> str:
    """``before``, a tool's name, ``between``, its arguments as JSON, ``after``."""
    calls, rules = [], []
    for number, (name, schema) in enumerate(tools.items()):
        calls.append(" ".join(filter(None, [literal(f"{before}{name}{between}"), f"args_{number}", literal(after)])))
        rules.append(f"args_{number}: {json_rule(as_object(schema))}")
    return "\n".join([f"call: {' | '.join(calls)}", *rules])


def json_calls(tools: Mapping[str, Schema], literal: Literally, arguments: str = "arguments") -> str:
    """A call as an object with ``name`` and ``arguments``, the rule ``call``."""
    return one_call(tools, literal, '{"name": "', f'", "{arguments}": ', "}")


def as_object(schema: Schema) -> Schema:
    """The schema of arguments as one of an object that has no others than are named."""
    return {"additionalProperties": False, **schema, "type": "object"}


def with_commas(needed: Sequence[str], optional: Sequence[str], comma: str) -> str:
    """All rules of ``needed`` and any of ``optional``, in their order, with ``comma`` between those that are there."""

    def after(rules: Sequence[str]) -> str:
        return " ".join(f"({comma} {rule})?" for rule in rules)

    if needed:
        return f"{f' {comma} '.join(needed)} {after(optional)}".strip()
    first = [f"{rule} {after(optional[at + 1 :])}".strip() for at, rule in enumerate(optional)]
    return f"({' | '.join(first)})?" if first else ""


def written_out(
    tools: Mapping[str, Schema],
    literal: Literally,
    head: Callable[[str], str],
    value: tuple[str, str],
    tail: str,
) -> str:
    """A call whose arguments stand one after the other, texts without quotes and others as JSON.

    Args:
        tools: the schemas of their arguments.
        literal: makes what Lark has for a text.
        head: what a call of a tool begins with.
        value: what stands before and after a value, ``{}`` for the argument's name.
        tail: what a call ends with.

    """
    calls: list[str] = []
    rules: list[str] = []
    for number, (name, schema) in enumerate(tools.items()):
        parts = [literal(head(name))]
        needed = set(texts_in(schema.get("required")))
        for at, (argument, of) in enumerate(properties_of(schema).items()):
            rule = f"args_{number}_{at}"
            name_of = f"{rule}_value"
            rules.append(f"{rule}: {literal(value[0].format(argument))} {name_of} {literal(value[1])}")
            rules += _unquoted(name_of, of, literal) or [f"{name_of}: {json_rule(with_definitions(of, schema))}"]
            parts.append(rule if argument in needed else f"({rule})?")
        calls.append(" ".join(filter(None, [*parts, literal(tail)])))
    return "\n".join([f"call: {' | '.join(f'({one})' for one in calls)}", *rules])


def _unquoted(name: str, schema: object, literal: Literally) -> list[str]:
    """The rules of a value that is a text in any case, which stands without quotes; none of others."""
    if not isinstance(schema, Mapping) or not is_text(schema):
        return []
    for key in ("anyOf", "oneOf"):
        if ways := schema.get(key):
            rest = {other: what for other, what in schema.items() if other != key}
            each = [_unquoted(f"{name}_{at}", {**rest, **way}, literal) for at, way in enumerate(ways)]
            one_of = " | ".join(f"{name}_{at}" for at in range(len(each)))
            return [f"{name}: {one_of}", *(rule for rules in each for rule in rules)]
    if (values := values_of(schema)) is not None:
        return [f"{name}: {' | '.join(map(literal, values))}"]
    return [f"{name}: {name.upper()}", f"{name.upper()}: {unquoted_text(schema)}"]


def unquoted_text(schema: Schema) -> str:
    """The content of a terminal for a text without quotes, of the lengths and the pattern that a schema says.

    No ``<`` is in it, with which what ends it begins.
    """
    found = f"/[^<]{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}/"
    pattern = schema.get("pattern")
    if not isinstance(pattern, str):
        return found
    begins, ends = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    inner = pattern[int(begins) : len(pattern) - int(ends)].replace("/", "\\/")
    return f"{found} & /{'' if begins else '(?s:.*)'}({inner}){'' if ends else '(?s:.*)'}/"


def properties_of(schema: Schema) -> Mapping[str, Any]:
    """The properties that an object of this schema may have, each with its schema."""
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def with_definitions(of: object, schema: Schema) -> Schema:
    """A property's schema with the definitions of the whole, which it may refer to."""
    own = dict(of) if isinstance(of, Mapping) else {}
    return {**{key: schema[key] for key in ("$defs", "definitions") if key in schema}, **own}


def texts_in(value: object) -> Sequence[str]:
    """The texts of a list; none where it is none."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
