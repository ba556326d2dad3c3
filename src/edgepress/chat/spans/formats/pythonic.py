"""Llama 3.2 and 4 where they are asked for Python: the answer is a list of calls, and nothing around it."""

from collections.abc import Mapping

from edgepress.chat.spans.kinds import CallFormat, Literally, Schema, ToolCall
from edgepress.chat.spans.pythonic import pythonic_calls, read_pythonic


def _read(text: str, _tools: Mapping[str, Schema]) -> list[ToolCall]:
    return read_pythonic(text.strip().removeprefix("<|python_start|>").removesuffix("<|python_end|>"))


def _grammar(tools: Mapping[str, Schema], literal: Literally) -> str:
    return f'start: "[" call (", " call)* "]"\n{pythonic_calls(tools, literal)}'


FORMAT = CallFormat(
    "pythonic",
    ("[", "<|python_start|>["),
    (),
    _read,
    _grammar,
    is_bare=True,
    hints=("[func_name1(params_name1=params_value1",),
    repeats=False,
    marks=("<|python_end|>",),
)
