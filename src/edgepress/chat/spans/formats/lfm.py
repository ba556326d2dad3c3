"""LFM 2 and 2.5: a list of calls as Python writes them, between two tokens."""

from collections.abc import Mapping

from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.pythonic import pythonic_calls, read_pythonic

_OPEN, _CLOSE = "<|tool_call_start|>", "<|tool_call_end|>"


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    return read_pythonic(text)


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    return f'start: "[" call (", " call)* "]"\n{pythonic_calls(tools, literal)}'


FORMAT = CallFormat("lfm", (_OPEN,), (_CLOSE,), _read, _grammar, hints=(_OPEN,))
