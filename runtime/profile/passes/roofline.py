"""Roofline: what memory and cores reach in onnxruntime's own kernels alone, and what this bundle asks of them.

A small product comes first: the process that has opened, computed and closed it is as large as one without a bundle.
Then products of the bundle's sizes and scheme: with one row, over more weights than a cache holds, they are bound by
memory; with as many as prefill computes at once, by arithmetic. Attention of its heads, of a token and of a chunk; and
norms, of which one row tells what starting a node takes. ``--fit`` makes figures of a device from these.
"""

import gc
from pathlib import Path
from typing import Any

import msgspec

from edgepress.calls import Answer, Arrays
from edgepress.runtime.config import read_config
from edgepress.runtime.machine.memory import read_memory, trim_heap
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.roofline.kernels import (
    LIGHT,
    Alone,
    attention,
    beyond_caches,
    float32,
    kind_of_kernels,
    light,
    products,
    sizes_of,
)
from edgepress.runtime.profile.roofline.work import Scheme, read_work
from edgepress.runtime.profile.rounds import Under, opening, tell
from edgepress.runtime.sessions.session import PREFILL_CHUNK

_FLOAT_SIZE = 1024
_REPEATS = 5
_FEW = 16  # products of those for arithmetic, whose weights may be in a cache
_SMALL = [(256, 256)]


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Time each sort of kernel alone, and tell what the bundle's own calls ask of them."""
    how = opening(arguments)
    how.keep_to_cores()
    config = read_config(Path(how.bundle), how.graph)
    work = read_work(config)
    longest = max(arguments["prompt_lengths"])
    rows, before = min(longest, PREFILL_CHUNK), longest + arguments["decode_tokens"] / 2
    _tell_process(how.threads, work.scheme)

    def told(what: str, alone: Alone, rows: int, amount: float | None = None, nbytes: int = 0) -> None:
        with Under(how.cores_used) as under:
            seconds = alone.seconds(rows, _REPEATS)
        works = alone.amount(rows) if amount is None else amount
        detail = {"rows": rows, "threads": how.cores_used, "bytes": nbytes, "amount": works}
        tell(what, {f"{what}_seconds": seconds}, detail, under)

    made = products(work.scheme, sizes_of(work.sizes, work.scheme, beyond_caches()), how.threads)
    told("memory", made.alone, 1, made.nbytes, made.nbytes)
    del made  # which is large
    made = products(work.scheme, work.sizes[:_FEW], how.threads)
    told("int8", made.alone, rows, nbytes=made.nbytes)
    told("float32", float32(_FLOAT_SIZE, how.threads), rows, nbytes=4 * _FLOAT_SIZE**2)
    if work.attention is not None:
        told("attention_decode", attention(work.attention, round(before), 1, how.threads), 1)
        told("attention_prefill", attention(work.attention, rows, rows, how.threads), rows)
    width = max(1, work.numbers // max(1, work.nodes))
    nodes = light(width, how.threads, lambda rows: LIGHT * rows * width)
    told("nodes", nodes, 1, LIGHT)
    told("numbers", nodes, rows)
    calls = {f"ttft_seconds at {length}": work.prefill(config, length) for length in arguments["prompt_lengths"]}
    calls[f"step_seconds at {longest}"] = work.decode(config, before)
    for name, call in calls.items():
        amounts = {key: [float(value)] for key, value in msgspec.structs.asdict(call).items()}
        tell("work", amounts, {"call": name})
    return {}, {}


def _tell_process(threads: int | None, scheme: Scheme) -> None:
    """What the process takes by itself, and how kernels pack weights here."""
    products(scheme, _SMALL, threads).alone.seconds(1, 1)
    gc.collect()
    trim_heap()
    resident = read_memory().rss
    if resident is not None:
        tell("process", {"resident_bytes": [float(resident)]}, {"kernels": kind_of_kernels()})


PASS = Pass(
    "roofline",
    "what memory and cores reach in kernels alone, and what a token of this bundle asks of them",
    measure,
    ("prompt_lengths", "decode_tokens"),
    Rounds.LEAST,
    optional=True,
    only="language model",
)
