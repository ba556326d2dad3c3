"""Calls as Python writes them: ``[get_weather(place="Zürich", days=2)]``. They are parsed, never run."""

import ast
from collections.abc import Mapping
from typing import Any

from edgepress.chat.spans.grammars import as_object, json_rule
from edgepress.chat.spans.kinds import Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked

_CONSTANTS = {"true": True, "false": False, "null": None}


def read_pythonic(text: str) -> list[ToolCall]:
    """The calls of a list, of literals by their names.

    Raises:
        ValueError: it is no such list.

    """
    try:
        parsed = ast.parse(text.strip(), mode="eval").body
        if not isinstance(parsed, ast.List) or not parsed.elts:
            raise ValueError("it is no list of calls")
        return [_call(node) for node in parsed.elts]
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("it is no list of calls") from error


def _call(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("arguments are given by their names")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("arguments are given by their names")
        arguments[keyword.arg] = _value(keyword.value)
    return checked(ast.unparse(node.func) if isinstance(node.func, ast.Name | ast.Attribute) else None, arguments)


def _value(node: ast.expr) -> Any:
    """A literal, with Python's constants or JSON's."""
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(one) for one in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_value(one) if one is not None else None for one in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("keys are texts")
        return dict(zip(keys, map(_value, node.values), strict=True))
    sign = -1 if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) else 1
    inner = node.operand if isinstance(node, ast.UnaryOp) and sign < 0 else node
    if not isinstance(inner, ast.Constant) or not isinstance(inner.value, str | int | float | bool | None):
        raise ValueError("something else than a literal is in it")
    if sign > 0:
        return inner.value
    if isinstance(inner.value, str | bool | None):
        raise ValueError("a minus stands before a number alone")
    return -inner.value


def pythonic_calls(tools: Mapping[str, Schema], literal: Literally) -> str:
    """The rule ``call``: a tool's name and its arguments, whose values are JSON, which this module reads as well."""
    calls, rules = [], []
    for number, (name, schema) in enumerate(tools.items()):
        whole = as_object(schema)
        properties: Mapping[str, Any] = whole.get("properties") or {}
        required = whole.get("required") or []
        order = sorted(properties, key=lambda one: one not in required)  # those that are needed come first
        tail = ""
        for at, argument in reversed(list(enumerate(order))):
            rule = f"args_{number}_{at}"
            of = properties[argument] if isinstance(properties[argument], Mapping) else {}
            definitions = {key: whole[key] for key in ("$defs", "definitions") if key in whole}
            rules.append(f"{rule}: {literal(argument + '=')} {rule}_value")
            rules.append(f"{rule}_value: {json_rule({**definitions, **of})}")
            tail = _with(rule, tail, is_needed=argument in required, is_first=at == 0)
        calls.append(" ".join(filter(None, [literal(f"{name}("), tail, literal(")")])))
    return "\n".join([f"call: {' | '.join(calls)}", *rules])


def _with(rule: str, tail: str, *, is_needed: bool, is_first: bool) -> str:
    """An argument, and those after it; a comma stands before each but the first."""
    comma = "" if is_first else '", " '
    if is_needed:
        return f"{comma}{rule} {tail}".strip()
    return f"({comma}{rule} {tail})?".replace(" )", ")")
