"""GLM 4.5 to 4.7, Ling 3, Laguna: a name, then keys and values in tags, texts without quotes."""

import re
from collections.abc import Mapping

from edgepress.chat.spans.grammars import written_out
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, typed

_CLOSE = "</tool_call>"
_NAME = re.compile(r"\s*([\w.-]+)")
_PAIR = re.compile(r"\s*<arg_key>([^<]+)</arg_key>\s*<arg_value>(.*?)</arg_value>(?=\s*(?:<arg_key>|\Z))", re.DOTALL)


def _read(text: str, tools: Mapping[str, Schema]) -> list[ToolCall]:
    begin, end = _NAME.match(text), len(text.rstrip())
    if begin is None:
        raise ValueError("no name is in it")
    arguments, at = {}, begin.end()
    while at < end:
        found = _PAIR.match(text, at)
        if found is None:
            raise ValueError("something else than keys and values is in it")
        arguments[found[1]] = typed(found[2], found[1], tools.get(begin[1]))
        at = found.end()
    return [checked(begin[1], arguments)]


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    """With what ends a call: whether another argument follows is told by nothing else."""
    value = ("<arg_key>{}</arg_key>\n<arg_value>", "</arg_value>\n")
    rules = written_out(tools, literal, lambda name: f"{name}\n", value, _CLOSE)
    return f"start: call\n{rules}"


FORMAT = CallFormat("glm", ("<tool_call>",), (_CLOSE,), _read, _grammar, hints=("<tool_call>", "<arg_key>"))
