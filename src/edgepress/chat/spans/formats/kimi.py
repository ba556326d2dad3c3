"""Kimi K2: a name with a number, by which the call is known, and JSON, in tokens of their own."""

import re
from collections.abc import Mapping

from edgepress.chat.spans.grammars import as_object, json_rule
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, parse_json

_BEGIN, _CLOSE = "<|tool_call_begin|>", "<|tool_call_end|>"
_AROUND = ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>")
_ARGUMENTS = "<|tool_call_argument_begin|>"
_NAME = re.compile(r"\s*((?:functions\.)?([^\s:]+):\d+)\s*")


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    head, separator, arguments = text.partition(_ARGUMENTS)
    named = _NAME.fullmatch(head)
    if named is None or not separator:
        raise ValueError("no call is in it")
    return [checked(named[2], parse_json(arguments), named[1])]


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    calls = [f"{literal(f'functions.{name}:')} NUMBER {literal(_ARGUMENTS)} args_{at}" for at, name in enumerate(tools)]
    rules = [f"args_{at}: {json_rule(as_object(schema))}" for at, schema in enumerate(tools.values())]
    return "\n".join([f"start: {' | '.join(calls)}", "NUMBER: /[0-9]{1,2}/", *rules])


FORMAT = CallFormat(
    "kimi",
    (_BEGIN,),
    (_CLOSE,),
    _read,
    _grammar,
    hints=(_BEGIN, _ARGUMENTS),
    marks=(_ARGUMENTS,),
    around=_AROUND,
)
