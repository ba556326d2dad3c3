"""Memory by phase, in a process of its own: what loading, prefill, decoding and letting go of a bundle leave resident.

The bundle is opened and closed several times in one process: what grows from one time to the next has leaked.
"""

import gc
from dataclasses import asdict
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.memory import read_memory, reset_peak, trim_heap
from edgepress.runtime.model import Model
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import decode_steps, opening, prompt_of, tell
from edgepress.runtime.profile.system.android import read_memory_account
from edgepress.runtime.profile.system.room import available_bytes, read_control_group
from edgepress.states import state_bytes

_REPEATS = 5


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Read memory after each phase, ``_REPEATS`` times over."""
    how = opening(arguments)
    for repeat in range(_REPEATS):
        _tell("before load", repeat)
        model, _ = how.open()
        _tell("loaded", repeat)
        for length in sorted(arguments["prompt_lengths"]):
            model.reset()
            logits = model.prefill(prompt_of(model, length))
            _tell("prefilled", repeat, model)
        decode_steps(model, logits, arguments["decode_tokens"])
        _tell("decoded", repeat, model, services=repeat == 0)
        del model, logits
        gc.collect()
        trim_heap()
        _tell("unloaded", repeat)
    return {}, {}


def _tell(phase: str, repeat: int, model: Model | None = None, *, services: bool = False) -> None:
    """Read and send; ``model`` where it holds a text, ``services`` lets Android's own account be read too, slowly."""
    memory = read_memory()
    sizes = {
        "rss_bytes": memory.rss,
        "pss_bytes": memory.pss,
        "anonymous_bytes": memory.anonymous,
        "file_bytes": None if memory.rss is None or memory.anonymous is None else memory.rss - memory.anonymous,
        "peak_rss_bytes": memory.peak_rss,
    }
    group, tokens = read_control_group(), 0 if model is None else model.session.position
    detail = {
        "repeat": repeat,
        "tokens": tokens,
        "control_group": None if group is None else asdict(group),
        "available_bytes": available_bytes(),
    }
    if model is not None:
        detail["state_bytes"] = state_bytes(model.config.states, tokens)
    if services:
        detail["android"] = read_memory_account()
    # the peak is since the last phase, where the system lets a process forget it, else since the process began
    detail["peak_since_phase"] = reset_peak()
    tell(phase, {name: [float(size)] for name, size in sizes.items() if size is not None}, detail)


PASS = Pass(
    "memory",
    "resident, proportional, anonymous and peak memory by phase, and what is left after unloading",
    measure,
    ("prompt_lengths", "decode_tokens"),
    Rounds.ONE,
)
