"""A static prefill and decode graph driven as one decoder: the same interface as :mod:`edgepress.runtime.session`.

Static graphs take a cache of P slots and give the new rows only; what is here writes rows into slots, opens them in
the mask, and pads the last piece of a prompt. Sessions are given, whatever provider runs them. Every buffer is bound
once; a step copies one row of keys and values a layer and no more, and all layers' in one copy.

The slot of a token is its position. The last token of a full context has no slot: nothing comes after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from edgepress.errors import InputError
from edgepress.runtime.prepared import Prepared
from edgepress.runtime.session import ON_CPU, Floats, Longrope, RanOn, Tokens, check_room, to_value, untouched_memory
from edgepress.schema import convert, parse_json

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

METADATA = "edgepress.static"  # what the exporter says of a static graph, as JSON
_AGAIN = "export the static graphs again"


class StaticSession:
    """A decoder and its cache, from two static graphs. Arrays returned are views that the next call overwrites.

    ``position`` counts the tokens in the cache; ``run_seconds`` adds up the time spent inside onnxruntime. ``context``
    is what the graphs were made for: one token more than the cache has slots. ``ran_on`` says what computes them.
    """

    def __init__(self, prefill: "InferenceSession", decode: "InferenceSession", ran_on: RanOn = ON_CPU) -> None:
        self.ran_on = ran_on
        self._facts = _read_facts(prefill)
        if _read_facts(decode) != self._facts:
            raise InputError(f"the prefill and the decode graph were made apart; {_AGAIN}")
        caches = {name: shape for name, shape in _shapes(decode.get_inputs()).items() if len(shape) == 4}
        pasts = {name: shape for name, shape in caches.items() if name not in self._facts.windows}
        if not pasts or len({shape[2] for shape in pasts.values()}) != 1:
            raise InputError(f"the decode graph has no cache inputs of one length; {_AGAIN}")
        self._cache = _Cache(pasts)
        self.context = self._cache.slots + 1
        self.position = 0
        self.run_seconds = 0.0
        self.prepared = Prepared()  # the form that the CPU starts from; an accelerator has context binaries
        self._prefill, self._decode = (_Call(session, self._cache, self._facts) for session in (prefill, decode))
        if self._decode.length != 1:
            raise InputError(f"the decode graph takes {self._decode.length} tokens a call, not 1; {_AGAIN}")
        self.prefill_chunk = self._prefill.length
        self.vocab_size = self._decode.logits.shape[1]
        self._longrope = None
        if self._facts.long_from is not None:
            limit = self._facts.long_from
            self._longrope = Longrope(np.array(limit), limit, np.zeros(self.context, np.int64))

    def reset(self) -> None:
        """Forget all tokens; what is in the cache is masked until it is overwritten."""
        self.position = 0

    def check_room(self, count: int, after: int | None = None) -> None:
        """Raise an InputError when ``count`` tokens ``after`` those in the cache, or so many, do not fit."""
        remedy = " that the static graphs were made for; shorten the text or export them with a longer context"
        check_room(self.position if after is None else after, count, self.context, remedy)

    def prefill(self, tokens: Tokens) -> Floats:
        """Append ``tokens`` (length,) to the cache; return the logits after the last one, (vocab,)."""
        self.check_room(tokens.size)
        if self._longrope is not None:
            tokens = self._longrope.rope_tokens(tokens, self)
        logits = self._decode.logits
        for start in range(0, tokens.size, self.prefill_chunk):
            logits = self._append(tokens[start : start + self.prefill_chunk])
        last: Floats = logits[-1]
        return last

    def decode(self, token: int) -> Floats:
        """Append one token to the cache; return the logits after it, (vocab,)."""
        return self.prefill(np.array([token], np.int64))

    def score(self, tokens: Tokens, first: int, *, total: int | None = None) -> Floats:
        """Append at most ``prefill_chunk`` tokens; return the logits from index ``first`` of them on, (rows, vocab).

        ``total`` is the length of the text that these are a piece of, which longrope depends on.
        """
        self.check_room(tokens.size)
        if self._longrope is not None:
            self._longrope.choose(self.position + tokens.size if total is None else total)
        return self._append(tokens)[first:]

    def _append(self, tokens: Tokens) -> Floats:
        """Run one call of at most ``prefill_chunk`` tokens; return their logits, (tokens, vocab)."""
        call = self._decode if tokens.size == 1 else self._prefill
        is_long = self._longrope is not None and not self._longrope.value
        call.fill(tokens, self.position, self._facts.long_rows if is_long else 0)
        start = perf_counter()
        call.run()
        self.run_seconds += perf_counter() - start
        self._cache.write(call.present, self.position, tokens.size)
        self.position += tokens.size
        return call.logits[: tokens.size]


@dataclass(frozen=True)
class _Facts:
    """As :class:`edgepress.exporter.graph.static.Facts`."""

    windows: Mapping[str, int | None]
    closed: float
    long_from: int | None
    long_rows: int


def _read_facts(session: "InferenceSession") -> _Facts:
    text = session.get_modelmeta().custom_metadata_map.get(METADATA)
    if text is None:
        raise InputError("the model is no static graph of edgepress (its metadata does not say so); export one")
    where = "the static graph's metadata"
    return convert(parse_json(text.encode("utf-8", "surrogatepass"), where, _AGAIN), _Facts, where, _AGAIN)


def _shapes(values: list[Any]) -> dict[str, tuple[int, ...]]:
    return {value.name: tuple(value.shape) for value in values}


class _Cache:
    """Keys and values of all layers, (inputs, kv_heads, slots, head_dim) in one piece for those of one shape."""

    def __init__(self, pasts: Mapping[str, tuple[int, ...]]) -> None:
        self.slots = next(iter(pasts.values()))[2]
        self.groups: dict[tuple[int, int], list[str]] = {}
        for name, (_, kv_heads, _, head_dim) in pasts.items():
            self.groups.setdefault((kv_heads, head_dim), []).append(name)
        self._pasts = [
            untouched_memory((len(names), kv_heads, self.slots, head_dim))
            for (kv_heads, head_dim), names in self.groups.items()
        ]
        self.values: dict[str, OrtValue] = {
            name: to_value(past[index][None])
            for names, past in zip(self.groups.values(), self._pasts, strict=True)
            for index, name in enumerate(names)
        }

    def new_rows(self, length: int) -> tuple[list[Floats], dict[str, "OrtValue"]]:
        """Memory for the rows that a call of ``length`` tokens gives, by the name of the input that they belong to."""
        rows: list[Floats] = []
        values: dict[str, OrtValue] = {}
        for (kv_heads, head_dim), names in self.groups.items():
            rows.append(np.zeros((len(names), kv_heads, length, head_dim), np.float32))
            values |= {name: to_value(rows[-1][index][None]) for index, name in enumerate(names)}
        return rows, values

    def write(self, present: list[Floats], position: int, count: int) -> None:
        """Put the first ``count`` new rows of every layer into the slots from ``position`` on."""
        count = min(count, self.slots - position)
        for past, rows in zip(self._pasts, present, strict=True):
            past[:, :, position : position + count] = rows[:, :, :count]


class _Call:
    """One graph with its inputs and outputs bound: ``fill``, then ``run``, then read ``logits`` and ``present``."""

    def __init__(self, session: "InferenceSession", cache: _Cache, facts: _Facts) -> None:
        self._session, self._facts, self._slots = session, facts, cache.slots
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
        for name, value in cache.values.items():
            self._bind_input(name, value)
        self.present, values = cache.new_rows(self.length)
        for name, value in values.items():
            self._bind_output(name.replace("past_key_values", "present"), value)
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
