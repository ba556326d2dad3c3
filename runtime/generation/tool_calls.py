"""Calls of tools as their schemas allow: held to them from where one begins to its end, free before and after.

What an answer begins with is free text to the model, so nothing is masked there. When a call has begun, by the marks
of the model's format, llguidance says which tokens may come: a name that there is, and arguments that its schema
allows. What can only follow takes no step.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.chat.spans.grammars import quoted
from edgepress.chat.spans.kinds import AnswerFormat, CallFormat, Schema, parameters_of
from edgepress.chat.spans.splitting import Splitter
from edgepress.errors import InputError
from edgepress.runtime.generation.constraints import Constraint, Matcher
from edgepress.runtime.generation.exact_numbers import misread_number
from edgepress.runtime.generation.penalties import Floats
from edgepress.text.tokenizer import Detokenizer, Tokenizer

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_log = logging.getLogger("edgepress.tools")


class ToolGuide:
    """Holds the calls of one answer to the schemas of their tools; ``is_held`` says whether one goes on.

    Args:
        table: llguidance's of the vocabulary.
        tokenizer: the bundle's.
        encode: tokens of a text as they are inside of one.
        form: how the model writes its answers, calls among it.
        tools: what may be called.
        must: whether the answer has to be a call, after thoughts.
        is_thinking: whether the prompt ends inside of thoughts.

    Raises:
        InputError: llguidance cannot read a tool's schema.

    """

    def __init__(
        self,
        table: "LLTokenizer",
        tokenizer: Tokenizer,
        encode: Callable[[str], list[int]],
        form: AnswerFormat,
        tools: Sequence[Mapping[str, Any]],
        *,
        must: bool = False,
        is_thinking: bool = False,
    ) -> None:
        if form.calls is None or form.calls.grammar is None:
            raise InputError("calls of this model cannot be held to the schemas of their tools; leave tool_choice out")
        self._form, self._calls, self._encode = form, form.calls, encode
        shown = frozenset(token for mark in form.marks for token in special_in(tokenizer, mark))
        self._detokenizer = Detokenizer(tokenizer, special=shown)
        self._splitter = Splitter(form, tools, is_thinking=is_thinking)
        self._names = {str(tokenizer.library.id_to_token(token)): token for token in tokenizer.special}
        self._call = Matcher(table, self._constraint(form.calls, parameters_of(tools)))
        for warning in self._call.warnings:
            _say(f"calls are held to a part of their tools' schemas: {warning}")
        if number := misread_number(parameters_of(tools)):
            _say(f"calls are held to a part of their tools' schemas: {number} is beyond what llguidance reads exactly")
        self.is_held = self.is_over = False
        self._must, self._may_think = must, not is_thinking

    def _constraint(self, calls: CallFormat, tools: Mapping[str, Schema]) -> Constraint:
        assert calls.grammar is not None  # as was asked
        names = ", ".join(tools)
        return Constraint.lark(calls.grammar(tools, self._literally), f"the schemas of the tools {names}")

    def _literally(self, text: str) -> str:
        """A text in Lark: special tokens in it by their numbers, as they are no characters to llguidance."""
        parts, rest = [], text
        while rest:
            found = [(at, name) for name in self._names if (at := rest.find(name)) >= 0]
            at, name = min(found, key=lambda one: (one[0], -len(one[1])), default=(len(rest), ""))
            parts += [quoted(rest[:at])] if at else []
            parts += [f"<[{self._names[name]}]>"] if name else []
            rest = rest[at + len(name) :]
        return " ".join(parts)

    @property
    def is_unfinished(self) -> bool:
        """Whether the answer, if it ended here, would end inside of a call."""
        return self.is_held

    def masked(self, logits: Floats) -> Floats:
        """``logits`` (vocab,) with −∞ for tokens that may not come next: none outside of calls."""
        if self.is_held:
            return self._call.masked(logits)
        if not self._must or self._splitter.is_thinking:
            return logits
        if not self._opening:  # the call has no marks
            self._enter("")
            return self._call.masked(logits)
        masked = np.full_like(logits, -np.inf)
        allowed = [self._opening[0], *(self._thoughts[:1] if self._may_think else ())]
        masked[allowed] = logits[allowed]
        return masked

    def take(self, token: int) -> list[int]:
        """Go on by a token; return it, or what of it may be there, and the tokens that have to follow."""
        if self.is_held:
            return self._through(self._call.take(token))
        step = self._begun_by(token) if self._must and not self._splitter.is_thinking else [token]
        text = "".join(map(self._detokenizer.push, step))
        self._see(text)
        if (begun := self._splitter.call_begun) is None:
            return step
        if self._enter(begun[1]):
            return self._through([*step, *self._call.forced()], seen=len(step))
        if self._calls.is_bare or len(begun[1]) >= len(text):
            return step  # it began otherwise, some tokens ago: what it comes to is not held to anything
        self._splitter.forget_begun()  # the token goes on as no call may: only its beginning is taken
        self._enter("")
        step = self._encode(text[: len(text) - len(begun[1])])
        return self._through([*step, *self._call.forced()], seen=len(step))

    def _begun_by(self, token: int) -> list[int]:
        """The whole mark of a call or of thoughts, where the answer has to begin with one."""
        if token == self._opening[0]:
            return self._opening
        self._may_think = False
        return self._thoughts

    @cached_property
    def _opening(self) -> list[int]:
        """What a call begins with that has to come."""
        return [] if self._calls.is_bare else self._encode(self._calls.opens[0])

    @cached_property
    def _thoughts(self) -> list[int]:
        thoughts = self._form.thoughts
        return [] if thoughts is None else self._encode(thoughts.open)

    def _enter(self, begun: str) -> bool:
        """Whether a call may begin so; it goes on then."""
        self.is_held = self._call.begin_anew(begun.lstrip() if self._calls.is_bare else begun)
        self._must = self._must and not self.is_held
        return self.is_held

    def _through(self, step: list[int], seen: int = 0) -> list[int]:
        """Tokens inside of a call, the first ``seen`` of which are known; with what ends it, where it is whole."""
        self._see("".join(map(self._detokenizer.push, step[seen:])))
        if not self._call.is_over:
            return step
        self.is_held = False
        if not self._calls.closes:
            self.is_over = not self._calls.repeats
            return step
        if self._splitter.call_begun is None:  # the form has what ends a call
            return step
        end = self._encode(self._end)
        self._see("".join(map(self._detokenizer.push, end)))
        return [*step, *end]

    @property
    def _end(self) -> str:
        """The mark that ends the call that goes on."""
        begun, calls = self._splitter.call_begun, self._calls
        alike = len(calls.opens) == len(calls.closes) and begun is not None
        return calls.closes[calls.opens.index(begun[0]) if alike and begun is not None else 0]

    def _see(self, text: str) -> None:
        for _ in self._splitter.push(text):
            pass


@cache
def _say(warning: str) -> None:
    """Warn once in a process."""
    _log.warning("%s", warning)


def special_in(tokenizer: Tokenizer, mark: str) -> list[int]:
    """The special tokens that a mark is made of, or has in it."""
    names = ((str(tokenizer.library.id_to_token(token)), token) for token in tokenizer.special)
    return [token for name, token in names if name in mark]
