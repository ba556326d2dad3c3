"""Command R7B and A, North: a JSON list of calls between two tokens."""

from collections.abc import Mapping

from edgepress.chat.spans.grammars import one_call
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import calls_of

_OPEN, _CLOSE = "<|START_ACTION|>", "<|END_ACTION|>"


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    return calls_of(text)


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    """Each call is numbered, on a line of its own."""
    calls = one_call(tools, literal, '", "tool_name": "', '", "parameters": ', "}")
    begin = literal('    {"tool_call_id": "')
    numbered = f"numbered: {begin} NUMBER call\nNUMBER: /[0-9]{{1,2}}/"
    return f'start: "[\\n" numbered (",\\n" numbered)* "\\n]"\n{numbered}\n{calls}'


FORMAT = CallFormat(
    "command",
    (_OPEN,),
    (_CLOSE,),
    _read,
    _grammar,
    hints=(_OPEN,),
    repeats=False,
    around=("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
)
