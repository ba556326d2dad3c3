"""The onnxruntime session of a decoder, with the memory that it reads and writes bound once.

Python's share of a decode step must be small against the step itself. Binding 60 cache tensors a step costs 10 % at
135M parameters; so every buffer is allocated and bound when the session opens:

- the cache at its full length, each layer's past and present the same memory, which GroupQueryAttention notices and
  then writes new keys and values in place. Pages that were never written cost no memory, so the full context is free
  until it is used;
- one token and one row of logits for decoding.

Only ``attention_mask`` is bound again at each step, because its length is the position: a pointer to the same ones.
"""

import math
import mmap
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from edgepress import sessions
from edgepress.errors import InputError
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.prepared import Prepared, open_session
from edgepress.whole import whole_number

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg, OrtValue, RunOptions, SessionOptions

Floats = NDArray[np.float32]
Tokens = NDArray[np.int64]

# Tokens of a prompt in one call. 64 to 512 are equally fast at 135M and 0.5B; at 0.5B the activations of 512 tokens
# take 57 MB, those of 128 take 17 MB.
PREFILL_CHUNK = 128
_LOGITS_START = "logits_start"  # the graph's initializer: the first position of a call that gets logits
_LAST_ONLY = -1
_LONG_FROM = "long_from"  # the graph's initializer: a call whose total length exceeds it uses longrope's long table
_TRIM_FROM = 64  # tokens of a prompt that is worth the millisecond of giving memory back after it
_NAMED, _SHOWN = 6, 200  # inputs in a message, and characters of each


@dataclass(frozen=True)
class RanOn:
    """What computes a session: an execution provider, and for an accelerator the target and chip that it is."""

    provider: str
    target: str
    soc: str | None = None
    simulated: bool = False

    @property
    def name(self) -> str:
        """The target, its chip and whether that is simulated."""
        chip = f" {self.soc}" if self.soc else ""
        return f"{self.target}{chip}{', simulated' if self.simulated else ''}"

    def __str__(self) -> str:
        return f"{self.name} ({self.provider})"


ON_CPU = RanOn("CPUExecutionProvider", "cpu")


def session_options(threads: int) -> "SessionOptions":
    """Options that every session of the runtime has in common; InputError when ``threads`` is less than 1."""
    options = sessions.session_options(whole_number("threads", threads))
    options.inter_op_num_threads = 1
    # A memory pattern is kept for each combination of input shapes, and each decode step has a new one: the list only
    # grows, and searching and filling it makes steps 2 to 4 % slower after a few hundred tokens.
    options.enable_mem_pattern = False
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
        self.ran_on = ON_CPU
        self.context = context
        self.prefill_chunk = prefill_chunk
        self.position = 0
        self.run_seconds = 0.0
        options = session_options(threads)
        # Initializers replaced by memory of ours: the session reads it at each run, and must not outlive it.
        self._replaced: list[OrtValue] = []
        if scoring:  # threads that wait for work by spinning would take the cores from a reference model in between
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._logits_start = self._replace(options, _LOGITS_START, np.array([_LAST_ONLY])) if scoring else None
        self._longrope = None
        if config.long_from is not None:
            value = self._replace(options, _LONG_FROM, np.array(config.long_from))
            self._longrope = Longrope(value, config.long_from, np.zeros(context, np.int64))
        self.session, self.prepared = _open(config, options, prepared)
        self._shrinking = _shrinking_run()
        self._check_graph()
        self._tokens = np.zeros((1, max(1, min(prefill_chunk, context))), np.int64)
        self._mask = np.ones((1, context), np.int64)
        self._mask_address = self._mask.ctypes.data  # asking numpy for it at each step would cost as much as binding it
        self._logits: Floats = np.zeros(config.vocab_size, np.float32)
        self._bind_once()

    def _replace(self, options: "SessionOptions", name: str, value: Tokens) -> Tokens:
        value = value.astype(np.int64)
        self._replaced.append(to_value(value))
        options.add_initializer(name, self._replaced[-1])
        return value

    def _check_graph(self) -> None:
        """Hold the graph's inputs and outputs against what ``genai_config.json`` says of them."""
        config, inputs = self.config, {value.name: value for value in self.session.get_inputs()}
        outputs = {value.name: value for value in self.session.get_outputs()}
        wrong = {"input_ids", "attention_mask", *config.past_names}.symmetric_difference(inputs)
        wrong |= {"logits", *config.present_names} - outputs.keys()
        cache = (1, config.kv_heads, None, config.head_dim)
        for values, names in ((inputs, config.past_names), (outputs, config.present_names)):
            wrong |= {name for name in names if name in values and not _fits(values[name], "float", cache)}
        wrong |= {name for name in ("input_ids", "attention_mask") if not _fits(inputs.get(name), "int64", (1, None))}
        if not _fits(outputs.get("logits"), "float", (1, None, config.vocab_size)):
            wrong.add("logits")
        if wrong:
            first = sorted(wrong)[:_NAMED]
            more = f" and {len(wrong) - len(first)} more" if len(wrong) > len(first) else ""
            raise InputError(
                f"{config.model}: its inputs or outputs and genai_config.json disagree on "
                f"{', '.join(name[:_SHOWN] for name in first)}{more}; export the bundle again"
            )

    def _bind_once(self) -> None:
        config = self.config
        self._binding = self.session.io_binding()
        shape = (1, config.kv_heads, self.context, config.head_dim)
        self._cache = untouched_memory((2 * config.layers, *shape))
        for past, present, array in zip(config.past_names, config.present_names, self._cache, strict=True):
            value = to_value(array)  # one value for both: equal pointers tell the operator to write in place
            self._binding.bind_ortvalue_input(past, value)
            self._binding.bind_ortvalue_output(present, value)
        row = (1, 1, config.vocab_size)
        self._binding.bind_output("logits", "cpu", 0, np.float32, row, self._logits.ctypes.data)
        self._bind_tokens(1)

    def _bind_tokens(self, count: int) -> None:
        address = self._tokens.ctypes.data
        self._binding.bind_input("input_ids", "cpu", 0, np.int64, (1, count), address)
        self._bound_tokens = count

    def _run(self, count: int, options: "RunOptions | None" = None) -> None:
        """Run the first ``count`` tokens of the token buffer."""
        if self._bound_tokens != count:
            self._bind_tokens(count)
        position = self.position + count
        self._binding.bind_input("attention_mask", "cpu", 0, np.int64, (1, position), self._mask_address)
        start = perf_counter()
        try:
            self.session.run_with_iobinding(self._binding, options)
        except Exception as error:  # onnxruntime's exceptions have no common base class of their own
            raise InputError(f"{self.config.model} cannot be run: {error}") from error
        self.run_seconds += perf_counter() - start
        self.position = position

    def reset(self) -> None:
        """Forget all tokens; the cache's memory stays for the next text."""
        self.position = 0

    def check_room(self, count: int, after: int | None = None) -> None:
        """Raise an InputError when ``count`` tokens ``after`` those in the cache, or so many, do not fit."""
        longest = self.config.context_length
        longer = f" or ask for a longer context (the model allows {longest})" if self.context < longest else ""
        check_room(self.position if after is None else after, count, self.context, f"; shorten the text{longer}")

    def prefill(self, tokens: Tokens) -> Floats:
        """Append ``tokens`` (length,) to the cache; return the logits after the last one, (vocab,)."""
        self.check_room(tokens.size)
        if self._longrope is not None:
            tokens = self._longrope.rope_tokens(tokens, self)
        for start in range(0, tokens.size, self.prefill_chunk):
            chunk = tokens[start : start + self.prefill_chunk]
            self._tokens[0, : chunk.size] = chunk
            last = start + chunk.size == tokens.size
            self._run(chunk.size, self._shrinking if last and tokens.size >= _TRIM_FROM else None)
        if tokens.size >= _TRIM_FROM:
            self.prepared.trim()
        return self._logits

    def decode(self, token: int) -> Floats:
        """Append one token to the cache; return the logits after it, (vocab,)."""
        if self._longrope is not None:
            return self.prefill(np.array([token], np.int64))
        if self.position >= self.context:
            self.check_room(1)
        self._tokens[0, 0] = token
        self._run(1)
        return self._logits

    def score(self, tokens: Tokens, first: int, *, total: int | None = None) -> Floats:
        """Append at most ``prefill_chunk`` tokens; return the logits from index ``first`` of them on, (rows, vocab).

        ``total`` is the length of the text that these are a piece of, which longrope depends on.
        """
        if self._logits_start is None:
            raise ValueError("open the session with scoring=True to get the logits of many positions")
        self.check_room(tokens.size)
        self._tokens[0, : tokens.size] = tokens
        self._logits_start[0] = first
        if self._longrope is not None:
            self._longrope.choose(self.position + tokens.size if total is None else total)
        # onnxruntime refuses memory of another shape than the graph declares (one row), but it may allocate its own.
        self._binding.bind_output("logits")
        self._run(tokens.size)
        logits: Floats = self._binding.get_outputs()[-1].numpy()[0]
        return logits


@dataclass
class Longrope:
    """Which of longrope's two tables the graph reads: the long one for texts of more than ``limit`` tokens.

    The graph compares the total length of a call with ``value``; for the pieces of one long text that is 0, so that
    all of them use the table that one call for the whole of it would. ``text`` holds the tokens in the cache.
    """

    value: Tokens
    limit: int
    text: Tokens

    def choose(self, total: int) -> bool:
        """Choose the table for a text of ``total`` tokens; return whether it is another one than before."""
        before = int(self.value)
        self.value[...] = 0 if total > self.limit else self.limit
        return int(self.value) != before

    def rope_tokens(self, tokens: Tokens, session: "HasPosition") -> Tokens:
        """Choose the table for the text with ``tokens`` at its end; return the tokens to compute.

        These are all of the text where it outgrows the short table: keys that were rotated by the other one are of no
        use to it. Then the cache starts again, as in the reference implementation.
        """
        total = session.position + tokens.size
        self.text[session.position : total] = tokens
        if self.choose(total) and session.position:
            session.position = 0
            return self.text[:total]
        return tokens


class HasPosition(Protocol):
    """A session whose cache holds ``position`` tokens."""

    position: int


def _fits(value: "NodeArg | None", kind: str, shape: tuple[int | None, ...]) -> bool:
    """Whether an input or output is a tensor of that type, and of that shape where it says a number."""
    if value is None or value.type != f"tensor({kind})" or len(value.shape) != len(shape):
        return False
    return all(None in (is_, wanted) or isinstance(is_, str) or is_ == wanted
               for is_, wanted in zip(value.shape, shape, strict=True))  # fmt: skip


def _open(config: BundleConfig, options: "SessionOptions", prepared: bool) -> tuple["InferenceSession", Prepared]:
    try:
        return open_session(config.bundle, config.model, options, prepared=prepared)
    except Exception as error:  # onnxruntime's exceptions have no common base class of their own
        raise InputError(f"{config.model} cannot be opened: {error}") from error


def _shrinking_run() -> "RunOptions":
    """Options of a run after which onnxruntime gives back its activations: 10 MB after 128 tokens of a 0.5B."""
    import onnxruntime

    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return options


def check_room(position: int, count: int, context: int, remedy: str) -> None:
    """Raise an InputError when ``count`` tokens after ``position`` do not fit; ``remedy`` ends its sentence."""
    if position + count > context:
        held = f" after {position} in the cache" if position else ""
        raise InputError(f"{count} tokens{held} do not fit in the context of {context}{remedy}")


def to_value(array: NDArray[np.generic]) -> "OrtValue":
    """An array as onnxruntime takes it: the same memory, which must outlive the value."""
    import onnxruntime

    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def untouched_memory(shape: tuple[int, ...]) -> Floats:
    """A float32 array of zeros, (…, context, head_dim), whose pages the system provides as they are written.

    numpy would ask for huge pages (MADV_HUGEPAGE), of which the first written byte of each head takes 2 MiB.
    """
    size = math.prod(shape) * 4
    try:
        if hasattr(mmap, "MAP_ANONYMOUS"):
            memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:  # Windows
            memory = mmap.mmap(-1, size)
    except (OSError, OverflowError, ValueError) as error:
        raise InputError(
            f"the cache of context {shape[-2]} takes {size / 1e6:.0f} MB, more than this system gives; "
            "ask for a shorter context"
        ) from error
    return np.frombuffer(memory, np.float32).reshape(shape)
