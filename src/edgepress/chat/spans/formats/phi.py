"""Phi-4-mini: a JSON list of calls between two tokens."""

from collections.abc import Mapping

from edgepress.chat.spans.grammars import json_calls
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import calls_of

_OPEN, _CLOSE = "<|tool_call|>", "<|/tool_call|>"


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    return calls_of(text)


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    return f'start: "[" call (", " call)* "]"\n{json_calls(tools, literal)}'


FORMAT = CallFormat("phi", (_OPEN,), (_CLOSE,), _read, _grammar, hints=("<|tool|>", "<|/tool|>"))
