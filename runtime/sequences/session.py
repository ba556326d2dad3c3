"""An encoder and a decoder that are open: a source is encoded once, then targets of it grow side by side.

What a step costs beside the model is kept small as in :mod:`edgepress.runtime.sessions.cpu`: the decoder's own keys and
values lie in one memory of the full length, input and output the same, and are bound when the number of targets
changes; what the encoder gives of the source is bound where it lies, without a copy, and all targets read the same.
"""

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import State
from edgepress.errors import InputError
from edgepress.finite import check_logits
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.sequences.targets import Feed, Floats, SequenceSession, Tokens
from edgepress.runtime.sessions.buffers import to_value, untouched_memory
from edgepress.runtime.sessions.open_graph import open_graph, session_options
from edgepress.runtime.sessions.session import ON_CPU, check_tokens
from edgepress.sessions import open_on_cpu
from edgepress.tasks.sequences import QUERIES, Sequences

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class EncoderDecoder(SequenceSession):
    """The two graphs of a bundle that the CPU computes.

    ``profile`` is how the names of files begin that onnxruntime writes its profiles to (:meth:`end_profile`).

    Raises:
        InputError: a graph cannot be opened, or is not what the bundle says of it.

    """

    def __init__(
        self,
        bundle: Path,
        sequences: Sequences,
        states: Sequence[State],
        *,
        threads: int,
        profile: Path | None = None,
    ) -> None:
        super().__init__(bundle, sequences, ON_CPU)
        config = BundleConfig(
            bundle=bundle,
            model=bundle / sequences.decoder,
            context_length=sequences.context,
            default_context=sequences.context,
            vocab_size=sequences.vocabulary,
            bos=None,
            eos=frozenset(sequences.ends),
            states=tuple(states),
        )
        self._encoder = _open(bundle / sequences.encoder, threads, profile)
        self._graph = open_graph(config, threads=threads, prepared=False, profile=profile)
        self._encoded = tuple(state for state in states if state.kind == "encoded")
        self._own = tuple(state for state in states if state.kind != "encoded")
        lacking = {state.output for state in self._encoded} - {value.name for value in self._encoder.get_outputs()}
        alike = {(state.shape, state.type, state.grows) for state in self._own}
        if lacking or len(alike) != 1 or not self._own[0].grows:
            raise InputError(f"{bundle}: its graphs and its states do not belong together; export the bundle again")
        self._source: list[Any] = []  # onnxruntime's values of what is encoded, in the order of ``_encoded``
        self._binding: Any = None  # of a source there is one
        self._ones = np.ones(1, np.int64)
        self._memory = self._reserved(1)

    def _reserved(self, targets: int) -> NDArray[Any]:
        """Memory of states for so many targets, (states, targets, heads, context, head_dim), and of their logits."""
        context = self.sequences.context
        sizes = [context if axis == "past" else int(axis) for axis in self._own[0].shape[1:]]
        self._logits: Floats = np.zeros((targets, self.sequences.vocabulary), np.float32)
        return untouched_memory((len(self._own), targets, *sizes), np.dtype(self._own[0].type), context)

    # ---- the source --------------------------------------------------------------------------------------------------

    def encode(self, feed: Feed) -> Floats:
        """See :meth:`SequenceSession.encode`."""
        start = perf_counter()
        binding = self._encoder.io_binding()
        for name, array in feed.items():
            binding.bind_cpu_input(name, array)
        outputs = [value.name for value in self._encoder.get_outputs()]
        for name in outputs:
            binding.bind_output(name, "cpu")
        try:
            self._encoder.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            raise InputError(f"{self.bundle / self.sequences.encoder} cannot be run: {error}") from error
        given = dict(zip(outputs, binding.get_outputs(), strict=True))
        self.encode_seconds += perf_counter() - start
        self._source = [given.pop(state.output) for state in self._encoded]
        hidden: Floats = next(iter(given.values())).numpy()[0]
        if not np.isfinite(hidden).all():
            raise self._not_finite()
        self.source = len(hidden)
        self.begin()
        return hidden

    # ---- the targets -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """See :meth:`SequenceSession.begin`."""
        self.position = 0
        self._bind(1)

    def _bind(self, targets: int) -> None:
        """Bind memory for so many targets."""
        if targets > self._memory.shape[1]:
            before, self._memory = self._memory, self._reserved(targets)
            self._memory[:, : before.shape[1], :, : self.position] = before[:, :, :, : self.position]
        self.targets = targets
        self._binding = self._graph.session.io_binding()
        self._values = []  # they must outlive the binding
        for state, array in zip(self._own, self._memory, strict=True):
            value = to_value(array[:targets])
            self._values.append(value)
            self._binding.bind_ortvalue_input(state.input, value)
            self._binding.bind_ortvalue_output(state.output, value)
        for state, value in zip(self._encoded, self._source, strict=True):
            self._binding.bind_ortvalue_input(state.input, value)
        self._bind_logits()

    def _bind_logits(self) -> None:
        """Bind memory for the logits after the last token of each target."""
        shape = (self.targets, 1, self.sequences.vocabulary)
        self._binding.bind_output("logits", "cpu", 0, np.float32, shape, self._logits.ctypes.data)

    def _run_all(self, tokens: Tokens) -> Floats:
        self._binding.bind_output("logits")  # of another shape than the graph declares, so onnxruntime allocates it
        self._run(tokens, asked=tokens.size)
        logits: Floats = self._binding.get_outputs()[-1].numpy()
        self._bind_logits()
        return logits

    def asked(self, tokens: Tokens, layer: int) -> tuple[Floats, Floats]:
        """See :meth:`SequenceSession.asked`."""
        names = [value.name for value in self._graph.session.get_outputs()]
        name = QUERIES.format(layer=layer)
        if name not in names:
            raise self._tells_nothing(layer)
        self.begin()
        self._binding.bind_output(name, "cpu")
        self._run(self._checked(check_tokens(tokens, self.sequences.vocabulary)[None]))
        queries: Floats = self._binding.get_outputs()[-1].numpy()[0]
        inputs = [state.name for state in self._encoded]
        keys: Floats = self._source[inputs.index(f"layers.{layer}.encoded_key")].numpy()[0]
        by_head = queries.reshape(len(queries), len(keys), -1).transpose(1, 0, 2)
        return by_head, keys

    def _run(self, tokens: Tokens, *, asked: int = 1) -> Floats:
        """See :meth:`SequenceSession._run`; logits are computed after the last ``asked`` tokens of each target."""
        rows, count = tokens.shape
        total = self.position + count
        if self._ones.size < rows * total:
            self._ones = np.ones(2 * rows * total, np.int64)
        binding = self._binding
        binding.bind_input("input_ids", "cpu", 0, np.int64, (rows, count), tokens.ctypes.data)
        binding.bind_input("attention_mask", "cpu", 0, np.int64, (rows, total), self._ones.ctypes.data)
        self._graph.ask(asked)
        start = perf_counter()
        try:
            self._graph.session.run_with_iobinding(binding)
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            raise InputError(f"{self.bundle / self.sequences.decoder} cannot be run: {error}") from error
        self.decode_seconds += perf_counter() - start
        self.position = total
        logits = self._logits[:rows]
        check_logits(logits, f"{self.bundle}, after {total} tokens")
        return logits

    def spread(self, targets: int) -> None:
        """See :meth:`SequenceSession.spread`."""
        self._one_target()
        position = self.position
        self._bind(targets)
        self._memory[:, 1:targets, :, :position] = self._memory[:, :1, :, :position]

    def end_profile(self) -> tuple[Path, Path]:
        """End what ``profile`` began; return the files of the encoder and the decoder."""
        return Path(self._encoder.end_profiling()), Path(self._graph.session.end_profiling())

    def reorder(self, order: NDArray[np.int64]) -> None:
        """See :meth:`SequenceSession.reorder`."""
        moved = np.flatnonzero(order != np.arange(order.size))
        if moved.size:
            self._memory[:, moved, :, : self.position] = self._memory[:, order[moved], :, : self.position]


def _open(path: Path, threads: int, profile: Path | None) -> "InferenceSession":
    options = session_options(threads)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, f"{profile}-{path.stem}"
    try:
        return open_on_cpu(path, options)
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{path} cannot be opened: {error}; export the bundle again") from error
