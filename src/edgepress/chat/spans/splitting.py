"""An answer into its parts, as it comes.

What may be the beginning of a mark is held back until it is known to be none, and a call until it is whole, so that
nothing is shown that turns out to be something else. What looks like a call and cannot be read is text, as it stands.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgepress.chat.spans.kinds import AnswerFormat, Piece, parameters_of

_Kind = Literal["text", "reasoning", "tool_call", "dropped"]


@dataclass(frozen=True)
class _Span:
    """A part between marks: where it begins, and with what it may end."""

    kind: _Kind
    open: str
    closes: tuple[str, ...]


class Splitter:
    """Parts of one answer. ``is_thinking`` says that the prompt ends inside of thoughts.

    ``tools`` are those that the model was given. With ``is_form`` what it says is of a given form: where thoughts have
    begun they end, and all else is text, whatever marks are in it.
    """

    def __init__(
        self,
        form: AnswerFormat,
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        is_thinking: bool = False,
        is_form: bool = False,
    ) -> None:
        self._tools, self._calls = parameters_of(tools), form.calls
        self._spans, self._bare = ([], ()) if is_form else self._sorted_spans(form)
        self._is_marked = bool(form.calls and form.calls.sections) and not is_form
        self._open = re.compile("|".join(re.escape(span.open) for span in self._spans) or "(?!)")
        self._buffer = ""
        self._span: _Span | None = None
        self._searched = 0  # of what is held of a call: so far no end of it is in there
        self._parts = 0  # that were entered so far
        self._begins = True  # nothing but spaces came so far in this part
        self._is_said = False  # whether anything but thoughts and spaces came so far
        self._spaces = ""  # held back: they are left out before another part
        self._unmarked = ""  # what is outside of all parts, of a format that marks texts as well
        if is_thinking and form.thoughts is not None:
            self._enter(_Span("reasoning", form.thoughts.open, (form.thoughts.close,)), 0)

    def _sorted_spans(self, form: AnswerFormat) -> tuple[list[_Span], tuple[str, ...]]:
        spans: list[_Span] = []
        bare: tuple[str, ...] = ()
        if form.thoughts is not None:
            spans.append(_Span("reasoning", form.thoughts.open, (form.thoughts.close,)))
        if (calls := form.calls) is not None:
            spans += [_Span(one.field, one.open, one.closes) for one in calls.sections]
            spans += [_Span("dropped", one, ()) for one in calls.around]
            if not calls.is_bare:
                spans += [_Span("tool_call", one, calls.closes) for one in calls.opens]
            elif self._tools:
                bare = calls.opens
        return sorted(spans, key=lambda span: -len(span.open)), bare

    @property
    def call_begun(self) -> tuple[str, str] | None:
        """What the call that goes on began with, and what of it came so far; None outside of calls."""
        is_call = self._span is not None and self._span.kind == "tool_call"
        return (self._span.open, self._buffer) if self._span is not None and is_call else None

    @property
    def is_thinking(self) -> bool:
        """Whether thoughts go on."""
        return self._span is not None and self._span.kind == "reasoning"

    def forget_begun(self) -> None:
        """Take back what came of a call so far: it will come otherwise."""
        self._buffer = ""

    def push(self, text: str) -> Iterator[Piece]:
        """Take some more of the answer; yield what became final."""
        self._buffer += text
        while (step := self._step()) is not None:
            yield from step

    def finish(self) -> Iterator[Piece]:
        """The answer has ended: yield what was held back."""
        while (span := self._span) is not None and span.kind == "tool_call":
            rest, self._buffer = self._buffer, ""
            if calls := self._read(rest):
                yield from calls
                self._leave(0)
                continue
            yield from self._plain("text", span.open)  # it is none: what follows it may hold others
            self._span, self._buffer, self._bare = None, rest, ()
            yield from self.push("")
        kind = "text" if self._span is None else self._span.kind
        yield from self._outside(self._buffer) if self._span is None else self._plain(kind, self._buffer)
        self._buffer = ""
        if not self._parts and self._unmarked:
            yield Piece("text", self._unmarked)
        elif self._spaces and kind == "text":
            yield Piece("text", self._spaces)

    # ---- one step ----------------------------------------------------------------------------------------------------

    def _step(self) -> list[Piece] | None:
        """What the buffer gives before a mark, or up to what may be one; None where more has to come first."""
        if self._span is None:
            return self._step_outside()
        if self._span.kind == "tool_call":
            return self._step_call(self._span)
        return self._step_inside(self._span)

    def _step_outside(self) -> list[Piece] | None:
        if self._bare and not self._is_said:
            start = self._buffer.lstrip()
            if any(start.startswith(one) for one in self._bare):
                self._enter(_Span("tool_call", "", ()), 0)  # what it begins with belongs to what is read
                return []
            if any(one.startswith(start) for one in self._bare):
                return None
        found = self._open.search(self._buffer)
        if found is None:
            return self._all_but_a_mark([span.open for span in self._spans])
        pieces = self._outside(self._buffer[: found.start()])
        self._enter(next(span for span in self._spans if span.open == found[0]), found.end())
        return pieces

    def _step_inside(self, span: _Span) -> list[Piece] | None:
        ends = [(at, close) for close in span.closes if (at := self._buffer.find(close)) >= 0]
        if not ends:
            return self._all_but_a_mark(span.closes)
        at, close = min(ends)
        pieces = self._plain(span.kind, self._buffer[:at])
        self._leave(at + len(close))
        return pieces

    def _step_call(self, span: _Span) -> list[Piece] | None:
        """The calls, when an end of them comes before which they can be read; texts in them may contain such ends."""
        for close in span.closes:
            at = self._buffer.find(close, max(0, self._searched - len(close) + 1))
            while at >= 0:
                if calls := self._read(self._buffer[:at]):
                    self._leave(at + len(close))
                    return calls
                at = self._buffer.find(close, at + 1)
        self._searched = len(self._buffer)
        return None

    def _read(self, text: str) -> list[Piece]:
        """The calls in a text; none where it cannot be read."""
        assert self._calls is not None  # there are parts that are calls
        try:
            return [Piece("tool_call", call=call) for call in self._calls.read(text, self._tools)]
        except ValueError:
            return []

    # ---- what is let go ----------------------------------------------------------------------------------------------

    def _all_but_a_mark(self, marks: Sequence[str]) -> list[Piece] | None:
        """What is in the buffer but an end that may begin one of ``marks``; None where that is nothing."""
        held = max((_overlap(self._buffer, mark) for mark in marks), default=0)
        ready, self._buffer = self._buffer[: len(self._buffer) - held], self._buffer[len(self._buffer) - held :]
        if not ready:
            return None
        return self._outside(ready) if self._span is None else self._plain(self._span.kind, ready)

    def _outside(self, text: str) -> list[Piece]:
        """Text that is in no part: of no account where a format marks texts as well."""
        if self._is_marked:
            self._unmarked += text
            return []
        self._is_said = self._is_said or bool(text.strip())
        return self._plain("text", text)

    def _plain(self, kind: _Kind, text: str) -> list[Piece]:
        """A piece of text or thoughts, without the spaces around the whole of it."""
        assert kind in ("text", "reasoning")
        if self._begins and self._parts:
            text = text.lstrip()
        if not text:
            return []
        self._begins = False
        text = self._spaces + text
        kept = text.rstrip()
        self._spaces = text[len(kept) :]
        return [Piece(kind, kept)] if kept else []

    def _enter(self, span: _Span, after: int) -> None:
        self._leave(after)
        self._span = None if span.kind == "dropped" else span
        self._is_said = self._is_said or span.kind in ("text", "tool_call")

    def _leave(self, after: int) -> None:
        """Go on after a mark, outside of all parts."""
        self._buffer = self._buffer[after:]
        self._parts += 1
        self._begins, self._spaces, self._searched, self._span = True, "", 0, None


def _overlap(text: str, mark: str) -> int:
    """The length of the longest end of ``text`` that begins ``mark`` without completing it."""
    longest = min(len(text), len(mark) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(mark[:length])), 0)
