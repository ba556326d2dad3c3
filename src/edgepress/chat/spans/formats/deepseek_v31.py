"""DeepSeek V3.1: a name and JSON, in tokens of their own."""

from collections.abc import Mapping

from edgepress.chat.spans.grammars import one_call
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, parse_json

_BEGIN, _CLOSE = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_AROUND = ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")
_SEPARATOR = "<｜tool▁sep｜>"


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    name, separator, arguments = text.partition(_SEPARATOR)
    if not separator:
        raise ValueError("no call is in it")
    return [checked(name.strip(), parse_json(arguments))]


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    return f"start: call\n{one_call(tools, literal, '', _SEPARATOR, '')}"


FORMAT = CallFormat(
    "deepseek_v31",
    (_BEGIN,),
    (_CLOSE,),
    _read,
    _grammar,
    hints=(_BEGIN,),
    marks=(_SEPARATOR,),
    around=_AROUND,
)
