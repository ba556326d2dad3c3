"""A bundle's graph that is open on onnxruntime's CPU provider: its weights, shared by all sessions of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgepress import sessions
from edgepress.bundle.manifest import MANIFEST_NAME
from edgepress.bundle.mtp import HIDDEN, HIDDEN_NEXT
from edgepress.bundle.states import StateType
from edgepress.errors import InputError
from edgepress.processor import dies_of_float16
from edgepress.runtime.config import BundleConfig, first_of
from edgepress.runtime.graph_file.cache_scales import key_scales
from edgepress.runtime.prepared import Prepared, open_session
from edgepress.runtime.sessions.buffers import to_value
from edgepress.runtime.sessions.session import Tokens
from edgepress.whole import whole_number

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, NodeArg, OrtValue, SessionOptions

_LOGITS_START = "logits_start"  # the graph's initializer: the first position of a call that gets logits
_LOGITS_STOP = "logits_stop"  # the graph's initializer: 0 where none gets them
_LAST_ONLY, _TO_THE_END = -1, np.iinfo(np.int64).max
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


@dataclass(frozen=True)
class OpenGraph:
    """A graph and the memory of ours that it reads in the place of initializers: ``logits_start`` and such.

    That is one for all sessions, so that each writes what is right for it before it runs, and two threads must not use
    two sessions at once. ``long_from`` is None where a model has no longrope.
    """

    config: BundleConfig
    session: "InferenceSession"
    prepared: Prepared
    logits_start: Tokens
    logits_stop: Tokens
    long_from: Tokens | None
    replaced: "tuple[OrtValue, ...]"  # onnxruntime reads their memory at each run, and they must not outlive it

    @cached_property
    def key_scales(self) -> Mapping[str, NDArray[np.float32]]:
        """What keys that are integers are multiplied by; see :func:`edgepress.runtime.graph_file.cache_scales`."""
        return key_scales(self.config.model, self.config.states)

    def ask(self, rows: int) -> None:
        """Have the next call give the logits of its last ``rows`` positions.

        Asked for none, graphs that have no ``logits_stop``, as those of edgepress 0.2.0, give those of the last one.
        """
        self.logits_start[0] = -rows or _LAST_ONLY
        self.logits_stop[0] = _TO_THE_END if rows else 0


def open_graph(
    config: BundleConfig,
    *,
    threads: int,
    prepared: bool = True,
    entries: Mapping[str, str] | None = None,
    profile: Path | None = None,
) -> OpenGraph:
    """Open the graph that ``config`` names; arguments and errors are those of :class:`.cpu.CpuSession`."""
    _check_processor(config)
    options = session_options(threads)
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    for key, value in (entries or {}).items():
        options.add_session_config_entry(key, value)
    memory = {_LOGITS_START: np.array([_LAST_ONLY], np.int64), _LOGITS_STOP: np.array([_TO_THE_END], np.int64)}
    if config.long_from is not None:
        memory[_LONG_FROM] = np.array(config.long_from, np.int64)
    replaced = {name: to_value(array) for name, array in memory.items()}
    for name, value in replaced.items():
        options.add_initializer(name, value)
    session, opened = _open(config, options, prepared)
    if config.states_from != MANIFEST_NAME:
        config = _with_types(config, session)
        _check_processor(config)
    _check_graph(config, session)
    read = (memory[_LOGITS_START], memory[_LOGITS_STOP], memory.get(_LONG_FROM))
    return OpenGraph(config, session, opened, *read, tuple(replaced.values()))


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
    beside = {HIDDEN} if HIDDEN_NEXT in outputs else set[str]()  # of what predicts a token further
    wrong = {"input_ids", "attention_mask", *beside, *(state.input for state in config.states)} ^ inputs.keys()
    wrong |= {"logits", *(state.output for state in config.states if state.kind != "encoded")} - outputs.keys()
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
