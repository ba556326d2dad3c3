"""Llama 3.1 to 3.3: the answer is a JSON object with ``name`` and ``parameters``, and nothing around it."""

from collections.abc import Mapping

from edgepress.chat.spans.grammars import json_calls
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import call_of, json_at

_PYTHON = "<|python_tag|>"


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    """Several stand one after the other, with ``;`` between them."""
    text = text.strip().removeprefix(_PYTHON).lstrip()
    calls: list[ToolCall] = []
    at = 0
    while at < len(text) or not calls:
        value, end = json_at(text, at)
        calls.append(call_of(value))
        rest = text[end:].lstrip().removeprefix(";").lstrip()
        at = len(text) - len(rest)
    return calls


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    return f"start: call\n{json_calls(tools, literal, 'parameters')}"


FORMAT = CallFormat(
    "llama_json",
    ('{"name"', '{"type"', '{"function"', '{ "name"', "{\n", _PYTHON),
    (),
    _read,
    _grammar,
    is_bare=True,
    hints=('{"name": function name, "parameters"',),
    repeats=False,
)
