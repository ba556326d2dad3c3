"""A session: a model with one text. Tokens are appended; the text can be rolled back, or continued from a snapshot.

This is all that the rest of the runtime, and whoever measures, uses of what computes a model. A way to compute one is a
subclass of :class:`Session` that computes a piece of at most ``prefill_chunk`` tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.adapter_file import Adapter
from edgepress.bundle.rotations import KeyRotation
from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.runtime.prepared import Prepared
from edgepress.runtime.sessions.buffers import StateMemory
from edgepress.runtime.sessions.hidden import HiddenRows
from edgepress.runtime.sessions.longrope import Longrope
from edgepress.whole import whole_number

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

# Tokens of a prompt in one call. 64 to 512 are equally fast at 135M and 0.5B; at 0.5B the activations of 512 tokens
# take 57 MB, those of 128 take 17 MB.
PREFILL_CHUNK = 128
_TRIM_FROM = 64  # tokens of a prompt that is worth the millisecond of giving memory back after it


@dataclass(frozen=True)
class RanOn:
    """What computes a session: an execution provider, and for an accelerator the target and chip that it is.

    ``graph`` is the CPU's in a bundle that has several of them.
    """

    provider: str
    target: str
    soc: str | None = None
    simulated: bool = False
    graph: str | None = None

    @property
    def name(self) -> str:
        """The target, its chip and whether that is simulated, or the graph."""
        chip = f" {self.soc}" if self.soc else ""
        graph = f", {self.graph}" if self.graph else ""
        return f"{self.target}{chip}{', simulated' if self.simulated else ''}{graph}"

    def __str__(self) -> str:
        return f"{self.name} ({self.provider})"

    def beside_times(self) -> str:
        """It beside times, which are not a chip's where that is simulated."""
        return f"{self}: times are this machine's, not the chip's" if self.simulated else str(self)


ON_CPU = RanOn("CPUExecutionProvider", "cpu")


@dataclass(frozen=True)
class Snapshot:
    """A copy of what a model keeps of a text of ``position`` tokens; see :meth:`Session.snapshot`."""

    position: int
    states: tuple[State, ...]
    entries: int  # tokens that are in ``arrays``: the last of a full context may be missing
    arrays: tuple[NDArray[Any], ...]
    text: Tokens | None  # what longrope computes anew where a text outgrows the short table
    is_long: bool
    earliest: int = 0  # the fewest tokens, besides none, that the text could be rolled back to


@dataclass(frozen=True)
class Mark:
    """A place in a text that :meth:`Session.roll_back` can come back to: copies of states that keep nothing earlier."""

    position: int
    arrays: tuple[NDArray[Any], ...]  # of the states of a fixed size; those that grow only forget


class Session(ABC):
    """A model with one text of ``position`` tokens. Arrays returned are views that the next call overwrites.

    - ``name``: the model, for messages
    - ``ran_on``: what computes it
    - ``context``: the most tokens that the text may have
    - ``prefill_chunk``: tokens that are computed at once
    - ``vocab_size``: a token is 0 to ``vocab_size`` - 1
    - ``run_seconds``: time spent inside onnxruntime so far
    - ``prepared``: how the CPU's weights were opened
    """

    def __init__(
        self,
        name: str,
        ran_on: RanOn,
        *,
        context: int,
        prefill_chunk: int,
        vocab_size: int,
        memory: StateMemory,
        longrope: Longrope | None,
        prepared: Prepared,
        remedy: str,
        rotations: Sequence[KeyRotation] | None = None,
    ) -> None:
        self.name, self.ran_on, self.prepared = name, ran_on, prepared
        self.context, self.prefill_chunk, self.vocab_size = context, prefill_chunk, vocab_size
        self.position = 0
        self.run_seconds = 0.0
        self.expected: int | None = None
        self._memory, self._longrope, self._remedy, self._rotations = memory, longrope, remedy, rotations
        self._is_torn = False  # whether a call that moves entries of windows has begun and not ended
        self._hidden: HiddenRows | None = None

    @property
    def states(self) -> tuple[State, ...]:
        """What the model carries from one call to the next."""
        return self._memory.states

    @property
    def earliest(self) -> int:
        """The fewest tokens, besides none, that the text can be rolled back to without a snapshot."""
        return self._memory.earliest(self.position)

    def entries(self, name: str) -> NDArray[Any]:
        """What the state called ``name`` keeps of the text, (1, …) as its shape says: the memory itself, not a copy.

        Raises:
            KeyError: there is no such state.

        """
        return self._memory.entries_of(name, self.position)

    # ---- the text ----------------------------------------------------------------------------------------------------

    def append(self, tokens: Sequence[int] | Tokens, first: int = -1, *, total: int | None = None) -> Floats:
        """Append tokens to the text; return the logits after each of ``tokens[first:]``, (rows, vocab).

        Args:
            tokens: at least one.
            first: -1 for the logits after the last token only, 0 for those after each.
            total: how long the text is going to be, where that is known: longrope chooses its frequencies by it.

        Raises:
            InputError: there are no tokens, one is not in the vocabulary, they do not fit in the context, or the model
                cannot be run.

        """
        found = check_tokens(tokens, self.vocab_size)
        size = found.size
        if not -size <= first < size:
            raise InputError(f"first is {first}; of {size} tokens it must be {-size} to {size - 1}")
        self.check_room(size)
        self._refuse_torn()
        row = first % size
        if self._longrope is not None and self._longrope.add(found, self.position, total):
            row, size = row + self.position, size + self.position
            found = self._longrope.text[:size].copy()
            self.reset()
        release = size >= _TRIM_FROM and row == size - 1
        rows: list[Floats] = []
        for start in range(0, size, self.prefill_chunk):
            stop = min(start + self.prefill_chunk, size)
            first = min(max(row, start), stop)
            self._is_torn = self._memory.before_call(self.position, stop - start)
            logits = self._compute(found[start:stop], first - start, release=release and stop == size)
            self.position += stop - start
            self._is_torn = False
            if row < stop:
                rows.append(logits if stop == size else logits.copy())
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def expect(self, token: int | None) -> None:
        """Say which token is going to be appended next, alone; None takes that back. Texts side by side use it."""
        self.expected = token

    @abstractmethod
    def _compute(self, tokens: Tokens, first: int, *, release: bool) -> Floats:
        """Compute at most ``prefill_chunk`` tokens after ``position``; return the logits from index ``first`` on.

        Of a piece that others follow none are wanted: then ``first`` is the number of its tokens.
        ``release`` says that they end a long prompt, after which memory that is held without need may be given back.
        """

    def with_adapter(self, adapter: Adapter | None) -> "Session":  # noqa: ARG002 - the CPU's takes one
        """A session of the same open model with a text of its own, that applies ``adapter``; None is without one.

        Raises:
            InputError: what computes this one takes no adapters.

        """
        raise InputError(f"{self.name} takes no adapters; run the bundle on the CPU (--on cpu)")

    def keep_hidden(self) -> HiddenRows:
        """Keep what the final norm gives of each token from now on; return where.

        Raises:
            InputError: what computes this one gives nothing of it.

        """
        raise InputError(
            f"{self.ran_on} gives no hidden states of {self.name}, which what predicts a token further reads; run the "
            "bundle on the CPU (--on cpu), one text at a time, or speculate otherwise"
        )

    def reset(self) -> None:
        """Forget the text; its memory stays for the next one."""
        self.position, self._is_torn = 0, False
        if self._hidden is not None:
            self._hidden.taken_back(0)
        self._memory.clear()

    def mark(self) -> Mark:
        """What :meth:`roll_back` needs to come back here from a few tokens on; where all states grow, it costs nothing.

        A mark is good until the text is taken back to before it; a :class:`Snapshot` outlives the text.
        """
        self._refuse_torn()
        return Mark(self.position, self._memory.copy_fixed())

    def roll_back(self, position: int, mark: Mark | None = None) -> None:
        """Take back all tokens after the first ``position``, where ``mark`` was made if there is one.

        Raises:
            InputError: the text has fewer, or a state cannot be taken back: then restore a snapshot.

        """
        has = f"the text has {self.position} tokens, so it can be rolled back to 0 to {self.position}"
        whole_number("position", position, least=0, most=self.position, takes=has)
        if position == 0:
            self.reset()
            return
        self._refuse_torn()
        marked = mark is not None and mark.position == position
        if position < min(self.position, self._memory.earliest(self.position, marked=marked)):
            keeps = next(state for state in self.states if not state.grows)
            raise InputError(
                f"{self.name} cannot be rolled back from {self.position} tokens to {position}, to {self.earliest} or "
                f"more only: {keeps.name} is a {keeps.kind} state, which keeps no earlier ones; take a snapshot there "
                "and restore that"
            )
        self._memory.take_back(self.position, position)
        if mark is not None and marked:
            self._memory.put_fixed(mark.arrays)
        if self._hidden is not None:
            self._hidden.taken_back(position)
        self.position = position

    def why_not_evict(self, recent: int, moves: int = 1) -> str:
        """Why :meth:`evict` could not leave the last ``recent`` tokens alone behind the first; "" where it can.

        ``moves`` is how often it is going to move the same token: keys that are integers are rounded each time.
        """
        return self._memory.why_not_evict(self._rotations, self._key_scales(), recent, moves)

    def _key_scales(self) -> Mapping[str, Floats]:
        """What keys that are integers are multiplied by, (1, heads, 1, channels) by the name of their state."""
        return {}

    def evict(self, first: int, count: int) -> None:
        """Take ``count`` tokens after the ``first`` ones out of the text, which is so many tokens shorter then.

        What is kept of the tokens behind them, all that they saw included, is moved to where they stand now: keys are
        rotated back by ``count`` positions (Xiao et al. 2024, StreamingLLM, section 3.2), and integers are rounded
        anew. Nothing is computed again. So
        the text is not what its tokens alone would be, and marks and snapshots from before are not of it.

        Raises:
            InputError: the text has not so many tokens, or they cannot be moved (:meth:`why_not_evict`).

        """
        whole_number("first", first, least=0, most=self.position)
        most = self.position - first
        has = f"the text has {self.position} tokens, {most} behind the first {first}"
        whole_number("the tokens that are forgotten", count, least=1, most=most, takes=has)
        self._refuse_torn()
        if why := self.why_not_evict(most - count):
            raise InputError(
                f"{count} tokens of {self.name} cannot be forgotten in place: {why}; compute what stays again"
            )
        assert self._rotations is not None
        self._is_torn = True
        self._memory.evict(self.position, first, count, self._rotations, self._key_scales())
        if self._hidden is not None:
            self._hidden.evict(self.position, first, count)
        self.position -= count
        self._is_torn = False

    def snapshot(self) -> Snapshot:
        """Copy what the model keeps of the text: at most what :func:`edgepress.bundle.states.state_bytes` says."""
        self._refuse_torn()
        longrope, entries = self._longrope, min(self.position, self._memory.entries)
        return Snapshot(
            position=self.position,
            states=self.states,
            entries=entries,
            arrays=self._memory.copy(entries),
            text=None if longrope is None else longrope.text[: self.position].copy(),
            is_long=longrope is not None and longrope.is_long,
            earliest=self.earliest,
        )

    def check_snapshot(self, snapshot: Snapshot) -> None:
        """Raise an InputError when :meth:`restore` could not go on from ``snapshot``."""
        entries = min(snapshot.position, self._memory.entries)
        if snapshot.states != self.states or (snapshot.text is None) != (self._longrope is None):
            raise InputError(f"the snapshot is of another model: its states are not those of {self.name}")
        self.check_room(snapshot.position, after=0)
        if entries > snapshot.entries:
            raise InputError(
                f"the snapshot of {snapshot.position} tokens fills the context that it was taken in, where the last "
                "one is not kept, so a longer text cannot go on from it; take the snapshot one token earlier"
            )
        self._memory.check(snapshot.arrays, snapshot.entries)

    @property
    def keeps_text(self) -> bool:
        """Whether snapshots have the tokens of the text."""
        return self._longrope is not None

    def restore(self, snapshot: Snapshot) -> None:
        """Continue the text of a snapshot, of this session or of another one of the same model.

        Sessions of one model have the same states; that their weights are the same is up to the caller.

        Raises:
            InputError: the snapshot has other states than this session, or more tokens than its context.

        """
        self.check_snapshot(snapshot)
        longrope, entries = self._longrope, min(snapshot.position, self._memory.entries)
        self._memory.put(snapshot.arrays, entries, snapshot.earliest)
        if longrope is not None and snapshot.text is not None:
            longrope.text[: snapshot.position] = snapshot.text
            longrope.is_long = snapshot.is_long
        if self._hidden is not None:
            self._hidden.replaced(snapshot.position)
        self.position, self._is_torn = snapshot.position, False

    def go_on_from(self, other: "Session", shared: int = 0) -> None:
        """Take over the text of another session of the same open model, to go on with it on one's own.

        Args:
            other: it keeps its text.
            shared: with how many tokens both texts begin, where they are of one length: those are not copied.

        Raises:
            InputError: the other session has other states, or more tokens than this one's context.

        """
        other._refuse_torn()
        if other.states != self.states or (other._longrope is None) != (self._longrope is None):
            raise InputError(f"{other.name} is another model than {self.name}: their states differ")
        self.check_room(other.position, after=0)
        if not 0 <= shared <= other.position or (shared and self.position != other.position):
            raise InputError(
                f"texts of {self.position} and {other.position} tokens are said to share {shared}; texts that share "
                "some have one length"
            )
        entries = min(other.position, self._memory.entries)
        self._memory.go_on_from(other._memory, entries, min(shared, entries))
        if self._longrope is not None and other._longrope is not None:
            self._longrope.text[: other.position] = other._longrope.text[: other.position]
            self._longrope.is_long = other._longrope.is_long
        self.position, self._is_torn = other.position, False

    # ---- limits ------------------------------------------------------------------------------------------------------

    def check_room(self, count: int, after: int | None = None) -> None:
        """Raise an InputError when ``count`` tokens ``after`` those of the text, or so many, do not fit."""
        position = self.position if after is None else after
        if position + count > self.context:
            held = f" after {position} in the cache" if position else ""
            raise InputError(f"{count} tokens{held} do not fit in the context of {self.context}{self._remedy}")

    def _refuse_torn(self) -> None:
        """Raise an InputError when a call ended halfway: some windows may have moved on, and others not."""
        if self._is_torn:
            raise InputError(
                f"{self.name} was interrupted while what it keeps was moved, so the text of {self.position} tokens is "
                "lost; reset the session, or restore a snapshot"
            )

    def _run(self, call: Callable[..., object], *arguments: object) -> None:
        """Call onnxruntime, and count the time."""
        start = perf_counter()
        try:
            call(*arguments)
        except InputError:
            raise
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            raise InputError(f"{self.name} cannot be run: {error}") from error
        self.run_seconds += perf_counter() - start


def check_tokens(tokens: Sequence[int] | Tokens, vocab_size: int) -> Tokens:
    """Return ``tokens`` as an array (length,).

    Raises:
        InputError: there are none, one is no whole number, or one is not in the vocabulary.

    """
    array = np.asarray(tokens)
    if not array.size:
        raise InputError("the prompt has no tokens; give at least one")
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array is not tokens and bool in set(map(type, tokens))):
        wrong = next((one for one in tokens if isinstance(one, bool) or not isinstance(one, int | np.integer)), tokens)
        raise InputError(f"the prompt has {wrong!r}, and tokens are whole numbers in one list; give a list of ids")
    low, high = (array.min(), array.max()) if array.size > 1 else (int(array[0]),) * 2
    if low < 0 or high >= vocab_size:
        outside = array[(array < 0) | (array >= vocab_size)]
        raise InputError(f"token {outside[0]} is not in the vocabulary of {vocab_size}")
    return array.astype(np.int64, copy=False)
