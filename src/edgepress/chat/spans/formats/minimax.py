"""MiniMax M2: functions and their parameters in tags, texts without quotes."""

import re
from collections.abc import Mapping

from edgepress.chat.spans.grammars import written_out
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, typed

_OPEN, _CLOSE = "<minimax:tool_call>", "</minimax:tool_call>"
_CALL = re.compile(r'\s*<invoke name="([^"\n]+)">(.*?)</invoke>(?=\s*(?:<invoke name=|\Z))', re.DOTALL)
_PARAMETER = re.compile(r'\s*<parameter name="([^"\n]+)">(.*?)</parameter>(?=\s*(?:<parameter name=|\Z))', re.DOTALL)


def _read(text: str, tools: Mapping[str, Schema]) -> list[ToolCall]:
    calls: list[ToolCall] = []
    at, end = 0, len(text.rstrip())
    while at < end or not calls:
        call = _CALL.match(text, at)
        if call is None:
            raise ValueError("something else than calls is in it")
        calls.append(_call(call[1], call[2].rstrip(), tools))
        at = call.end()
    return calls


def _call(name: str, text: str, tools: Mapping[str, Schema]) -> ToolCall:
    arguments, at = {}, 0
    while at < len(text):
        found = _PARAMETER.match(text, at)
        if found is None:
            raise ValueError("something else than parameters is in it")
        arguments[found[1]] = typed(found[2], found[1], tools.get(name))
        at = found.end()
    return checked(name, arguments)


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    """With what ends the calls: whether another one follows is told by nothing else."""
    value = ('<parameter name="{}">', "</parameter>\n")
    rules = written_out(tools, literal, lambda name: f'<invoke name="{name}">\n', value, "</invoke>\n")
    return f'start: "\\n" call+ {literal(_CLOSE)}\n{rules}'


FORMAT = CallFormat("minimax", (_OPEN,), (_CLOSE,), _read, _grammar, hints=(_OPEN, "<invoke name="))
