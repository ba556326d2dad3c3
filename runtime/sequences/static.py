"""An encoder and a decoder on an accelerator: static graphs of one source and one token.

The decoder takes a cache of P slots and gives the new row only; rows are written into slots and opened in the mask
here. The slot of a token is its position; the last token of a full context has none, as nothing comes after it. Targets
side by side, as beams have them, take turns. A source that is shorter than the graph's is filled up, and what is filled
up closed in a mask of its own.
"""

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.finite import check_logits
from edgepress.runtime.placement import Place
from edgepress.runtime.sequences.targets import Feed, Floats, SequenceSession, Tokens
from edgepress.runtime.sessions.session import check_tokens
from edgepress.runtime.sessions.static import read_facts
from edgepress.tasks.sequences import QUERIES, SOURCE_MASK, Sequences

Arrays = dict[str, NDArray[Any]]
_MASK, _POSITIONS = "mask", "position_ids"


class StaticEncoderDecoder(SequenceSession):
    """The two static graphs of a bundle at a place.

    Raises:
        InputError: the accelerator does not take a graph, or a graph is not what the bundle says of it.

    """

    def __init__(self, place: Place, sequences: Sequences, states: Sequence[State]) -> None:
        length = place.shapes.get("source", sequences.source_length)
        super().__init__(
            place.folder, replace(sequences, source_length=length, context=place.context), ran_on=place.ran_on
        )
        self._encoder, self._decoder = (place.open_graph(name) for name in sequences.graphs)
        self._closed = read_facts(self._decoder).closed
        self._outputs = [value.name for value in self._decoder.get_outputs()]
        self._inputs = {value.name: tuple(value.shape) for value in self._decoder.get_inputs()}
        self._own = [state for state in states if state.kind != "encoded"]
        self._encoded = [state for state in states if state.kind == "encoded"]
        lacking = {state.input for state in states} - self._inputs.keys()
        shapes = {self._inputs.get(state.input) for state in self._own}
        if lacking or len(shapes) != 1 or _MASK not in self._inputs:
            raise InputError(f"{place.folder}: its graphs and its states do not belong together; export again")
        self._slots = self._inputs[_MASK][-1] - 1
        self._source: Arrays = {}  # what the decoder reads of the source: keys, values, mask
        self._keys: dict[str, Floats] = {}  # by the name of their state, of what is no filling
        self._memory = self._reserved(1)

    def _reserved(self, targets: int) -> NDArray[np.float32]:
        """Memory of states for so many targets, (targets, states, 1, heads, slots, head_dim)."""
        return np.zeros((targets, len(self._own), *self._inputs[self._own[0].input]), np.float32)

    def encode(self, feed: Feed) -> Floats:
        """See :meth:`SequenceSession.encode`."""
        filled, length, masks = self._filled(feed)
        outputs = [value.name for value in self._encoder.get_outputs()]
        start = perf_counter()
        try:
            given = dict(zip(outputs, self._encoder.run(outputs, {**filled, **masks}), strict=True))
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            raise InputError(f"{self.bundle / self.sequences.encoder} cannot be run: {error}") from error
        self.encode_seconds += perf_counter() - start
        encoded = {state.name: given.pop(state.output) for state in self._encoded}
        hidden: Floats = next(iter(given.values()))[0][:length]
        if not np.isfinite(hidden).all():
            raise self._not_finite()
        self._source = {state.input: encoded[state.name] for state in self._encoded} | masks
        self.source = len(hidden)
        self._keys = {name: array[0, :, : self.source] for name, array in encoded.items()}
        self.begin()
        return hidden

    def _filled(self, feed: Feed) -> tuple[Arrays, int | None, Arrays]:
        """The encoder's input, filled up; how much of it there is, None for all; what closes the rest."""
        if SOURCE_MASK not in {value.name for value in self._encoder.get_inputs()}:
            return dict(feed), None, {}
        [(name, source)] = feed.items()
        length, most = source.shape[1], self.sequences.source_length
        if length > most:
            raise InputError(
                f"a source of {length} tokens is longer than the {most} of the graph for {self.ran_on.target}; shorten "
                "it, or run it on the cpu"
            )
        mask = np.full((1, 1, 1, most), self._closed, np.float32)
        mask[..., :length] = 0
        return {name: np.pad(source, ((0, 0), (0, most - length)))}, length, {SOURCE_MASK: mask}

    def begin(self) -> None:
        """See :meth:`SequenceSession.begin`."""
        self.position, self.targets = 0, 1

    def _run(self, tokens: Tokens) -> Floats:
        return self._steps(tokens, "logits")[:, -1]

    def _run_all(self, tokens: Tokens) -> Floats:
        return self._steps(tokens, "logits")

    def _steps(self, tokens: Tokens, wanted: str) -> Floats:
        """Append tokens, (targets, count), one after the other; an output at each, (targets, count, ·)."""
        found = []
        for column in tokens.T:
            found.append(np.stack([self._one(target, int(token), wanted) for target, token in enumerate(column)]))
            self.position += 1
        together: Floats = np.stack(found, axis=1)
        check_logits(together, f"{self.bundle}, after {self.position} tokens")
        return together

    def _one(self, target: int, token: int, wanted: str) -> Floats:
        """Append a token to one target: an output at it, (·,)."""
        mask = np.full(self._inputs[_MASK], self._closed, np.float32)
        mask[..., : self.position] = 0
        mask[..., self._slots :] = 0
        feed: Arrays = {"input_ids": np.array([[token]], np.int32), _MASK: mask, **self._source}
        feed[_POSITIONS] = np.array([[self.position]], np.int32)
        feed |= {state.input: array for state, array in zip(self._own, self._memory[target], strict=True)}
        start = perf_counter()
        try:
            values = self._decoder.run(
                self._outputs, {name: array for name, array in feed.items() if name in self._inputs}
            )
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            raise InputError(f"{self.bundle / self.sequences.decoder} cannot be run: {error}") from error
        self.decode_seconds += perf_counter() - start
        given = dict(zip(self._outputs, values, strict=True))
        if self.position < self._slots:
            for state, array in zip(self._own, self._memory[target], strict=True):
                array[:, :, self.position] = given[state.output][:, :, 0]
        logits: Floats = given[wanted][0, 0]
        return logits

    def spread(self, targets: int) -> None:
        """See :meth:`SequenceSession.spread`."""
        self._one_target()
        if targets > len(self._memory):
            first, self._memory = self._memory[0], self._reserved(targets)
            self._memory[0] = first
        self._memory[1:targets] = self._memory[0]
        self.targets = targets

    def reorder(self, order: NDArray[np.int64]) -> None:
        """See :meth:`SequenceSession.reorder`."""
        self._memory[: order.size] = self._memory[order]

    def asked(self, tokens: Tokens, layer: int) -> tuple[Floats, Floats]:
        """See :meth:`SequenceSession.asked`."""
        name, keys = QUERIES.format(layer=layer), self._keys.get(f"layers.{layer}.encoded_key")
        if name not in self._outputs or keys is None:
            raise self._tells_nothing(layer)
        self.begin()
        queries = self._steps(self._checked(check_tokens(tokens, self.sequences.vocabulary)[None]), name)[0]
        return queries.reshape(len(queries), len(keys), -1).transpose(1, 0, 2), keys
