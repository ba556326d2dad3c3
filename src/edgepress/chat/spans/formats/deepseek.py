"""DeepSeek V3 and R1: a kind, a name and a block of JSON, in tokens of their own."""

import re
from collections.abc import Mapping

from edgepress.chat.spans.grammars import one_call
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, parse_json

_BEGIN, _CLOSE = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_AROUND = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_SEPARATOR = "<｜tool▁sep｜>"
_CALL = re.compile(rf"function{_SEPARATOR}([^\n]+)\n```json\n(.*)\n```\s*", re.DOTALL)


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    found = _CALL.fullmatch(text)
    if found is None:
        raise ValueError("no call is in it")
    return [checked(found[1], parse_json(found[2]))]


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    before, between, after = f"function{_SEPARATOR}", "\n```json\n", "\n```"
    return f"start: call\n{one_call(tools, literal, before, between, after)}"


FORMAT = CallFormat(
    "deepseek",
    (_BEGIN,),
    (_CLOSE,),
    _read,
    _grammar,
    hints=(_BEGIN, "```json"),
    marks=(_SEPARATOR,),
    around=_AROUND,
)
