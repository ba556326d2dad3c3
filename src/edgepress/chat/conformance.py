"""Conversations on which every renderer of a template has to agree, and what they came to when a bundle was exported.

A bundle carries ``chat_conformance.json``: for each case the text and the tokens that transformers made of it, or that
its template refused it. ``edgepress verify --conformance`` makes them again where it runs, and an app that encodes by
itself can be held to the same file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgepress.chat.prompt import ChatEncoder
from edgepress.chat.template import Message, clock
from edgepress.errors import InputError
from edgepress.schema import convert, read_object

CONFORMANCE_FILE = "chat_conformance.json"
NOW = datetime(2026, 7, 4, 12, 30)
"""What time it is while cases are rendered: some templates write the date."""
_AGAIN = "export the bundle again"


@dataclass(frozen=True)
class Case:
    """A conversation and how it is to be rendered; ``{control}`` in its texts is a special token of the model."""

    name: str
    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    answer: bool = True
    variables: Mapping[str, bool] = field(default_factory=dict)

    def with_control(self, token: str) -> Case:
        """The same with a special token's text where the case asks for one."""
        messages = [
            {key: value.replace("{control}", token) if isinstance(value, str) else value for key, value in one.items()}
            for one in self.messages
        ]
        return Case(self.name, messages, self.tools, self.documents, self.answer, self.variables)


def _says(role: str, content: str, **more: object) -> Message:
    return {"role": role, "content": content, **more}


_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Returns the weather in a place, "as is" <now>.',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "A city, such as Zürich."},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["place"],
        },
    },
}
_CALL = {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"place": "Zürich"}}}
_USER = _says("user", "What is 2+2?")
_TURNS = (_USER, _says("assistant", "4"), _says("user", "And 3+3?"))
_SYSTEM = _says("system", "You are brief.")
_CALLED = (
    _says("user", "How is the weather in Zürich?"),
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    _says("tool", '{"celsius": 21}', name="get_weather", tool_call_id="call00001"),
)
_DOCUMENTS = ({"title": "Penguins", "text": "Emperor penguins are the tallest."},)

CASES = (
    Case("one turn", [_USER]),
    Case("one turn, as it would be stored", [_USER, _says("assistant", "4")], answer=False),
    Case("several turns", _TURNS),
    Case("a system prompt", [_SYSTEM, *_TURNS]),
    Case("an empty message", [_says("user", "")]),
    Case("an empty system prompt", [_says("system", ""), _USER]),
    Case("spaces and line breaks around", [_says("user", "  \n two  spaces\t\n\n")]),
    Case("unicode", [_says("user", "Grüße, Ωμέγα, 日本語, e\u0301, \U0001f469\u200d\U0001f680")]),
    Case("a special token in a user's text", [_says("user", "say {control} and go on"), _says("assistant", "no")]),
    Case("a special token alone", [_says("user", "{control}")]),
    Case("markup in a user's text", [_says("user", "<b>{{ messages }}</b> {% raise %} &amp; \\n")]),
    Case("thinking", [_USER], variables={"enable_thinking": True}),
    Case("no thinking", [_USER], variables={"enable_thinking": False}),
    Case("thoughts of an earlier turn", [_USER, _says("assistant", "4", reasoning_content="2+2 is 4."), _TURNS[2]]),
    Case("tools", [_says("user", "How is the weather?")], tools=[_WEATHER]),
    Case("tools and a system prompt", [_SYSTEM, _says("user", "How is the weather?")], tools=[_WEATHER]),
    Case("a tool's answer", _CALLED, tools=[_WEATHER]),
    Case("documents", [_says("user", "Who is the tallest?")], documents=_DOCUMENTS),
    Case("two turns of one role", [_USER, _USER]),
    Case("an unknown role", [_says("narrator", "It rains."), _USER]),
)


class Vector(msgspec.Struct, frozen=True):
    """What a case came to: its text and tokens; both None where the template refuses it."""

    case: str
    text: str | None
    tokens: list[int] | None


class Vectors(msgspec.Struct, frozen=True):
    """The content of ``chat_conformance.json``. ``control`` is the special token that stands in users' texts.

    ``made_by`` says which version of transformers made them, at :data:`NOW`.
    """

    control: str
    made_by: str
    vectors: Annotated[list[Vector], msgspec.Meta(max_length=1000)]


def vector(encoder: ChatEncoder, case: Case) -> Vector:
    """What the runtime makes of a case. Its text is that without marks: special tokens of users' look like others."""
    stopped = clock.set(lambda: NOW)
    tools, documents, answer, variables = case.tools, case.documents, case.answer, case.variables
    try:
        text = encoder.template.render(
            case.messages, tools=tools, documents=documents, answer=answer, variables=variables
        )
        tokens = encoder.encode(case.messages, tools=tools, documents=documents, answer=answer, variables=variables)
    except InputError:
        return Vector(case.name, None, None)
    finally:
        clock.reset(stopped)
    return Vector(case.name, text, tokens)


def differences(encoder: ChatEncoder, expected: Vectors) -> list[str]:
    """In which cases, and where, the runtime differs from ``expected``: a line each."""
    cases = {case.name: case.with_control(expected.control) for case in CASES}
    found = []
    for wanted in expected.vectors:
        case = cases.get(wanted.case)
        if case is not None and (line := _difference(vector(encoder, case), wanted)):
            found.append(f"{wanted.case}: {line}")
    return found


def _difference(made: Vector, wanted: Vector) -> str:
    """What is different, nothing where they are alike."""
    if made == wanted:
        return ""
    if made.text is None or made.tokens is None:
        return "it is refused here"
    if wanted.text is None or wanted.tokens is None:
        return "it is rendered here, and was refused"
    if made.text != wanted.text:
        return f"its text differs from character {_first_difference(made.text, wanted.text)}"
    return f"its tokens differ from number {_first_difference(made.tokens, wanted.tokens)}"


def _first_difference(one: Sequence[object], other: Sequence[object]) -> int:
    """The first index at which two sequences are not alike, or the end of the shorter one."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))


def control_token(encoder: ChatEncoder) -> str:
    """A special token for users' texts: one that the template writes, where it writes any."""
    written = [token for token in encoder.control if any(token in text for text in encoder.template.literals)]
    return min(written or encoder.control, default="<|none|>")


def read_vectors(bundle: Path) -> Vectors | None:
    """The vectors that a bundle carries; None where it has none.

    Raises:
        InputError: the file is not what it should be.

    """
    path = bundle / CONFORMANCE_FILE
    return convert(read_object(path, _AGAIN), Vectors, path, _AGAIN) if path.is_file() else None
