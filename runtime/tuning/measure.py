"""Which way of opening a bundle is fastest here, measured in turn on the machine that it is prepared on.

Threads: 1, 2, 4 … to as many as there are usable cores, kept to the strong cores or left to the system where there are
weak ones. The fewest that decode within :data:`_WORTH` of the fastest are taken: more cost energy, and other programs
their cores. Threads that wait for work may spin, which costs both, or sleep: they spin where that is faster by as much.
Last the length of a prompt's pieces: the shortest within the same bound, as memory grows with it. The least of several
times stands for each: what else the machine does makes a step longer, never shorter.
"""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from time import perf_counter, sleep

import msgspec
import numpy as np

from edgepress.cores import usable_cores
from edgepress.runtime.config import BundleConfig, read_config
from edgepress.runtime.generation.speculation.costs import measure_steps
from edgepress.runtime.sessions.cpu import CpuSession
from edgepress.runtime.sessions.session import PREFILL_CHUNK, Session
from edgepress.runtime.tuning.cores import allowed_cores, strong_cores
from edgepress.runtime.tuning.record import Choice, Steps, Tuning, here
from edgepress.terminal.progress import Progress, silent

_WORTH = 1.03
_ROUNDS, _STEPS = 3, 12
_PROMPTS = 2  # for each length of pieces: they take longest
_PROMPT = 256  # tokens, which all lengths of pieces divide
_CHUNKS = (64, 128, 256)
_REST = 0.1  # s: onnxruntime's threads were seen to spin for some 50 ms after their last work

Samples = dict[str, list[float]]


def tune(bundle: Path, *, graph: str | None = None, progress: Progress = silent) -> Tuning:
    """Measure how ``bundle``, which is prepared, is best opened here; it takes some seconds.

    Args:
        bundle: a language model that an export wrote.
        graph: which of its graphs.
        progress: makes the bar of rounds.

    Raises:
        InputError: the bundle cannot be opened or run.

    """
    config = read_config(bundle, graph)
    samples: Samples = {}
    with progress(2 * _ROUNDS + _PROMPTS, "measuring", " rounds") as done:
        placed = _fewest(config, _placements(), samples, done)
        spun = [placed] if placed.threads == 1 else [msgspec.structs.replace(placed, spinning=False), placed]
        chosen = _fewest(config, spun, samples, done)
        chunk = _shortest(config, chosen, samples, done)
    chosen = msgspec.structs.replace(chosen, prefill_chunk=chunk)
    costs = measure_steps(_open(config, chosen, config.default_context))
    steps = {str(chosen.threads): Steps.of(costs)}
    return msgspec.structs.replace(here(), choice=chosen, samples=samples, steps=steps)


def _placements() -> list[Choice]:
    """Numbers of threads and cores to keep them to, the fewest threads first, and those left to the system."""
    allowed, most = allowed_cores(), usable_cores()
    strong = strong_cores(allowed)
    counts = sorted({*(2**power for power in range(most.bit_length())), most, min(most, len(strong) or most)})
    places = [(), strong] if 0 < len(strong) < len(allowed) else [()]
    return [
        Choice(count, cores, spinning=True, prefill_chunk=PREFILL_CHUNK)
        for count, cores in product(counts, places)
        if not cores or count <= len(cores)
    ]


def _open(config: BundleConfig, how: Choice, context: int) -> CpuSession:
    return CpuSession(
        config, threads=how.threads, context=context, prefill_chunk=how.prefill_chunk, entries=how.entries()
    )


def _fewest(config: BundleConfig, choices: Sequence[Choice], samples: Samples, done: Callable[[int], None]) -> Choice:
    """The first of ``choices`` that decodes within the bound of the fastest."""
    context = min(config.context_length, 4 * _STEPS)
    sessions = [_open(config, how, context) for how in choices]
    found: list[list[float]] = [[] for _ in choices]
    for _ in range(_ROUNDS):
        for session, seconds in zip(sessions, found, strict=True):
            sleep(_REST)
            seconds.extend(_decode_steps(session, min(_STEPS, context - 1)))
        done(1)
    samples |= {_name(how): seconds for how, seconds in zip(choices, found, strict=True)}
    best = [min(seconds) for seconds in found]
    return next(how for how, least in zip(choices, best, strict=True) if least <= _WORTH * min(best))


def _decode_steps(session: Session, count: int) -> list[float]:
    session.reset()
    session.append([1])
    return [_timed(lambda: session.append([1])) for _ in range(count)]


def _shortest(config: BundleConfig, how: Choice, samples: Samples, done: Callable[[int], None]) -> int:
    """The shortest piece of a prompt with which that is computed within the bound of the fastest."""
    length = min(_PROMPT, config.context_length)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, length)
    chunks = [chunk for chunk in _CHUNKS if chunk <= length] or [length]
    sessions = [_open(config, msgspec.structs.replace(how, prefill_chunk=chunk), length) for chunk in chunks]
    found: list[list[float]] = [[] for _ in chunks]
    for _ in range(_PROMPTS):
        for session, seconds in zip(sessions, found, strict=True):
            session.reset()
            seconds.append(_timed(lambda session=session: session.append(tokens)))  # type: ignore[misc]
        done(1)
    samples |= {f"{length} tokens in pieces of {chunk}": one for chunk, one in zip(chunks, found, strict=True)}
    best = [min(seconds) for seconds in found]
    return next(chunk for chunk, least in zip(chunks, best, strict=True) if least <= _WORTH * min(best))


def _timed(action: Callable[[], object]) -> float:
    start = perf_counter()
    action()
    return perf_counter() - start


def _name(how: Choice) -> str:
    where = f" on cores {', '.join(map(str, how.cores))}" if how.cores else ""
    return f"{how.threads} {'thread' if how.threads == 1 else 'threads'}{where}{'' if how.spinning else ', sleeping'}"


def describe(tuning: Tuning) -> list[str]:
    """What was chosen and what it was chosen from, in lines for a terminal."""
    how = tuning.choice
    if how is None:
        return []
    lines = [f"opened here with {_name(how)}, a prompt in pieces of {how.prefill_chunk}"]
    return lines + [f"  {name:32} {1e3 * min(seconds):8.2f} ms" for name, seconds in tuning.samples.items()]
