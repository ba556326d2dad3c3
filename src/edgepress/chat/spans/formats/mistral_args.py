"""Mistral from Small 3.2 on, Ministral 3, Devstral: a name, a token, and arguments as JSON."""

import re
from collections.abc import Mapping

from edgepress.chat.spans.grammars import one_call
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, json_at

_OPEN, _IDENTITY, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_HEAD = re.compile(r"\s*(?:\[TOOL_CALLS\])?\s*([^\s\[{]+)(?:\[CALL_ID\]([^\s\[]+))?\[ARGS\]\s*")


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    """Further calls begin with the token that the first one does, which may be in an argument as well."""
    text = text.rstrip()
    calls: list[ToolCall] = []
    at = 0
    while at < len(text) or not calls:
        head = _HEAD.match(text, at)
        if head is None:
            raise ValueError("something else than calls is in it")
        arguments, at = json_at(text, head.end())
        calls.append(checked(head[1], arguments, head[2]))
    return calls


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    """Without an identity, which the token between name and arguments would come after."""
    return f"start: call\n{one_call(tools, literal, '', _ARGUMENTS, '')}"


FORMAT = CallFormat(
    "mistral_args",
    (_OPEN,),
    (),
    _read,
    _grammar,
    hints=(_OPEN, _ARGUMENTS),
    marks=(_IDENTITY, _ARGUMENTS),
)
