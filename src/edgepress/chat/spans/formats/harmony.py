"""gpt-oss: channels. Thoughts, calls and the answer are messages of their own, each with a header."""

import re
from collections.abc import Mapping

from edgepress.chat.spans.grammars import as_object, json_rule
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, Section, ToolCall
from edgepress.chat.spans.values import checked, parse_json

_CHANNEL, _MESSAGE, _CALL = "<|channel|>", "<|message|>", "<|call|>"
_ENDS = ("<|end|>", "<|return|>")
_HEAD = re.compile(r"([^\s<]+)[^\n]*?<\|message\|>")


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    """The name comes first, then what is left of the header, then the arguments."""
    head = _HEAD.match(text)
    if head is None:
        raise ValueError("no message is in it")
    return [checked(head[1], parse_json(text[head.end() :]))]


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    heads = (" <|constrain|>json", f"{_CHANNEL}commentary <|constrain|>json", f"{_CHANNEL}commentary json")
    calls = [f"{literal(name)} header args_{number}" for number, name in enumerate(tools)]
    rules = [f"args_{number}: {json_rule(as_object(schema))}" for number, schema in enumerate(tools.values())]
    header = " | ".join(literal(head + _MESSAGE) for head in heads)
    return "\n".join([f"start: {' | '.join(calls)}", f"header: {header}", *rules])


def _section(field: str, channel: str) -> Section:
    return Section("reasoning" if field == "reasoning" else "text", f"{_CHANNEL}{channel}{_MESSAGE}", _ENDS)


FORMAT = CallFormat(
    "harmony",
    (f"{_CHANNEL}commentary to=functions.", " to=functions."),
    (_CALL,),
    _read,
    _grammar,
    hints=(_CHANNEL, _MESSAGE, _CALL),
    sections=(_section("reasoning", "analysis"), _section("text", "final"), _section("text", "commentary")),
    marks=("<|start|>", "<|constrain|>", _MESSAGE, _CHANNEL),
)
