"""What runs on the machine that counts: calls of a bundle's session, each with the instructions that it took.

Nothing here knows that the clock counts instructions: on any other machine the same numbers are nanoseconds.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from edgepress.bundle.adapter_file import adapter_for
from edgepress.bundle.states import State
from edgepress.calls.guest import Answer, Arrays
from edgepress.runtime.config import BundleConfig
from edgepress.runtime.measures.counting.operators import Kernel, by_operator, fewest, read_profile
from edgepress.runtime.measures.counting.overhead import measure_overhead
from edgepress.runtime.model import Model, load
from edgepress.runtime.sessions.buffers import StateMemory
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import Session, Snapshot, Tokens
from edgepress.runtime.sessions.windows import resident

REPEATS = {"decode": 8, "prefill": 2}  # after a first one, which pays for memory; the fewest instructions are told
_SEED = 0

Asked = tuple[int, int]  # tokens of a call, and tokens of the text before it


def count(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """What opening a bundle takes, and what its prompt and calls do, by operator too where ``by_operator`` says so.

    ``calls`` are pairs: the tokens of one call, and how many the text has before it; ``context`` is room for them.
    """
    import onnxruntime  # noqa: F401 - importing it is no part of opening a bundle
    import tokenizers  # noqa: F401

    bundle, context, graph = arguments["bundle"], arguments["context"], arguments["graph"]
    start = perf_counter_ns()
    model = load(bundle, threads=1, context=context, graph=graph, prepared=False, verify=False)
    told: dict[str, Any] = {"load": perf_counter_ns() - start, "graph": model.config.model.name}
    adapter = arguments["adapter"]
    if adapter is not None:
        model = model.with_adapter(adapter)
    if arguments["prompt"] is not None:
        told["prompt"] = _prompt(model, arguments["prompt"], arguments["max_tokens"])
    calls: list[Asked] = [(tokens, before) for tokens, before in arguments["calls"]]
    told["calls"] = [_call(model.session, *asked) for asked in calls]
    if arguments["by_operator"]:
        config, longest = model.config, model.context
        del model  # two sessions of a bundle may not fit
        for entry, operators in zip(told["calls"], _operators(config, longest, calls, adapter), strict=True):
            entry["operators"] = operators
    return told, {}


def _prompt(model: Model, prompt: str, max_tokens: int) -> dict[str, Any]:
    """A prompt in one piece, and each token that is generated after it but the last; after a first run of the same."""
    generation = model.generate(prompt, max_tokens=max_tokens)
    generation.text()
    tokens, generated = generation.prompt, generation.tokens
    model.reset()
    start = perf_counter_ns()
    model.prefill(tokens)
    times = [perf_counter_ns() - start]
    for token in generated[:-1]:
        start = perf_counter_ns()
        model.decode(token)
        times.append(perf_counter_ns() - start)
    return {"tokens": len(tokens), "prefill": times[0], "decode": times[1:]}


def _call(session: Session, tokens: int, context: int) -> dict[str, Any]:
    """Instructions of one call, all and those within onnxruntime, and the bytes of its states."""
    text, ids, found = made_up_text(session, context), _ids(session, tokens), []
    for _ in range(1 + _repeats(tokens)):
        session.restore(text)
        within, start = session.run_seconds, perf_counter_ns()
        session.append(ids)
        whole = perf_counter_ns() - start
        found.append((whole, round((session.run_seconds - within) * 1e9)))
    return {
        "tokens": tokens,
        "context": context,
        "instructions": min(whole for whole, _ in found[1:]),
        "in_onnxruntime": min(within for _, within in found[1:]),
        **state_traffic(session.states, tokens, context),
    }


def state_traffic(states: Sequence[State], tokens: int, context: int) -> dict[str, int]:
    """Bytes of states that a call reads and writes, from their shapes: ``tokens`` at once after ``context`` others.

    A state of fixed size is read and written whole. Of keys and values those of all tokens that there are then are
    read, and those of the call's tokens written; in a window all that are left where some are pushed out.
    """
    loaded = stored = 0
    for state in states:
        if not state.in_place:
            loaded, stored = loaded + state.bytes_at(context), stored + state.bytes_at(context)
            continue
        there, written = context + tokens, tokens
        if state.window is not None:
            before, there = (resident(length, state.window, state.rows) for length in (context, context + tokens))
            written = tokens if there == before + tokens else there
        loaded, stored = loaded + state.bytes_at(there), stored + state.bytes_at(written)
    return {"state_bytes_loaded": loaded, "state_bytes_stored": stored}


def _operators(config: BundleConfig, context: int, calls: Sequence[Asked], adapter: str | None) -> list[dict[str, Any]]:
    """Nodes and instructions of each operator in each call, by a second session that profiles itself."""
    overhead = measure_overhead()
    with tempfile.TemporaryDirectory() as folder:
        session = CpuSession(config, threads=1, context=context, prepared=False, profile=Path(folder) / "profile")
        if adapter is not None:
            session = session.with_adapter(adapter_for(config.bundle, Path(adapter)))
        for tokens, before in calls:
            text, ids = made_up_text(session, before), _ids(session, tokens)
            for _ in range(1 + _repeats(tokens)):
                session.restore(text)
                session.append(ids)
        runs, found = read_profile(session.end_profile()), []
    for tokens, _ in calls:
        pieces = -(-tokens // session.prefill_chunk)  # runs of a call
        took: list[list[Kernel]] = []
        for _ in range(1 + _repeats(tokens)):
            took.append([kernel for run in runs[:pieces] for kernel in run])
            del runs[:pieces]
        costs = by_operator(replace(one, instructions=overhead.taken_off(one)) for one in fewest(took[1:]))
        found.append({name: asdict(cost) for name, cost in costs.items()})
    return found


def _repeats(tokens: int) -> int:
    """Of a call: what the kernel does meanwhile of its own is then left out."""
    return REPEATS["decode" if tokens == 1 else "prefill"]


def made_up_text(session: Session, tokens: int) -> Snapshot:
    """A text of ``tokens`` tokens that nobody computed: what the model keeps of it are random numbers.

    Kernels take as many instructions for them as for real ones, and filling a cache of thousands of tokens by
    computing them takes hours on an emulated machine.
    """
    session.reset()
    empty, generator = session.snapshot(), np.random.default_rng(_SEED)
    arrays = StateMemory(session.states, tokens).copy(tokens) if tokens else empty.arrays
    for array in arrays if tokens else ():
        is_float = array.dtype.kind == "f"
        array[...] = generator.standard_normal(array.shape) if is_float else generator.integers(0, 100, array.shape)
    text = None if empty.text is None else _ids(session, tokens) if tokens else empty.text
    return replace(empty, position=tokens, entries=tokens, arrays=arrays, text=text)


def _ids(session: Session, count: int) -> Tokens:
    """Random tokens."""
    return np.random.default_rng(_SEED).integers(0, session.vocab_size, count, np.int64)
