"""A bundle's graph on onnxruntime's CPU provider, with the memory that it reads and writes bound once.

Python's share of a decode step must be small against the step itself. Binding 60 cache tensors a step costs 10 % at
135M parameters; so every buffer is allocated and bound when the session opens:

- states that grow at their full length, those of a window at its length and some more, input and output the same
  memory, which GroupQueryAttention notices and then writes new keys and values in place;
- one token and one row of logits for decoding.

Only ``attention_mask`` is bound again at each step, because its length is the position: a pointer to the same ones.
An adapter is bound once, too: the graph's inputs for it, which have defaults.

A graph that predicts a token further reads ``hidden`` beside tokens, of which ``hidden_next`` comes; a model's own
gives ``hidden``, which is bound where it is kept: the memory of the rows themselves.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgepress.bundle.adapter_file import Adapter
from edgepress.bundle.mtp import HIDDEN, HIDDEN_NEXT
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.sessions.buffers import Results, StateMemory
from edgepress.runtime.sessions.hidden import HiddenRows
from edgepress.runtime.sessions.longrope import Longrope
from edgepress.runtime.sessions.open_graph import OpenGraph, open_graph
from edgepress.runtime.sessions.session import ON_CPU, PREFILL_CHUNK, Floats, Session, Tokens

if TYPE_CHECKING:
    from onnxruntime import RunOptions


class CpuSession(Session):
    """A bundle's model on the CPU; see :class:`edgepress.runtime.sessions.session.Session`.

    Args:
        config: what :func:`edgepress.runtime.config.read_config` says of the bundle.
        threads: compute threads.
        context: the most tokens that the text may have.
        prefill_chunk: tokens that are computed at once.
        prepared: start from the prepared form of the weights (see runtime/prepared.py).
        entries: further entries of onnxruntime's session configuration.
        profile: how the path of onnxruntime's profile begins, which :meth:`end_profile` completes; None writes none.

    Raises:
        InputError: the model cannot be opened, or is not what its bundle says of it.

    """

    def __init__(
        self,
        config: BundleConfig,
        *,
        threads: int,
        context: int,
        prefill_chunk: int = PREFILL_CHUNK,
        prepared: bool = True,
        entries: Mapping[str, str] | None = None,
        profile: Path | None = None,
    ) -> None:
        opened = open_graph(config, threads=threads, prepared=prepared, entries=entries, profile=profile)
        self._begin(opened, context, prefill_chunk, None)

    def with_adapter(self, adapter: Adapter | None) -> "CpuSession":
        """A session with a text of its own over the same open graph, weights and all, that applies ``adapter``.

        Two threads must not use the two at once.
        """
        other = object.__new__(CpuSession)
        other._begin(self.open_graph, self.context, self.prefill_chunk, adapter)
        return other

    def _begin(
        self,
        graph: OpenGraph,
        context: int,
        prefill_chunk: int,
        adapter: Adapter | None,
        memory: StateMemory | None = None,
    ) -> None:
        """Begin with no text: allocate memory for it, where none is given, and bind that."""
        self.open_graph, self._session, self.adapter = graph, graph.session, adapter
        config = graph.config
        longest = config.context_length
        longer = f" or ask for a longer context (the model allows {longest})" if context < longest else ""
        super().__init__(
            str(config.model),
            replace(ON_CPU, graph=config.graph),
            context=context,
            prefill_chunk=prefill_chunk,
            vocab_size=config.vocab_size,
            memory=StateMemory(config.states, context) if memory is None else memory,
            longrope=None
            if config.long_from is None
            else Longrope.for_texts(config.long_from, context, graph.long_from),
            prepared=graph.prepared,
            remedy=f"; shorten the text{longer}",
            rotations=config.rotations,
        )
        self._shrinking = _shrinking_run()
        self._tokens = np.zeros((1, max(1, min(prefill_chunk, context))), np.int64)
        self._mask = np.ones((1, context), np.int64)
        self._mask_address = self._mask.ctypes.data  # asking numpy for it at each step would cost as much as binding it
        self._logits: Floats = np.zeros((1, config.vocab_size), np.float32)
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        # The graphs of onnxruntime-genai's builder give the logits of every position, asked for or not.
        self._gives_all = outputs["logits"][1] != 1
        self._hidden_width = int(outputs[HIDDEN][2]) if HIDDEN in outputs else 0
        self._beside: Floats | None = None
        if HIDDEN_NEXT in outputs:
            self._beside = np.zeros((1, self._tokens.shape[1], int(outputs[HIDDEN_NEXT][2])), np.float32)
        self._given, self._given_from = np.zeros((0, 0), np.float32), 0
        self.hidden_next = self._given
        self._bind_once()

    def keep_hidden(self) -> HiddenRows:
        """Keep what the final norm gives of each token from now on; return where.

        Raises:
            InputError: the graph gives nothing of it.

        """
        if not self._hidden_width:
            return super().keep_hidden()
        if self._hidden is None:
            self._hidden = HiddenRows(self.context, self._hidden_width, self.position)
            self._bind_once()
        return self._hidden

    def _key_scales(self) -> Mapping[str, Floats]:
        return self.open_graph.key_scales

    @property
    def predicts_further(self) -> bool:
        """Whether the graph predicts a token further than a model, of which it reads what the final norm gave."""
        return self._beside is not None

    def append_with(self, tokens: Tokens, hidden: Floats, first: int = -1) -> Floats:
        """Append tokens to the text of a graph that predicts a token further; return logits as :meth:`append` does.

        ``hidden`` (tokens, hidden) is what goes with each; what comes of the last is in ``hidden_next`` (1, hidden).

        Raises:
            InputError: as for :meth:`append`.

        """
        self._given, self._given_from = hidden, self.position
        return self.append(tokens, first)

    def end_profile(self) -> Path:
        """Write the profile that was asked for; return its file."""
        return Path(self._session.end_profiling())

    def _bind_once(self) -> None:
        self._binding = self._session.io_binding()
        self._results = None if self._memory.in_place else Results(self._memory, None)
        for state, value in self._memory.inputs():
            self._binding.bind_ortvalue_input(state.input, value)
            if state.in_place:  # one value for both: equal pointers tell the operator to write in place
                self._binding.bind_ortvalue_output(state.output, value)
        if self._results is not None:
            for state, value in self._results.outputs():
                self._binding.bind_ortvalue_output(state.output, value)
        for name, value in () if self.adapter is None else self.adapter.values.items():
            self._binding.bind_ortvalue_input(name, value)
        if self._hidden is not None:
            self._bind_hidden(self._hidden, 0, 1)
        if self._beside is not None:
            self._binding.bind_output(HIDDEN_NEXT)
        self._bind_logits(one_row=True)
        self._bind_tokens(1)

    def _bind_tokens(self, count: int) -> None:
        address = self._tokens.ctypes.data
        self._binding.bind_input("input_ids", "cpu", 0, np.int64, (1, count), address)
        if self._beside is not None:
            shape = (1, count, self._beside.shape[2])
            self._binding.bind_input(HIDDEN, "cpu", 0, np.float32, shape, self._beside.ctypes.data)
        self._bound_tokens = count

    def _bind_hidden(self, hidden: HiddenRows, position: int, count: int) -> None:
        """Have a call of ``count`` tokens after ``position`` write their rows where they are kept."""
        address = hidden.rows.ctypes.data + position * hidden.rows.strides[0]
        self._binding.bind_output(HIDDEN, "cpu", 0, np.float32, (1, count, hidden.rows.shape[1]), address)

    def _bind_logits(self, *, one_row: bool) -> None:
        if one_row:
            shape = (1, *self._logits.shape)
            self._binding.bind_output("logits", "cpu", 0, np.float32, shape, self._logits.ctypes.data)
        else:  # onnxruntime refuses memory of another shape than the graph declares, but it may allocate its own
            self._binding.bind_output("logits")
        self._bound_one_row = one_row

    def _compute(self, tokens: Tokens, first: int, *, release: bool) -> Floats:
        count = tokens.size
        self._tokens[0, :count] = tokens
        rows = count - first
        one_row = (count if self._gives_all else rows) == 1
        self.open_graph.ask(rows)
        if self._bound_tokens != count:
            self._bind_tokens(count)
        if not (one_row and self._bound_one_row):
            self._bind_logits(one_row=one_row)
        if self._hidden is not None:
            self._bind_hidden(self._hidden, self.position, count)
        if self._beside is not None:
            start = self.position - self._given_from
            self._beside[0, :count] = self._given[start : start + count] if self._given.size else 0.0
            self._binding.bind_output(HIDDEN_NEXT)  # anew: what is bound has the shape of the last call
        self._binding.bind_input("attention_mask", "cpu", 0, np.int64, (1, self.position + count), self._mask_address)
        self._run(self._session.run_with_iobinding, self._binding, self._shrinking if release else None)
        if self._results is not None:
            self._results.take(self.position, count)
        if release:
            self.prepared.trim()
        if self._beside is not None and rows:
            self.hidden_next = self._binding.get_outputs()[-2].numpy()[0, -1:]  # bound before the logits
        if not rows:
            return self._logits[:0]
        if one_row:
            return self._logits
        logits: Floats = self._binding.get_outputs()[-1].numpy()[0, -rows:]  # the last that was bound at first
        return logits


def _shrinking_run() -> "RunOptions":
    """Options of a run after which onnxruntime gives back its activations: 10 MB after 128 tokens of a 0.5B."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options
