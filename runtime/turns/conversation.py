"""A conversation with a model: what was said, and the next turn."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from edgepress.chat.spans.kinds import Piece, ToolCall
from edgepress.chat.template import Message
from edgepress.chat.tools import Tool, Tools
from edgepress.disk.files import atomic_file, write_json
from edgepress.errors import InputError
from edgepress.runtime.generation.answer import Answer
from edgepress.runtime.generation.forgetting import Forgetting
from edgepress.runtime.generation.sampling import Sampling
from edgepress.runtime.generation.speculation.kinds import Speculation
from edgepress.runtime.model import Model
from edgepress.runtime.turns.cutting import beginning_of, left_out_of
from edgepress.schema import convert, read_object

_REMEDY = "name a file that `/save` of edgepress chat wrote"
_log = logging.getLogger("edgepress.conversation")
_MOST_ROUNDS = 20  # of calls that one question may take


class _Saved(msgspec.Struct, frozen=True):
    """A conversation on disk."""

    edgepress_conversation: Literal[1]
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(max_length=100_000)]


class _Message(msgspec.Struct, frozen=True):
    """What each of its messages has to have; the rest is the template's affair."""

    role: str


def tool_message(call: ToolCall, result: str) -> Message:
    """What a call came to, as a message of the conversation."""
    return {"role": "tool", "name": call.name, "tool_call_id": call.id, "content": result}


@dataclass
class Conversation:
    """Turns with an open bundle, each going on from what the model keeps of those before.

    ``messages`` may be changed between turns: what still stands at their beginning is not computed again. ``last`` is
    the latest answer, with what it took; ``kept_in`` the file that has what it begins with.

    One that grows longer than the context is cut: the model is not told its oldest turns any more, of which
    ``left_out`` are so many messages, behind the system prompt; ``messages`` keeps them. A warning says so. An answer
    that fills the context ends there, unless ``forgetting``, or the bundle's recipe, has it go on.

    ``tools`` are functions, which are called when the model asks for them and whose results it answers to, and JSON
    schemas of others: where one of those is called, the turn ends, and :func:`tool_message` makes the next message.
    """

    model: Model
    messages: list[Message] = field(default_factory=list)
    tools: Sequence[Tool] | None = None
    variables: Mapping[str, object] = field(default_factory=dict)
    sampling: Sampling | None = None
    max_tokens: int | None = None
    stop: Sequence[str | int] = ()
    speculate: Speculation | None = None
    forgetting: Forgetting | Literal[False] | None = None
    last: Answer | None = None
    kept_in: Path | None = None
    _left_out: list[Message] = field(default_factory=list)

    @property
    def left_out(self) -> int:
        """How many messages the model was not told when it answered last."""
        return len(self._left_out)

    def say(self, text: str, *, role: str = "user") -> Iterator[str]:
        """Say ``text``; iterate over what is answered as it comes.

        What was said and answered is among ``messages`` when the answer ends, or when it is left before its end: then
        as far as it came. What the model thought is kept with it, and so is what it wants called.

        Raises:
            InputError: as for :meth:`Model.chat`; the conversation is as it was before.

        """
        pieces = self.ask(text, role=role)
        return (piece.text for piece in pieces if piece.field == "text")

    def ask(self, text: str, *, role: str = "user") -> Iterator[Piece]:
        """As :meth:`say`; iterate over thoughts and calls of tools as well."""
        asked = [*self.messages, {"role": role, "content": text}]
        tools = Tools.of(self.tools)
        return self._answers(self._next(asked, tools), asked, tools)

    def _next(self, asked: list[Message], tools: Tools) -> Answer:
        begin, out = beginning_of(asked), self._too_old(asked, tools)
        told = asked[begin + len(out) :]
        self.last = self.model.chat(
            [*asked[:begin], *told],
            tools=tools.schemas or None,
            variables=self.variables,
            max_tokens=self.max_tokens,
            sampling=self.sampling,
            stop=self.stop,
            speculate=self.speculate,
            forgetting=self.forgetting,
        )
        if len(out) > len(self._left_out):
            _log.warning(
                "the conversation is too long for the context of %d tokens; what the model is told now is %sits last "
                "%d messages, and %d before them are left out",
                self.model.context,
                "the system prompt and " * bool(begin),
                len(told),
                len(out),
            )
        self._left_out = out
        return self.last

    def _too_old(self, asked: list[Message], tools: Tools) -> list[Message]:
        """The messages behind the beginning that the model is not told."""
        begin, before = beginning_of(asked), self._left_out
        known = len(before) if asked[begin : begin + len(before)] == before else 0
        encode = partial(self.model.chat_encoder.encode, tools=tools.schemas or None, variables=self.variables)
        longest, context = self.max_tokens, self.model.context
        return asked[begin:][: left_out_of(asked, known, lambda told: len(encode(told)), context, longest)]

    def _answers(self, answer: Answer, asked: list[Message], tools: Tools) -> Iterator[Piece]:
        """The answer, and, as long as it calls functions that are here, what it says to what they gave."""
        for _ in range(_MOST_ROUNDS):
            try:
                yield from answer.pieces()
            finally:
                self.messages = [*asked, answer.message()]
            if not answer.tool_calls or not all(call.name in tools.functions for call in answer.tool_calls):
                return
            given = [tool_message(call, tools.call(call)) for call in answer.tool_calls]
            asked = self.messages = [*self.messages, *given]
            answer = self._next(asked, tools)
        raise InputError(f"the model called tools {_MOST_ROUNDS} times in a row; say what it is to do more closely")

    def keep_beginning(self, path: Path) -> int:
        """Keep what the model makes of the system prompt and the tools in a file, or go on from it; return its tokens.

        Raises:
            InputError: as for :meth:`Model.prefix`.

        """
        first = self.messages[: beginning_of(self.messages)]
        tokens = self.model.prefix(path, first, tools=Tools.of(self.tools).schemas or None, variables=self.variables)
        self.kept_in = path
        return tokens

    def reset(self) -> None:
        """Begin anew, with the same system prompt."""
        self.messages, self.last = self.messages[: beginning_of(self.messages)], None

    def undo(self) -> bool:
        """Take back the last turn of the user and what followed; False when there is none."""
        last = next((at for at in reversed(range(len(self.messages))) if self.messages[at]["role"] == "user"), None)
        if last is None:
            return False
        del self.messages[last:]
        return True

    def save(self, path: Path) -> None:
        """Write what was said as JSON; an earlier conversation in ``path`` is replaced, another file is not.

        Raises:
            InputError: there is another file.

        """
        replaces = path.exists()
        if replaces:
            read_conversation(path)
        with atomic_file(path, replace=replaces) as work:
            write_json(work, {"edgepress_conversation": 1, "messages": [dict(message) for message in self.messages]})


def read_conversation(path: Path) -> list[Message]:
    """The messages of a conversation that was saved.

    Raises:
        InputError: the file is none.

    """
    if not path.is_file():
        raise InputError(f"{path} is no file; {_REMEDY}")
    messages = convert(read_object(path, _REMEDY), _Saved, path, _REMEDY).messages
    for number, message in enumerate(messages, 1):
        convert(message, _Message, f"{path}: message {number}", _REMEDY)
    return list(messages)
