"""The next turn of a conversation, in its parts as they come: thoughts, text and calls of tools."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from edgepress.chat.spans.kinds import Piece, ToolCall
from edgepress.chat.spans.splitting import Splitter
from edgepress.runtime.generation.generation import Generation


@dataclass
class Answer(Generation):
    """A generation that knows what its text is: iterate over it for what is said, over :meth:`pieces` for all.

    What was read so far is in

    - ``reasoning``: what the model thought before it answered
    - ``content``: what it said
    - ``tool_calls``: what it wants called, each in full; what cannot be read as a call is among what it said

    Without a ``splitter`` everything is said. ``known_calls`` is how many calls the conversation has before, by which
    these are named.
    """

    splitter: Splitter | None = None
    known_calls: int = 0
    arguments_as_text: bool = False
    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._parts = self._split()

    def pieces(self) -> Iterator[Piece]:
        """What is still to come, each piece with what it is."""
        return self._parts

    def __next__(self) -> str:
        return next(piece.text for piece in self._parts if piece.field == "text")

    def message(self) -> dict[str, Any]:
        """The turn so far, as a message of the conversation."""
        made: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            made["reasoning_content"] = self.reasoning
        if self.tool_calls:
            made["tool_calls"] = [call.message() for call in self.tool_calls]
        for call in made.get("tool_calls", ()) if self.arguments_as_text else ():
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
        return made

    def _split(self) -> Iterator[Piece]:
        splitter = self.splitter
        for text in iter(self._more, None):
            for piece in [Piece("text", text)] if splitter is None else splitter.push(text):
                yield self._noted(piece)
        for piece in () if splitter is None else splitter.finish():
            yield self._noted(piece)

    def _more(self) -> str | None:
        """The next text of the generation; None when it has ended."""
        try:
            return super().__next__()
        except StopIteration:
            return None

    def _noted(self, piece: Piece) -> Piece:
        if piece.call is not None:
            number = self.known_calls + len(self.tool_calls) + 1
            named = replace(
                piece.call, id=piece.call.id or f"call{number:05d}"
            )  # Mistral takes nine letters and digits
            self.tool_calls.append(named)
            return Piece("tool_call", call=named)
        if piece.field == "reasoning":
            self.reasoning += piece.text
        else:
            self.content += piece.text
        return piece
