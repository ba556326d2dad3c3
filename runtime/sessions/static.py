"""A static prefill and decode graph driven as one decoder: the same protocol as on the CPU.

Static graphs take a cache of P slots and give the new rows only; what is here writes rows into slots, opens them in
the mask, and pads the last piece of a prompt. onnxruntime's sessions are given, whatever provider runs them. Every
buffer is bound once; a step copies one row of keys and values a layer and no more, and all layers' in one copy.

The slot of a token is its position. The last token of a full context has no slot: nothing comes after it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.runtime.prepared import Prepared
from edgepress.runtime.sessions.buffers import Results, StateMemory, to_value
from edgepress.runtime.sessions.longrope import Longrope
from edgepress.runtime.sessions.session import ON_CPU, Floats, RanOn, Session, Tokens
from edgepress.schema import convert, parse_json

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

METADATA = "edgepress.static"  # what the exporter says of a static graph, as JSON
_AGAIN = "export the static graphs again"


class StaticSession(Session):
    """A decoder from two static graphs; see :class:`edgepress.runtime.sessions.session.Session`.

    ``context`` is what the graphs were made for: one token more than the cache has slots.

    Args:
        prefill: takes ``prefill_chunk`` tokens.
        decode: takes one.
        ran_on: what computes them.
        states: the bundle's list of states; None where there is none, for graphs whose cache inputs say it all.

    Raises:
        InputError: the graphs are none of edgepress, do not belong together, or are not what ``states`` says.

    """

    def __init__(
        self,
        prefill: "InferenceSession",
        decode: "InferenceSession",
        ran_on: RanOn = ON_CPU,
        states: Sequence[State] | None = None,
    ) -> None:
        facts = read_facts(prefill)
        if read_facts(decode) != facts:
            raise InputError(f"the prefill and the decode graph are not of one export; {_AGAIN}")
        inputs = _shapes(decode.get_inputs())
        states = _cache_states(inputs, facts) if states is None else states
        memory = StateMemory(states, _slots(states, inputs))
        self._calls = tuple(_Call(session, memory, facts) for session in (prefill, decode))
        self._facts, lengths = facts, [call.length for call in self._calls]
        if lengths[1] != 1:
            raise InputError(f"the decode graph takes {lengths[1]} tokens a call, not 1; {_AGAIN}")
        context = memory.entries + 1
        super().__init__(
            f"the static graphs for {ran_on.name}",
            ran_on,
            context=context,
            prefill_chunk=lengths[0],
            vocab_size=self._calls[1].logits.shape[1],
            memory=memory,
            longrope=None if facts.long_from is None else Longrope.for_texts(facts.long_from, context),
            prepared=Prepared(),  # the form that the CPU starts from; an accelerator has context binaries
            remedy=" that the static graphs were made for; shorten the text or export them with a longer context",
        )

    def _compute(self, tokens: Tokens, first: int, *, release: bool) -> Floats:  # noqa: ARG002 - nothing is held
        prefill, decode = self._calls
        call = decode if tokens.size == 1 else prefill
        is_long = self._longrope is not None and self._longrope.is_long
        call.fill(tokens, self.position, self._facts.long_rows if is_long else 0)
        self._run(call.run)
        call.results.take(self.position, tokens.size)
        return call.logits[first : tokens.size]


@dataclass(frozen=True)
class Facts:
    """As :class:`edgepress.exporter.graph.static.Facts`."""

    windows: Mapping[str, int | None]
    closed: float
    long_from: int | None
    long_rows: int


def read_facts(session: "InferenceSession") -> Facts:
    """What a static graph says of itself; InputError where it is none."""
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        raise InputError("the model is no static graph of edgepress (its metadata does not say so); export one")
    where = "the static graph's metadata"
    return convert(parse_json(text.encode("utf-8", "surrogatepass"), where, _AGAIN), Facts, where, _AGAIN)


def _shapes(values: list[Any]) -> dict[str, tuple[int, ...]]:
    return {value.name: tuple(value.shape) for value in values}


def _cache_states(inputs: Mapping[str, tuple[int, ...]], facts: Facts) -> tuple[State, ...]:
    """The states of graphs of a bundle that has no list of them: its inputs that are neither tokens nor masks."""
    try:
        return tuple(
            State(
                name=name,
                input=name,
                output=name.replace("past_key_values", "present"),
                shape=("batch", shape[1], "past", shape[3]),
                type="float32",
                kind="key-value",
            )
            for name, shape in inputs.items()
            if len(shape) == 4 and name not in facts.windows
        )
    except ValueError as error:
        raise InputError(f"the decode graph has cache inputs that cannot be: {error}; {_AGAIN}") from error


def _slots(states: Sequence[State], inputs: Mapping[str, tuple[int, ...]]) -> int:
    """How many tokens the cache inputs have room for; InputError when there is no one answer."""
    for state in states:
        if not state.grows:  # the tokens that pad a call would go into it
            raise InputError(
                f"{state.name} is a {state.kind} state, which static graphs cannot have; run it on the CPU"
            )
    known = [state for state in states if len(inputs.get(state.input, ())) == len(state.shape)]
    slots = {inputs[state.input][state.token_axis or 0] for state in known}
    if len(slots) != 1 or len(known) < len(states):
        raise InputError(f"the decode graph has no cache inputs of one length; {_AGAIN}")
    return slots.pop()


class _Call:
    """One graph with its inputs and outputs bound: ``fill``, then ``run``, then read ``logits`` and ``results``."""

    def __init__(self, session: "InferenceSession", memory: StateMemory, facts: Facts) -> None:
        self._session, self._facts, self._slots = session, facts, memory.entries
        inputs, outputs = _shapes(session.get_inputs()), _shapes(session.get_outputs())
        if "logits" not in outputs or "input_ids" not in inputs:
            raise InputError(f"the static graph has no input_ids or no logits; {_AGAIN}")
        self.length = inputs["input_ids"][1]
        self._binding = session.io_binding()
        # OpenVINO reads the memory of an input when it is bound, and not again at the next run.
        self._binds_again = any(name.startswith("OpenVINO") for name in session.get_providers())
        self._inputs: dict[str, OrtValue] = {}
        self._outputs: list[OrtValue] = []  # kept: the binding has no reference to the memory
        self._ids, self._positions = (np.zeros((1, self.length), np.int32) for _ in range(2))
        for name, array in (("input_ids", self._ids), ("position_ids", self._positions)):
            if name in inputs:
                self._bind_input(name, to_value(array))
        self._masks = {name: np.zeros(inputs[name], np.float32) for name in facts.windows}
        for name, mask in self._masks.items():
            self._bind_input(name, to_value(mask))
            self._close_later_tokens(mask[0, 0], facts.windows[name])
        for state in memory.states:
            past, new = state.sizes(memory.entries), state.sizes(self.length)
            if (inputs.get(state.input), outputs.get(state.output)) != (past, new):
                raise InputError(
                    f"the static graph has no {state.input} of {past} with {state.output} of {new}; {_AGAIN}"
                )
        for state, value in memory.inputs():
            self._bind_input(state.input, value)
        self.results = Results(memory, self.length)
        for state, value in self.results.outputs():
            self._bind_output(state.output, value)
        logits = np.zeros(outputs["logits"], np.float32)
        self._bind_output("logits", to_value(logits))
        self.logits: Floats = logits[0]

    def _bind_input(self, name: str, value: "OrtValue") -> None:
        self._inputs[name] = value
        self._binding.bind_ortvalue_input(name, value)

    def _bind_output(self, name: str, value: "OrtValue") -> None:
        self._outputs.append(value)
        self._binding.bind_ortvalue_output(name, value)

    def _close_later_tokens(self, mask: Floats, window: int | None) -> None:
        """Among the tokens of a call, (length, slots + length): token i sees i − window < j ≤ i. It never changes."""
        distance = np.arange(self.length)[:, None] - np.arange(self.length)  # (length, length)
        closed = (distance < 0) | (distance >= (window or self.length))
        mask[:, self._slots :][closed] = self._facts.closed

    def fill(self, tokens: Tokens, position: int, rows_before: int) -> None:
        """Put ``tokens`` (count,) at ``position``; the rest of the call is padding, which nobody reads."""
        self._ids[0, : tokens.size] = tokens
        self._ids[0, tokens.size :] = tokens[-1]
        last = position + tokens.size - 1
        np.minimum(np.arange(position, position + self.length), last, out=self._positions[0], casting="same_kind")
        self._positions[0] += rows_before
        for name, mask in self._masks.items():
            self._open_past(mask[0, 0, :, : self._slots], position, self._facts.windows[name])

    def _open_past(self, mask: Floats, position: int, window: int | None) -> None:
        """Open the slots that hold tokens, mask (length, slots): of those in the window, which ends at the token."""
        mask[:, position:] = self._facts.closed
        mask[:, :position] = 0
        if window is not None:
            for row, first in zip(mask, range(position - window + 1, position + self.length), strict=False):
                row[: max(first, 0)] = self._facts.closed

    def run(self) -> None:
        if self._binds_again:
            for name, value in self._inputs.items():
                self._binding.bind_ortvalue_input(name, value)
        self._session.run_with_iobinding(self._binding)
