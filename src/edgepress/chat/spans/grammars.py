"""Lark rules for calls, as llguidance reads them: names that there are, and arguments that their schemas allow."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from edgepress.chat.spans.kinds import Literally, Schema

_SPACED = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def quoted(text: str) -> str:
    """A text as a literal of the grammar; nothing for none."""
    return json.dumps(text, ensure_ascii=False) if text else ""


def json_rule(schema: Schema) -> str:
    """What a schema allows, with spaces as Python's json writes them, which is what templates show models."""
    return "%json " + json.dumps({**schema, "x-guidance": _SPACED}, ensure_ascii=False)


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
    calls, rules = [], ["TEXT: /[^<]*/"]
    for number, (name, schema) in enumerate(tools.items()):
        parts = [literal(head(name))]
        needed = set(_strings(schema.get("required")))
        for at, (argument, of) in enumerate(_properties(schema).items()):
            is_text = is_plain_text(of)
            rule = f"args_{number}_{at}"
            before = value[0].format(argument)
            content = "TEXT" if is_text else f"{rule}_value"
            rules.append(f"{rule}: {' '.join(filter(None, [literal(before), content, literal(value[1])]))}")
            if not is_text:
                rules.append(f"{rule}_value: {json_rule(_with_definitions(of, schema))}")
            parts.append(rule if argument in needed else f"({rule})?")
        calls.append(" ".join([*filter(None, parts), literal(tail)]).strip())
    return "\n".join([f"call: {' | '.join(f'({one})' for one in calls)}", *rules])


def is_plain_text(schema: object) -> bool:
    """Whether a property is a text of any content."""
    return isinstance(schema, Mapping) and schema.get("type") == "string" and not {"enum", "const"} & schema.keys()


def _properties(schema: Schema) -> Mapping[str, Any]:
    found = schema.get("properties")
    return found if isinstance(found, Mapping) else {}


def _with_definitions(of: object, schema: Schema) -> Schema:
    """A property's schema with the definitions of the whole, which it may refer to."""
    own = dict(of) if isinstance(of, Mapping) else {}
    return {**{key: schema[key] for key in ("$defs", "definitions") if key in schema}, **own}


def _strings(value: object) -> Sequence[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []
