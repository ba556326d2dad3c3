"""Qwen3-Coder, Qwen 3.5, Nemotron 3, Step 3.5, Seed: a function and its parameters in tags, texts without quotes."""

import re
from collections.abc import Mapping

from edgepress.chat.spans.grammars import written_out
from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.values import checked, typed

_CALL = re.compile(r"\s*<function=([^>\n]+)>(.*)</function>\s*", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>(?=\s*(?:<parameter=|\Z))", re.DOTALL)


def _read(text: str, tools: Mapping[str, Schema]) -> list[ToolCall]:
    call = _CALL.fullmatch(text)
    if call is None:
        raise ValueError("no function is in it")
    name, rest = call[1].strip(), call[2].rstrip()
    arguments, at = {}, 0
    while at < len(rest):
        found = _PARAMETER.match(rest, at)
        if found is None:
            raise ValueError("something else than parameters is in it")
        arguments[found[1]] = typed(found[2], found[1], tools.get(name))
        at = found.end()
    return [checked(name, arguments)]


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    value = ("<parameter={}>\n", "\n</parameter>\n")
    rules = written_out(tools, literal, lambda name: f"<function={name}>\n", value, "</function>")
    return f'start: "\\n" call "\\n"\n{rules}'


FORMAT = CallFormat(
    "qwen_xml",
    ("<tool_call>", "<seed:tool_call>"),
    ("</tool_call>", "</seed:tool_call>"),
    _read,
    _grammar,
    hints=("<tool_call>", "<function="),
)
