"""An answer as it is generated: token by token, until it ends."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Literal, Protocol

from edgepress.errors import InputError
from edgepress.runtime.generation.choosing import Choosing
from edgepress.runtime.generation.constraints import Form
from edgepress.runtime.generation.forgetting import Forgetting
from edgepress.runtime.generation.penalties import Floats
from edgepress.runtime.generation.sampling import Sampling, log_probability
from edgepress.runtime.sessions.session import Session
from edgepress.terminal.counts import counted
from edgepress.text.tokenizer import Detokenizer, StopStrings, Tokenizer

StopReason = Literal["end", "stop", "max_tokens", "context"]


@dataclass
class Timings:
    """Seconds of one generation. ``run`` is the part of ``prefill`` plus ``decode`` spent inside onnxruntime."""

    prefill: float = 0.0
    decode: float = 0.0
    run: float = 0.0


@dataclass
class Tally:
    """What came of speculation: steps of the model after the prompt, tokens proposed, and how many were right.

    ``note`` says why there was none.
    """

    steps: int = 0
    proposed: int = 0
    right: int = 0
    note: str = ""

    def __str__(self) -> str:
        return self.note or f"{self.steps} steps, {self.right} of {self.proposed} proposed tokens right"


@dataclass(frozen=True)
class Found:
    """An answer that a search found: its text, its tokens, what ended it included, and its score, higher is better."""

    text: str
    tokens: tuple[int, ...]
    score: float


class Search(Protocol):
    """What finds an answer as a whole, in the place of one token after the other."""

    def find(self, generation: "Generation") -> Sequence[Found]:
        """The answers to a generation's prompt, the best first; ``timings`` and ``reused`` are set.

        Raises:
            InputError: there is none.

        """


class OpenText(Protocol):
    """What a generation needs of an open model: one text, to which tokens are appended.

    ``changes`` counts the calls that changed that text, by which a generation notices that another one has begun;
    ``reused`` is how many tokens the last text that was begun had from the one before.
    """

    @property
    def changes(self) -> int:
        """See above."""

    @property
    def reused(self) -> int:
        """See above."""

    @property
    def session(self) -> Session:
        """What computes it."""

    @property
    def tokenizer(self) -> Tokenizer:
        """What makes text of tokens."""

    @property
    def eos(self) -> frozenset[int]:
        """The tokens by which the model ends a text."""

    def chosen_by(self, choosing: Choosing) -> None:
        """Hear how the tokens of the text that is begun next are chosen: who proposes some chooses alike."""

    def begin(self, tokens: Sequence[int], *, reuse: bool) -> Floats:
        """Make the text ``tokens``; return the logits after the last."""

    def prefill(self, tokens: Sequence[int]) -> Floats:
        """Append tokens; return the logits after the last."""

    def decode(self, token: int) -> Floats:
        """Append one token; return the logits after it."""

    def why_not_evict(self, recent: int, moves: int = 1) -> str:
        """Why tokens before the last ``recent`` cannot be taken out; see :meth:`.session.Session.why_not_evict`."""

    def evict(self, first: int, count: int) -> None:
        """Take ``count`` tokens after the ``first`` ones out of the text; see :meth:`.session.Session.evict`."""

    def expect(self, token: int) -> None:
        """Hear which token is going to be appended next, alone; see :meth:`.session.Session.expect`."""

    def settle(self) -> None:
        """Hold no more than the text that was asked for: the generation has ended."""


@dataclass
class Generation(Iterator[str]):
    """Text as it is generated: iterate over it. The attributes below are complete once it has ended.

    - ``tokens``: every token generated, the end-of-sequence token and those of a stop string included
    - ``stop_reason``: ``end`` (the model ended the text, or nothing can follow in an answer of its form), ``stop`` (a
      stop text or token), ``max_tokens`` or ``context``
    - ``reused``: tokens of the prompt that were computed before, by an earlier turn
    - ``timings``

    ``stop_tokens`` end it and are not shown. With ``special`` the text shows special tokens, such as those around the
    call of a tool, or those of a set. With ``reuse`` it goes on from what the model keeps of an earlier text that
    begins alike. With ``scored`` the ``log_probability`` of its tokens is added up (nats, as the model gives them,
    before any setting of ``sampling``). With ``forgetting`` the text goes on when the context is full, and
    ``forgotten`` counts the tokens that the text has no more, ``computed_again`` those that stayed and did not move.
    ``matcher`` holds the answer to a form, which alone gave ``forced`` of the tokens; ``tally`` is what came of
    speculation, where there is any. A ``search`` finds the answer as a whole, in one piece: ``found`` has that and the
    others that it found, the best first.
    """

    model: OpenText
    prompt: list[int]
    sampling: Sampling
    max_tokens: int | None
    stops: StopStrings
    stop_tokens: frozenset[int] = frozenset()
    special: bool | frozenset[int] = False
    reuse: bool = False
    matcher: Form | None = None
    tally: Tally | None = None
    search: Search | None = None
    found: Sequence[Found] = ()
    forgetting: Forgetting | None = None
    forgotten: int = 0
    computed_again: int = 0
    scored: bool = False
    log_probability: float = 0.0
    reused: int = 0
    forced: int = 0
    tokens: list[int] = field(default_factory=list)
    stop_reason: StopReason | None = None
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        self._pieces = self._generate()
        self._with_prompt = 1  # tokens that the logits after the prompt gave, with those that the form let follow
        self._changes: int | None = None  # of the model, when it was last left; None before the first piece

    def __next__(self) -> str:
        if self.stop_reason is None and self._changes not in {None, self.model.changes}:
            raise InputError(
                f"the model began another text after {len(self.tokens)} tokens of this one, and holds one at a time; "
                "take all of a text before the next one is begun, or load the bundle once for each"
            )
        try:
            return next(self._pieces)
        except StopIteration:
            self.model.settle()
            raise
        finally:
            self._changes = self.model.changes

    def text(self) -> str:
        """Return all the text that is still to come."""
        return "".join(self)

    def statistics(self) -> str:
        """Return what it took, in one line for a terminal."""
        timings, steps = self.timings, len(self.tokens) - self._with_prompt
        known = f", {self.reused} of them known," if self.reused else ""
        parts = [f"prompt {counted(len(self.prompt), 'token')}{known} in {timings.prefill:.3f} s"]
        made = [f"{len(self.tokens):,} generated"]
        if self.forced:
            made.append(f"{self.forced:,} of them by the form alone")
        if steps > 0 and timings.decode:  # an answer that can be one text only takes no step
            made.append(f"{steps / timings.decode:.1f} tokens/s")
        parts.append(", ".join(made))
        if self.forgotten:
            again = f", {self.computed_again} computed again" if self.computed_again else ""
            parts.append(f"{counted(self.forgotten, 'token')} forgotten{again}")
        if self.tally is not None:
            parts.append(str(self.tally))
        if self.found:
            parts.append(f"the best of {counted(len(self.found), 'way')}, score {self.found[0].score:.3f}")
        parts.append("interrupted" if self.stop_reason is None else f"ended by {self.stop_reason}")
        if self.matcher is not None and self.matcher.is_unfinished and not self.found:
            parts[-1] += ", before the answer had its form"
        return "; ".join(parts)

    def _generate(self) -> Iterator[str]:
        """Yield pieces of text; never an empty one."""
        detokenizer = Detokenizer(self.model.tokenizer, self.prompt, special=self.special)
        for token in self._tokens():
            piece = self.stops.push(detokenizer.push(token))
            if self.stops.found is not None:
                self.stop_reason = "stop"
            if piece:
                yield piece
            if self.stops.found is not None:
                return
        rest = self.stops.push(detokenizer.finish())
        if self.stops.found is not None:
            self.stop_reason = "stop"
        else:
            rest += self.stops.finish()
        if rest:
            yield rest

    def _tokens(self) -> Iterator[int]:
        """Yield the tokens that have text; sets ``stop_reason`` when there are no more."""
        if self.search is not None:
            yield from self._searched(self.search)
            return
        model, session = self.model, self.model.session
        choosing = Choosing(self.sampling, self.prompt, session.context)
        model.chosen_by(choosing)
        run_before = session.run_seconds
        start = perf_counter()
        logits = model.begin(self.prompt, reuse=self.reuse)
        self.timings.prefill = perf_counter() - start
        self.reused = model.reused
        self.timings.run = session.run_seconds - run_before
        while True:
            drawn = choosing.next(self._allowed(logits))
            if self.scored:
                self.log_probability += log_probability(logits, drawn)
            step = self._with_forced(drawn)
            for place, token in enumerate(step):
                self.tokens.append(token)
                self.forced += place > 0
                choosing.append(token)
                if token in model.eos or token in self.stop_tokens:
                    self.stop_reason = "end" if token in model.eos else "stop"
                    return
                full = len(self.tokens) == self.max_tokens
                if full or (self.forgetting is None and choosing.count > session.context):
                    self.stop_reason = "max_tokens" if full else "context"
                    yield token
                    return
                if len(step) == 1:
                    model.expect(token)
                yield token
            if self.matcher is not None and self.matcher.is_over:
                self.stop_reason = "end"
                return
            if not self.timings.decode:
                self._with_prompt = len(self.tokens)
            run_before = session.run_seconds
            start = perf_counter()
            logits = self._next(step, choosing)
            self.timings.decode += perf_counter() - start
            self.timings.run += session.run_seconds - run_before

    def _searched(self, search: Search) -> Iterator[int]:
        """As :meth:`_tokens`, of an answer that is found as a whole."""
        self.found = search.find(self)
        for token in self.found[0].tokens:
            self.tokens.append(token)
            if token in self.model.eos or token in self.stop_tokens:
                self.stop_reason = "end" if token in self.model.eos else "stop"
                return
            if len(self.tokens) == self.max_tokens:
                self.stop_reason = "max_tokens"
            yield token
        if self.stop_reason is None:
            full = len(self.prompt) + len(self.tokens) > self.model.session.context
            self.stop_reason = "context" if full else "end"

    def _next(self, step: list[int], choosing: Choosing) -> Floats:
        """The logits after a step's tokens; where there is no room for them, of what is not forgotten."""
        text = choosing.count - self.forgotten  # tokens with those of the step
        if self.forgetting is None or text <= self.model.session.context:
            return self.model.decode(step[0]) if len(step) == 1 else self.model.prefill(step)
        context, first = self.model.session.context, self.forgetting.first
        kept = self.forgetting.kept(self._held(choosing), context)
        count, recent = text - len(kept), len(kept) - first - len(step)
        self.forgotten += count
        if self.forgetting.way == "moving" and recent > 0 and not self.model.why_not_evict(recent):
            self.model.evict(first, count)
            return self.model.decode(step[0]) if len(step) == 1 else self.model.prefill(step)
        self.computed_again += len(kept) - len(step)
        return self.model.begin(kept, reuse=False)

    def _held(self, choosing: Choosing) -> list[int]:
        """The tokens of the text that are not forgotten yet, those included that are not computed."""
        assert self.forgetting is not None
        text: list[int] = choosing.text.tolist()
        first = self.forgetting.first
        return text if not self.forgotten else [*text[:first], *text[first + self.forgotten :]]

    def _allowed(self, logits: Floats) -> Floats:
        """Logits of the tokens that the form of the answer allows next."""
        return logits if self.matcher is None else self.matcher.masked(logits)

    def _with_forced(self, token: int) -> list[int]:
        """A token, and those that can only follow it in an answer of its form."""
        ends = token in self.model.eos or token in self.stop_tokens
        return [token] if self.matcher is None or ends else self.matcher.take(token)
