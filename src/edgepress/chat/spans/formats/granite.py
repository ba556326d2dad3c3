"""Granite 3: a JSON list of calls after a token, to the end of the answer."""

from collections.abc import Mapping

from edgepress.chat.spans.grammars import json_calls
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import calls_of

_OPEN = "<|tool_call|>"


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    return calls_of(text)


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    return f'start: "[" call (", " call)* "]"\n{json_calls(tools, literal)}'


FORMAT = CallFormat(
    "granite",
    (_OPEN,),
    (),
    _read,
    _grammar,
    hints=(_OPEN,),
    repeats=False,
    around=("<response>", "</response>"),
)
