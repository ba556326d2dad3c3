"""What an answer is made of, and what a file of ``formats/`` has to say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Schema = Mapping[str, Any]
Literally = Callable[[str], str]
"""Makes what Lark has for a text."""
Field = Literal["text", "reasoning", "tool_call"]


@dataclass(frozen=True)
class ToolCall:
    """A function that the model wants called; ``id`` is what the model calls this call, where it gives it a name."""

    name: str
    arguments: Mapping[str, Any]
    id: str | None = None

    def message(self) -> dict[str, Any]:
        """As it stands among the ``tool_calls`` of a message."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": dict(self.arguments)}}


@dataclass(frozen=True)
class Piece:
    """Some more of an answer: of its text, of what was thought, or a call, which comes whole."""

    field: Field
    text: str = ""
    call: ToolCall | None = None


@dataclass(frozen=True)
class Thoughts:
    """What stands around reasoning: it begins after ``open`` and ends before ``close``."""

    open: str
    close: str


@dataclass(frozen=True)
class Section:
    """Text or thoughts that a format writes between marks of its own, beside :class:`Thoughts`."""

    field: Literal["text", "reasoning"]
    open: str
    closes: tuple[str, ...]


@dataclass(frozen=True)
class CallFormat:
    """How calls stand in an answer.

    - ``opens``: what a call, or a list of them, begins with
    - ``closes``: what it ends with; nothing where it goes on to the end of the answer
    - ``read``: the calls in what stands between; ValueError where that is none
    - ``grammar``: what may stand between, of the given tools: Lark's rules, ``start`` first, spaces as the model was
      trained to write them. Texts go through the second argument, which knows what is a token; None where a call
      begins inside what it is known by
    - ``is_bare``: whether it begins with characters of any text, so that it is looked for at the beginning of an answer
      alone and where there are tools, and what it begins with is read as well
    - ``hints``: texts of which a template or vocabulary has all where the template itself writes no calls
    - ``repeats``: whether further calls may follow, each in marks of its own
    - ``sections``: further parts, of formats that mark text and thoughts as well; what is outside of them is dropped
    - ``marks``: special tokens inside of calls
    - ``around``: what stands around calls and is none of them
    """

    name: str
    opens: tuple[str, ...]
    closes: tuple[str, ...]
    read: Callable[[str, Mapping[str, Schema]], list[ToolCall]]
    grammar: Callable[[Mapping[str, Schema], Literally], str] | None = None
    is_bare: bool = False
    hints: tuple[str, ...] = ()
    repeats: bool = True
    sections: tuple[Section, ...] = ()
    marks: tuple[str, ...] = ()
    around: tuple[str, ...] = ()


@dataclass(frozen=True)
class AnswerFormat:
    """How a model writes its answers: its thoughts and its calls, as far as they are known.

    ``arguments_as_text``: whether its template takes arguments as JSON's text and not as an object.
    """

    thoughts: Thoughts | None = None
    calls: CallFormat | None = None
    arguments_as_text: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """Texts that have to be seen in an answer: some are special tokens, which are not shown otherwise."""
        marks: tuple[str, ...] = () if self.thoughts is None else (self.thoughts.open, self.thoughts.close)
        if self.calls is not None:
            marks += (*self.calls.opens, *self.calls.closes, *self.calls.marks, *self.calls.around)
            for section in self.calls.sections:
                marks += (section.open, *section.closes)
        return marks


def parameters_of(tools: Sequence[Mapping[str, Any]] | None) -> dict[str, Schema]:
    """The JSON schema of each tool's arguments, by its name; tools may have OpenAI's envelope or not."""
    found = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        if isinstance(function, Mapping) and isinstance(name := function.get("name"), str):
            parameters = function.get("parameters")
            found[name] = parameters if isinstance(parameters, Mapping) else {"type": "object", "properties": {}}
    return found
