"""Texts side by side over one open graph: a call that goes on with one of them goes on with the others, too.

Each text is a :class:`.cpu.CpuSession` of its own: what one does to its text, the others do not notice. Only the memory
of their states lies together, (texts, heads, entries, width), so that neighbours can be the rows of one call. When a
text is asked for its next token, those of others that are known (:meth:`.session.Session.expect`) are computed in the
same call, and what comes of it is kept until they are asked::

    text 0   … the cat │ sat     asked: computed
    text 1   … a dog   │ ran     known: computed with it, kept until it is asked
    text 2   … (idle)  │         between the two: computed for nothing, behind the end of its text

A weight is read once for all of them, which is what a step takes its time for. What is behind the end of a text is no
part of it, so nothing has to be taken back when a text goes on otherwise. Rows of one call may have other bits than
alone, as kernels for several rows add up in another order: how many have the same is measured, and no more are used.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgepress.runtime.sessions.buffers import TextsMemory
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.hidden import HiddenRows
from edgepress.runtime.sessions.session import Floats, Session, Snapshot, Tokens

_LENGTHS = (37, 5, 120, 64, 17, 3, 90, 250)  # tokens of the texts that rows are compared after


@dataclass(frozen=True)
class _Ahead:
    """What was computed before it was asked for: the logits after ``token``, which comes after ``position`` tokens."""

    position: int
    token: int
    logits: Floats


class SideBySide(CpuSession):
    """One of several texts of an open graph."""

    _texts: "_Texts"
    number: int
    ahead: _Ahead | None = None

    def keep_hidden(self) -> HiddenRows:
        """Refuse it: tokens are computed in calls of other texts."""
        return Session.keep_hidden(self)

    def _compute(self, tokens: Tokens, first: int, *, release: bool) -> Floats:
        if tokens.size > 1 or first or self._texts.together == 1:
            self.ahead = None  # what comes after other tokens now
            return super()._compute(tokens, first, release=release)
        token, self.expected = int(tokens[0]), None
        ahead, self.ahead = self._kept, None
        if ahead is not None and ahead.token == token:
            return ahead.logits.reshape(1, -1)
        return self._texts.step(self, token)

    def restore(self, snapshot: Snapshot) -> None:
        """As :meth:`.session.Session.restore`; what was computed ahead came after another text."""
        self.ahead = None
        super().restore(snapshot)

    def go_on_from(self, other: Session, shared: int = 0) -> None:
        """As :meth:`.session.Session.go_on_from`; what was computed ahead came after another text."""
        self.ahead = None
        super().go_on_from(other, shared)

    def compute_alone(self, token: int) -> Floats:
        """The logits after a token, (1, vocab), of a call of its own; the text stays as it is."""
        return super()._compute(np.array([token]), 0, release=False)

    @property
    def together(self) -> int:
        """How many texts one call goes on with; 1 where they take turns."""
        return self._texts.together

    @property
    def _kept(self) -> _Ahead | None:
        """What was computed ahead, where the text has not gone on otherwise since."""
        return self.ahead if self.ahead is not None and self.ahead.position == self.position else None

    @property
    def next_token(self) -> int:
        """The token in this text's row of a call, where it is not the one that asks."""
        kept = self._kept
        return kept.token if kept is not None else self.expected or 0

    @property
    def is_waiting(self) -> bool:
        """Whether the next token is known, and was not computed yet."""
        return self.expected is not None and self._kept is None and self.position < self.context


def open_side_by_side(session: CpuSession, count: int, context: int) -> list[SideBySide]:
    """``count`` texts of at most ``context`` tokens each, over the graph that ``session`` has open.

    How many of them one call goes on with is measured: ``together`` of each says it, 1 where texts take turns.
    """
    return _Texts(session, count, context).sessions


class _Texts:
    """What texts side by side share: their memory, and calls over several of them."""

    def __init__(self, session: CpuSession, count: int, context: int) -> None:
        states = session.states
        self._memory = TextsMemory(states, context + 1, count)  # an entry behind the end of the longest text
        self.sessions: list[SideBySide] = []
        for number in range(count):
            one = object.__new__(SideBySide)
            one._texts, one.number = self, number
            one._begin(session.open_graph, context, session.prefill_chunk, session.adapter, self._memory.text(number))
            self.sessions.append(one)
        can = all(state.grows for state in states) and session.open_graph.long_from is None
        self.together = 1
        if can and count > 1:
            self.together = self._measure(count)

    def step(self, asking: SideBySide, token: int) -> Floats:
        """The logits after ``token`` of a text, (1, vocab); those of waiting neighbours are computed, too."""
        first, stop = self._range(asking.number)
        if stop - first == 1:
            return asking.compute_alone(token)
        rows = self.sessions[first:stop]
        tokens = [token if row is asking else row.next_token for row in rows]
        logits = self._call(asking, rows, tokens)  # (texts, vocab)
        for row, its, after in zip(rows, tokens, logits, strict=True):
            if row.is_waiting and row is not asking:
                row.ahead = _Ahead(row.position, its, after)
        found = asking.number - first
        return logits[found : found + 1]

    def _range(self, number: int) -> tuple[int, int]:
        """From the first to behind the last of the texts that a call goes on with: ``number`` and waiting ones."""
        first, stop = number, number + 1
        waiting = [row.number for row in self.sessions if row.is_waiting and row.number != number]
        for other in sorted(waiting, key=lambda one: abs(one - number)):
            if max(stop, other + 1) - min(first, other) <= self.together:
                first, stop = min(first, other), max(stop, other + 1)
        return first, stop

    def _call(self, asking: SideBySide, rows: Sequence[SideBySide], tokens: Sequence[int]) -> Floats:
        """One call over neighbours: the logits after a token of each, (texts, vocab)."""
        lengths = np.array([row.position + 1 for row in rows])
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)  # (texts, total)
        logits: Floats = np.empty((len(rows), 1, asking.vocab_size), np.float32)
        graph = asking.open_graph
        binding = graph.session.io_binding()
        kept = []  # the values must outlive the call
        for state, value in self._memory.inputs(rows[0].number, rows[-1].number + 1):
            binding.bind_ortvalue_input(state.input, value)
            binding.bind_ortvalue_output(state.output, value)
            kept.append(value)
        for name, value in () if asking.adapter is None else asking.adapter.values.items():
            binding.bind_ortvalue_input(name, value)
        ids = np.array(tokens, np.int64)[:, None]
        for name, array in (("input_ids", ids), ("attention_mask", mask)):
            binding.bind_input(name, "cpu", 0, np.int64, array.shape, array.ctypes.data)
        binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, logits.ctypes.data)
        graph.ask(1)
        asking._run(graph.session.run_with_iobinding, binding)
        after: Floats = logits[:, 0]
        return after

    def _measure(self, count: int) -> int:
        """How many texts one call can go on with so that each has the bits that it has alone."""
        generator = np.random.default_rng(0)
        tokens, alone = [], []
        for number, row in enumerate(self.sessions):
            length = min(_LENGTHS[number % len(_LENGTHS)], row.context - 1)
            text = generator.integers(0, row.vocab_size, length + 1)
            row.append(text[:-1])
            tokens.append(int(text[-1]))
            alone.append(row.compute_alone(tokens[-1])[0].copy())
        exact = 1
        while exact < count and self._is_exact(exact + 1, tokens, alone):
            exact += 1
        for row in self.sessions:
            row.reset()
        return exact

    def _is_exact(self, width: int, tokens: Sequence[int], alone: Sequence[Floats]) -> bool:
        rows = self.sessions[:width]
        return np.array_equal(self._call(rows[0], rows, tokens[:width]), alone[:width])
