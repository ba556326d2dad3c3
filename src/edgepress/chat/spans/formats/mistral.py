"""Mistral 7B v0.3, Nemo and Small 2: a JSON list of calls after a token, to the end of the answer."""

from collections.abc import Mapping

from edgepress.chat.spans.grammars import json_calls
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import calls_of


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    return calls_of(text)


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    return f'start: "[" call (", " call)* "]"\n{json_calls(tools, literal)}'


FORMAT = CallFormat("mistral", ("[TOOL_CALLS]",), (), _read, _grammar, hints=("[TOOL_CALLS]",), repeats=False)
