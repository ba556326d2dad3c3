"""Roofline: what memory and cores reach in onnxruntime's own products, each alone, and what this bundle asks of them.

A small product comes first: the process that has opened, computed and closed it is as large as one without a bundle.

A product of one row over a weight that no cache holds is bound by memory; a block of as many rows as prefill computes
at once, by arithmetic. Both store and multiply as the bundle does. ``--fit`` makes figures of a device from these.
"""

import gc
from pathlib import Path
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.config import read_config
from edgepress.runtime.memory import read_memory, trim_heap
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.roofline.kernels import Alone, beyond_caches, float32, kind_of_kernels, quantized
from edgepress.runtime.profile.roofline.work import Scheme, read_work
from edgepress.runtime.profile.rounds import Under, opening, tell
from edgepress.runtime.sessions.session import PREFILL_CHUNK

_DEPTH, _COLUMNS, _FLOAT_SIZE = 2048, 4096, 1024
_REPEATS = 5
_SMALL = (256, 256)


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Time each product alone, and tell the bytes and operations of the bundle's own calls."""
    how = opening(arguments)
    how.keep_to_cores()
    config = read_config(Path(how.bundle), how.graph)
    work = read_work(config)
    rows = min(max(arguments["prompt_lengths"]), PREFILL_CHUNK)

    _tell_process(how.threads, work.scheme)

    def told(what: str, product: Alone, rows: int) -> None:
        with Under(how.cores_used) as under:
            seconds = product.seconds(rows, _REPEATS)
        detail = {
            "rows": rows,
            "threads": how.cores_used,
            "bytes": product.nbytes,
            "operations": product.operations(rows),
        }
        tell(what, {f"{what}_seconds": seconds}, detail, under)

    columns = beyond_caches() * 8 // (work.scheme.bits * _DEPTH)
    told("memory", quantized(work.scheme, _DEPTH, columns, how.threads), 1)
    told("int8", quantized(work.scheme, _DEPTH, _COLUMNS, how.threads), rows)
    told("float32", float32(_FLOAT_SIZE, how.threads), rows)
    before = max(arguments["prompt_lengths"]) + arguments["decode_tokens"] / 2
    calls = {f"ttft_seconds at {length}": work.prefill(config, length) for length in arguments["prompt_lengths"]}
    calls[f"step_seconds at {max(arguments['prompt_lengths'])}"] = work.decode(config, before)
    for name, (moved, operations) in calls.items():
        tell("work", {"bytes": [float(moved)], "operations": [float(operations)]}, {"call": name})
    return {}, {}


def _tell_process(threads: int | None, scheme: Scheme) -> None:
    """What the process takes by itself, and how kernels pack weights here."""
    quantized(scheme, *_SMALL, threads).seconds(1, 1)
    gc.collect()
    trim_heap()
    resident = read_memory().rss
    if resident is not None:
        tell("process", {"resident_bytes": [float(resident)]}, {"kernels": kind_of_kernels()})


PASS = Pass(
    "roofline",
    "what memory and cores reach in products alone, and what a token of this bundle asks of them",
    measure,
    ("prompt_lengths", "decode_tokens"),
    Rounds.LEAST,
    optional=True,
)
