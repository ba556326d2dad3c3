"""The onnxruntime session of a decoder, with the memory that it reads and writes bound once.

Python's share of a decode step must be small against the step itself. Binding 60 cache tensors a step costs 10 % at
135M parameters; so every buffer is allocated and bound when the session opens:

- the cache at its full length, each layer's past and present the same memory, which GroupQueryAttention notices and
  then writes new keys and values in place. Pages that were never written cost no memory, so the full context is free
  until it is used;
- one token and one row of logits for decoding.

Only ``attention_mask`` is bound again at each step, because its length is the position: a pointer to the same ones.
"""

import mmap
import os
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgepress.errors import InputError
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.prepared import Prepared, open_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue, SessionOptions

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

PREFILL_CHUNK = 512  # tokens a call: see benchmarks/prefill_chunk.py
_LOGITS_START = "logits_start"  # the graph's initializer: the first position of a call that gets logits
_LAST_ONLY = -1
_ERRORS_ONLY = 3  # onnxruntime's log severity: its warnings are about how a graph was built, nothing a user can act on


def default_threads() -> int:
    """As many threads as there are cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def session_options(threads: int) -> "SessionOptions":
    """Options that every session of the runtime has in common."""
    import onnxruntime  # noqa: PLC0415 - only when a bundle is opened

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    return options


class DecoderSession:
    """A decoder and its cache. Arrays returned are views that the next call overwrites.

    ``position`` counts the tokens in the cache; ``run_seconds`` adds up the time spent inside onnxruntime.
    ``scoring`` opens the graph such that :meth:`score` can ask for the logits of many positions.
    """

    def __init__(
        self,
        config: BundleConfig,
        *,
        threads: int,
        context: int,
        prefill_chunk: int = PREFILL_CHUNK,
        prepared: bool = True,
        scoring: bool = False,
    ) -> None:
        self.config = config
        self.context = context
        self.prefill_chunk = prefill_chunk
        self.position = 0
        self.run_seconds = 0.0
        options = session_options(threads)
        # Scoring replaces the initializer by memory of ours. The session reads it at each run and must not outlive it.
        self._logits_start = np.array([_LAST_ONLY], np.int64) if scoring else None
        if self._logits_start is not None:
            self._logits_start_value = _value(self._logits_start)
            options.add_initializer(_LOGITS_START, self._logits_start_value)
        self.session, self.prepared = _open(config, options, prepared)
        self._check_inputs()
        self._tokens = np.zeros((1, max(1, min(prefill_chunk, context))), np.int64)
        self._mask = np.ones((1, context), np.int64)
        self._logits: Floats = np.zeros(config.vocab_size, np.float32)
        self._bind_once()

    def _check_inputs(self) -> None:
        known = {"input_ids", "attention_mask", *self.config.past_names}
        wrong = known.symmetric_difference(value.name for value in self.session.get_inputs())
        if wrong:
            raise InputError(
                f"{self.config.model}: its inputs and genai_config.json disagree on {', '.join(sorted(wrong))}; "
                "export the bundle again"
            )

    def _bind_once(self) -> None:
        config = self.config
        self._binding = self.session.io_binding()
        shape = (1, config.kv_heads, self.context, config.head_dim)
        self._cache = _untouched_memory(2 * config.layers, shape)
        for past, present, array in zip(config.past_names, config.present_names, self._cache, strict=True):
            value = _value(array)  # one value for both: equal pointers tell the operator to write in place
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_ortvalue_output(present, value)
        row = (1, 1, config.vocab_size)
        self._binding.bind_output("logits", "cpu", 0, np.float32, row, self._logits.ctypes.data)
        self._bind_tokens(1)

    def _bind_tokens(self, count: int) -> None:
        address = self._tokens.ctypes.data
        self._binding.bind_input("input_ids", "cpu", 0, np.int64, (1, count), address)
        self._bound_tokens = count

    def _run(self, count: int) -> None:
        """Run the first ``count`` tokens of the token buffer."""
        if self._bound_tokens != count:
            self._bind_tokens(count)
        position = self.position + count
        self._binding.bind_input("attention_mask", "cpu", 0, np.int64, (1, position), self._mask.ctypes.data)
        start = perf_counter()
        self.session.run_with_iobinding(self._binding)
        self.run_seconds += perf_counter() - start
        self.position = position

    def reset(self) -> None:
        """Forget all tokens; the cache's memory stays for the next text."""
        self.position = 0

    def check_room(self, count: int) -> None:
        """Raise an InputError when ``count`` more tokens do not fit."""
        if self.position + count > self.context:
            held = f" after {self.position} in the cache" if self.position else ""
            raise InputError(
                f"{count} tokens{held} do not fit in the context of {self.context}; shorten the text"
                + (
                    f" or ask for a longer context (the model allows {self.config.context_length})"
                    if self.context < self.config.context_length
                    else ""
                )
            )

    def prefill(self, tokens: Tokens) -> Floats:
        """Append ``tokens`` (length,) to the cache; return the logits after the last one, (vocab,)."""
        if not tokens.size:
            raise InputError("the prompt has no tokens; give at least one")
        self.check_room(tokens.size)
        for start in range(0, tokens.size, self.prefill_chunk):
            chunk = tokens[start : start + self.prefill_chunk]
            self._tokens[0, : chunk.size] = chunk
            self._run(chunk.size)
        return self._logits

    def decode(self, token: int) -> Floats:
        """Append one token to the cache; return the logits after it, (vocab,)."""
        if self.position >= self.context:
            self.check_room(1)
        self._tokens[0, 0] = token
        self._run(1)
        return self._logits

    def score(self, tokens: Tokens, first: int) -> Floats:
        """Append at most ``prefill_chunk`` tokens; return the logits from index ``first`` of them on, (rows, vocab)."""
        if self._logits_start is None:
            raise ValueError("open the session with scoring=True to get the logits of many positions")
        self.check_room(tokens.size)
        self._tokens[0, : tokens.size] = tokens
        self._logits_start[0] = first
        # onnxruntime refuses memory of another shape than the graph declares (one row), but it may allocate its own.
        self._binding.bind_output("logits")
        self._run(tokens.size)
        logits: Floats = self._binding.get_outputs()[-1].numpy()[0]
        return logits


def _open(config: BundleConfig, options: "SessionOptions", prepared: bool) -> tuple["InferenceSession", Prepared]:
    try:
        return open_session(config.bundle, config.model, options, prepared=prepared)
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{config.model} cannot be opened: {error}") from error


def _value(array: NDArray[np.generic]) -> "OrtValue":
    import onnxruntime  # noqa: PLC0415 - only when a bundle is opened

    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _untouched_memory(count: int, shape: tuple[int, ...]) -> list[Floats]:
    """Float32 arrays of zeros whose pages the operating system provides as they are written.

    numpy would ask for huge pages (MADV_HUGEPAGE), of which the first written byte of each head takes 2 MiB.
    """
    size = int(np.prod(shape)) * 4
    try:
        if hasattr(mmap, "MAP_ANONYMOUS"):
            memory = mmap.mmap(-1, count * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:  # Windows
            memory = mmap.mmap(-1, count * size)
    except OSError as error:
        raise InputError(
            f"the cache of context {shape[2]} takes {count * size / 1e6:.0f} MB, more than this system gives; "
            "ask for a shorter context"
        ) from error
    return [np.frombuffer(memory, np.float32, size // 4, offset=index * size).reshape(shape) for index in range(count)]
