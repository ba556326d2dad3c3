"""Hermes, Qwen 2.5 and 3, Granite 4, SmolLM3, MiMo: a JSON object between two tags."""

from collections.abc import Mapping

from edgepress.chat.spans.grammars import json_calls
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import calls_of


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    return calls_of(text)


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    return f'start: "\\n" call "\\n"\n{json_calls(tools, literal)}'


FORMAT = CallFormat("hermes", ("<tool_call>",), ("</tool_call>",), _read, _grammar, hints=("<tool_call>",))
