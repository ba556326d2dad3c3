"""Memory by phase, in a process of its own: what loading, prefill, decoding and letting go of a bundle leave resident.

The bundle is opened and closed several times in one process: what grows from one time to the next has leaked.
"""

import gc
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.memory import read_memory, reset_peak, trim_heap
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import decode_steps, opening, prompt_of, tell

_REPEATS = 4


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Read memory after each phase, ``_REPEATS`` times over."""
    how = opening(arguments)
    for repeat in range(_REPEATS):
        _tell("before load", repeat, 0)
        model, _ = how.open()
        _tell("loaded", repeat, 0)
        for length in sorted(arguments["prompt_lengths"]):
            model.reset()
            logits = model.prefill(prompt_of(model, length))
            _tell("prefilled", repeat, length)
        decode_steps(model, logits, arguments["decode_tokens"])
        _tell("decoded", repeat, model.session.position)
        del model, logits
        gc.collect()
        trim_heap()
        _tell("unloaded", repeat, 0)
    return {}, {}


def _tell(phase: str, repeat: int, tokens: int) -> None:
    memory = read_memory()
    sizes = {
        "rss_bytes": memory.rss,
        "pss_bytes": memory.pss,
        "anonymous_bytes": memory.anonymous,
        "file_bytes": None if memory.rss is None or memory.anonymous is None else memory.rss - memory.anonymous,
        "peak_rss_bytes": memory.peak_rss,
    }
    # the peak is since the last phase, where the system lets a process forget it, else since the process began
    detail = {"repeat": repeat, "tokens": tokens, "peak_since_phase": reset_peak()}
    tell(phase, {name: [float(size)] for name, size in sizes.items() if size is not None}, detail)


PASS = Pass(
    "memory",
    "resident, proportional, anonymous and peak memory by phase, and what is left after unloading",
    measure,
    ("prompt_lengths", "decode_tokens"),
    Rounds.ONE,
)
