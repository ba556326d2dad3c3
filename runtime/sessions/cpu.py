"""A bundle's graph on onnxruntime's CPU provider, with the memory that it reads and writes bound once.

Python's share of a decode step must be small against the step itself. Binding 60 cache tensors a step costs 10 % at
135M parameters; so every buffer is allocated and bound when the session opens:

- states that grow at their full length, input and output the same memory, which GroupQueryAttention notices and then
  writes new keys and values in place;
- one token and one row of logits for decoding.

Only ``attention_mask`` is bound again at each step, because its length is the position: a pointer to the same ones.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgepress import sessions
from edgepress.errors import InputError
from edgepress.manifest import MANIFEST_NAME
from edgepress.processor import dies_of_float16
from edgepress.runtime.config import BundleConfig, first_of
from edgepress.runtime.prepared import Prepared, open_session
from edgepress.runtime.sessions.buffers import Results, StateMemory, to_value
from edgepress.runtime.sessions.longrope import Longrope
from edgepress.runtime.sessions.session import ON_CPU, PREFILL_CHUNK, Floats, Session, Tokens
from edgepress.states import StateType
from edgepress.whole import whole_number

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg, OrtValue, RunOptions, SessionOptions

_LOGITS_START = "logits_start"  # the graph's initializer: the first position of a call that gets logits
_LAST_ONLY = -1
_LONG_FROM = "long_from"  # the graph's initializer: a call whose total length exceeds it uses longrope's long table
_TYPES: dict[StateType, str] = {
    "float32": "float",
    "float16": "float16",
    "int8": "int8",
    "uint8": "uint8",
}  # a state's, as onnxruntime says


def session_options(threads: int) -> "SessionOptions":
    """Options that every session of the runtime has in common; InputError when ``threads`` is less than 1."""
    options = sessions.session_options(whole_number("threads", threads))
    options.inter_op_num_threads = 1
    # A memory pattern is kept for each combination of input shapes, and each decode step has a new one: the list only
    # grows, and searching and filling it makes steps 2 to 4 % slower after a few hundred tokens.
    options.enable_mem_pattern = False
    return options


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
        _check_processor(config)
        options = session_options(threads)
        if profile is not None:
            options.enable_profiling, options.profile_file_prefix = True, str(profile)
        for key, value in (entries or {}).items():
            options.add_session_config_entry(key, value)
        # Initializers replaced by memory of ours: the session reads it at each run, and must not outlive it.
        self._replaced: list[OrtValue] = []
        self._logits_start = np.array([_LAST_ONLY], np.int64)
        self._replace(options, _LOGITS_START, self._logits_start)
        longrope = None
        if config.long_from is not None:
            longrope = Longrope.for_texts(config.long_from, context)
            self._replace(options, _LONG_FROM, longrope.value)
        self._session, opened = _open(config, options, prepared)
        if config.states_from != MANIFEST_NAME:
            config = _with_types(config, self._session)
            _check_processor(config)
        _check_graph(config, self._session)
        longest = config.context_length
        longer = f" or ask for a longer context (the model allows {longest})" if context < longest else ""
        super().__init__(
            str(config.model),
            replace(ON_CPU, graph=config.graph),
            context=context,
            prefill_chunk=prefill_chunk,
            vocab_size=config.vocab_size,
            memory=StateMemory(config.states, context),
            longrope=longrope,
            prepared=opened,
            remedy=f"; shorten the text{longer}",
        )
        self._shrinking = _shrinking_run()
        self._tokens = np.zeros((1, max(1, min(prefill_chunk, context))), np.int64)
        self._mask = np.ones((1, context), np.int64)
        self._mask_address = self._mask.ctypes.data  # asking numpy for it at each step would cost as much as binding it
        self._logits: Floats = np.zeros((1, config.vocab_size), np.float32)
        # The graphs of onnxruntime-genai's builder give the logits of every position, asked for or not.
        self._gives_all = {value.name: value.shape for value in self._session.get_outputs()}["logits"][1] != 1
        self._bind_once()

    def end_profile(self) -> Path:
        """Write the profile that was asked for; return its file."""
        return Path(self._session.end_profiling())

    def _replace(self, options: "SessionOptions", name: str, value: Tokens) -> None:
        self._replaced.append(to_value(value))
        options.add_initializer(name, self._replaced[-1])

    def _bind_once(self) -> None:
        self._binding = self._session.io_binding()
        self._results = None if self._memory.grows_only else Results(self._memory, None)
        for state, value in self._memory.inputs():
            self._binding.bind_ortvalue_input(state.input, value)
            if state.grows:  # one value for both: equal pointers tell the operator to write in place
                self._binding.bind_ortvalue_output(state.output, value)
        if self._results is not None:
            for state, value in self._results.outputs():
                self._binding.bind_ortvalue_output(state.output, value)
        self._bind_logits(one_row=True)
        self._bind_tokens(1)

    def _bind_tokens(self, count: int) -> None:
        address = self._tokens.ctypes.data
        self._binding.bind_input("input_ids", "cpu", 0, np.int64, (1, count), address)
        self._bound_tokens = count

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
        self._logits_start[0] = -rows
        if self._bound_tokens != count:
            self._bind_tokens(count)
        if not (one_row and self._bound_one_row):
            self._bind_logits(one_row=one_row)
        self._binding.bind_input("attention_mask", "cpu", 0, np.int64, (1, self.position + count), self._mask_address)
        self._run(self._session.run_with_iobinding, self._binding, self._shrinking if release else None)
        if self._results is not None:
            self._results.take(self.position, count)
        if release:
            self.prepared.trim()
        if one_row:
            return self._logits
        logits: Floats = self._binding.get_outputs()[-1].numpy()[0, -rows:]  # the last that was bound at first
        return logits


def _with_types(config: BundleConfig, session: "InferenceSession") -> BundleConfig:
    """The config of a bundle without a list of states, each of the type that the graph has it in, where it has one."""
    kinds: dict[str, StateType] = {f"tensor({onnx})": ours for ours, onnx in _TYPES.items()}
    types = {value.name: kinds.get(value.type, "float32") for value in session.get_inputs()}
    states = tuple(replace(state, type=types.get(state.input, state.type)) for state in config.states)
    return replace(config, states=states)


def _check_processor(config: BundleConfig) -> None:
    """Raise an InputError when the graph would end the process here: products in float16 do, attention does not."""
    if dies_of_float16() and not config.casts and any(state.type == "float16" for state in config.states):
        raise InputError(
            f"{config.model} computes in float16, and this processor has no instructions for it; run a float32 graph "
            'of the bundle, or export one with `[activations] type = "float32"` in the recipe'
        )


def _check_graph(config: BundleConfig, session: "InferenceSession") -> None:
    """Check the graph's inputs and outputs against what the bundle says of them."""
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    wrong = {"input_ids", "attention_mask", *(state.input for state in config.states)}.symmetric_difference(inputs)
    wrong |= {"logits", *(state.output for state in config.states)} - outputs.keys()
    for state in config.states:
        shape = tuple(1 if axis == "batch" else axis if isinstance(axis, int) else None for axis in state.shape)
        for values, name in ((inputs, state.input), (outputs, state.output)):
            if name in values and not _fits(values[name], _TYPES[state.type], shape):
                wrong.add(name)
    wrong |= {name for name in ("input_ids", "attention_mask") if not _fits(inputs.get(name), "int64", (1, None))}
    if not _fits(outputs.get("logits"), "float", (1, None, config.vocab_size)):
        wrong.add("logits")
    if wrong:
        who = "genai_config.json" if "logits" in wrong else config.states_from
        raise InputError(
            f"{config.model}: its inputs or outputs and {who} disagree on {first_of(wrong)}; export the bundle again"
        )


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
