"""Beam search for a decoder: a prompt is computed once, and the ways to go on with it are texts side by side.

A text takes over from another only what the two have not in common: the entries of their tokens from the first that
differs on, and states of a fixed size as a whole. One of the ways that go on from a text stays where that lies, so what
is copied is for ways that were given up. A step goes on with all ways in one call, as far as kernels give each of them
the bits that it has alone (:mod:`edgepress.runtime.sessions.side_by_side`); else they take turns.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import state_bytes
from edgepress.errors import InputError
from edgepress.finite import check_logits
from edgepress.runtime.generation.after_thoughts import AfterThoughts
from edgepress.runtime.generation.constraints import Form, Matcher
from edgepress.runtime.generation.generation import Found, Generation, OpenText
from edgepress.runtime.generation.penalties import NEVER, Floats
from edgepress.runtime.generation.sampling import penalize
from edgepress.runtime.generation.several.beams import Beams, Tokens, Way, beam_search
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Session
from edgepress.runtime.sessions.side_by_side import SideBySide, open_side_by_side
from edgepress.text.tokenizer import Detokenizer, StopStrings

_ROOM = 512  # tokens that texts have room for at least, so that the next search finds them open


class BeamRoom:
    """The texts that ways are followed in, over the graph that a session has open; they stay open for the next search.

    Raises:
        InputError: the session is no CPU's.

    """

    def __init__(self, session: Session) -> None:
        if not isinstance(session, CpuSession):
            raise InputError(f"{session.ran_on} holds one text at a time; run the bundle on the CPU (--on cpu)")
        self._session = session
        self._texts: list[SideBySide] = []

    def texts(self, count: int, tokens: int) -> list[SideBySide]:
        """So many, of as many tokens each at least; what they had is forgotten."""
        if len(self._texts) < count or self._texts[0].context < tokens:
            self._texts = []  # their memory is free before the next is taken
            room = min(self._session.context, max(tokens, _ROOM))
            self._texts = open_side_by_side(self._session, count, room)
        for text in self._texts:  # a search that was interrupted may have left what it was going to ask
            text.expect(None)
        return self._texts[:count]

    def most_bytes(self, count: int, tokens: int) -> int:
        """What so many texts of ``tokens`` tokens keep at most."""
        return count * state_bytes(self._session.states, min(tokens, self._session.context))


@dataclass
class BeamSearch:
    """A :class:`.generation.Search` that follows ``beams`` in the texts of ``room``.

    A setting of sampling that weighs tokens before one is chosen is obeyed: biases, n-grams that are not said twice and
    the repetition penalty, which change log-probabilities here, as in transformers' beam search.
    """

    beams: Beams
    room: BeamRoom

    def most_tokens(self, generation: Generation) -> int:
        """Of prompt and answer; the last one of a full context needs no room."""
        context = generation.model.session.context + 1
        longest = generation.max_tokens
        return context if longest is None else min(context, len(generation.prompt) + longest)

    def most_bytes(self, generation: Generation) -> int:
        """What the ways of a generation keep at most, beside the text of its model."""
        return self.room.most_bytes(self.beams.count, self.most_tokens(generation))

    def find(self, generation: Generation) -> list[Found]:
        """The finished ways, the best first.

        Raises:
            InputError: tokens are to be drawn, calls of tools held to their schemas, or every token is forbidden.

        """
        if generation.sampling.temperature:
            raise InputError(
                f"beams look for the likeliest answer, and at temperature {generation.sampling.temperature:g} tokens "
                "are drawn; set the temperature to 0"
            )
        most = self.most_tokens(generation)
        texts = _Texts(generation.model, lambda count: self.room.texts(count, most - 1), reuse=generation.reuse)
        rules = TextRules(self.beams, generation, most)
        start = perf_counter()
        ways = beam_search(texts, generation.prompt, rules)
        generation.reused = generation.model.reused
        generation.timings.prefill = texts.prefill_seconds
        generation.timings.decode = perf_counter() - start - texts.prefill_seconds
        generation.timings.run = texts.run_seconds
        return [_found(way, generation) for way in ways]


def _found(way: Way, generation: Generation) -> Found:
    """A way with its text, which ends before what ended it."""
    detokenizer = Detokenizer(generation.model.tokenizer, generation.prompt, special=generation.special)
    stops = StopStrings(generation.stops.texts)
    ends = generation.model.eos | generation.stop_tokens
    pieces = [detokenizer.push(token) for token in way.tokens if token not in ends]
    text = stops.push("".join([*pieces, detokenizer.finish()]))
    return Found(text + stops.finish(), tuple(way.tokens), way.score)


class _Texts:
    """The prompt in an open model's own text, then the ways beside it; see :class:`.beams.Texts`."""

    def __init__(self, model: OpenText, room: Callable[[int], list[SideBySide]], *, reuse: bool) -> None:
        self._model, self._room, self._reuse = model, room, reuse
        self._rows: list[SideBySide] = []  # in the order of the ways
        self._tokens: list[list[int]] = []  # of each row's text after the prompt
        self.prefill_seconds = self.run_seconds = 0.0

    def begin(self) -> None:
        """Nothing: the text begins with its first tokens."""

    def append(self, tokens: Sequence[int]) -> Floats:
        """Make these the model's text; return the logits after the last, (vocabulary,)."""
        session, start = self._model.session, perf_counter()
        before = session.run_seconds
        logits = self._model.begin(tokens, reuse=self._reuse).copy()
        self.prefill_seconds = perf_counter() - start
        self.run_seconds = session.run_seconds - before
        return logits

    def spread(self, count: int) -> None:
        """Let so many ways go on from the model's text."""
        self._rows = self._room(count)
        for row in self._rows:
            row.go_on_from(self._model.session)
        self._tokens = [[] for _ in self._rows]

    def reorder(self, order: Tokens) -> None:
        """Let way i go on from what way ``order[i]`` was: where that lies, or where one lies that is given up."""
        parents = order.tolist()
        free = [place for place in range(len(self._rows)) if place not in parents]
        taken = set[int]()
        rows, tokens = [], []
        for parent in parents:
            place = free.pop() if parent in taken else parent
            taken.add(parent)
            if place != parent:
                shared = self._rows[parent].position - len(self._tokens[parent])
                shared += _alike(self._tokens[parent], self._tokens[place])
                self._rows[place].go_on_from(self._rows[parent], shared)
            rows.append(self._rows[place])
            tokens.append(self._tokens[parent].copy())
        self._rows, self._tokens = rows, tokens

    def step(self, tokens: Tokens) -> Floats:
        """Append one token to each way; return the logits after each, (ways, vocabulary)."""
        before = sum(row.run_seconds for row in self._rows)
        for row, text, token in zip(self._rows, self._tokens, tokens.tolist(), strict=True):
            row.expect(token)
            text.append(token)
        logits = np.concatenate([row.append([text[-1]]) for row, text in zip(self._rows, self._tokens, strict=True)])
        self.run_seconds += sum(row.run_seconds for row in self._rows) - before
        check_logits(logits, f"{self._rows[0].name}, after {self._rows[0].position} tokens")
        return logits


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """With how many tokens both begin."""
    differ = (place for place, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1])
    return next(differ, len(one))


class TextRules:
    """What a generation says of its answer, as :class:`.beams.Rules`; each way has a form of its own."""

    def __init__(self, beams: Beams, generation: Generation, most: int) -> None:
        self.beams, self.most = beams, most
        model, self._sampling = generation.model, generation.sampling
        self.ends = sorted(model.eos | generation.stop_tokens)
        self._begin, self._stops = len(generation.prompt), generation.stops.texts
        self._library = model.tokenizer.library
        self._has_form = generation.matcher is not None
        self._forms = [_beginning(generation.matcher)] * beams.count
        self._next: list[Matcher | None] = []

    def apply(self, texts: Tokens, scores: Floats) -> Floats:
        """Log-probabilities (texts, vocabulary) of what may follow ``texts``, with what is held against tokens."""
        scores = scores.copy()
        if self._has_form:
            for row, form in zip(scores, self._forms, strict=True):
                row[...] = NEVER if form is None else form.masked(row)
        penalize(scores, self._sampling, texts)
        return scores

    def ending(self, texts: Tokens, parents: Tokens) -> NDArray[np.bool_]:
        """Which texts end: by a token, as nothing can follow in their form, or as a stop text is in what they say."""
        ends = np.isin(texts[:, -1], self.ends)
        if self._has_form:
            asked = zip(texts[:, -1].tolist(), parents.tolist(), ends.tolist(), strict=True)
            self._next = [None if ended else self._after(parent, token) for token, parent, ended in asked]
            ends |= np.array([form is not None and form.is_over for form in self._next])
        if self._stops:
            said = [self._library.decode(text) for text in texts[:, self._begin :].tolist()]
            ends |= np.array([any(stop in text for stop in self._stops) for text in said])
        return ends

    def _after(self, parent: int, token: int) -> Matcher | None:
        form = self._forms[parent]
        return None if form is None else form.after(token)

    def follow(self, chosen: Tokens) -> None:
        """Go on with the forms of the chosen texts; where there are too few, one that has ended stands among them."""
        if self._has_form:
            found = [self._next[place] for place in chosen.tolist()]
            self._forms = [None if form is not None and form.is_over else form for form in found]


def _beginning(form: Form | None) -> Matcher | None:
    if form is None or isinstance(form, Matcher):
        return form
    if isinstance(form, AfterThoughts):
        raise InputError(
            "with beams, a form cannot wait for the end of the thoughts that the chat template begins; turn them off, "
            "as {'enable_thinking': False} does where the template knows it, or leave the beams out"
        )
    raise InputError(
        "with beams, calls of tools cannot be held to their schemas token by token; ask for tool_choice 'free', or "
        "leave the beams out"
    )
