"""Where a token's time goes: nodes of the graph, timed by onnxruntime's own profiler, in a pass of its own.

The profiler makes small nodes look dearer than they are (it takes about a microsecond itself), so these are shares,
not speeds. Of repeated calls the fastest time of each node is kept.
"""

import tempfile
from pathlib import Path
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.config import read_config
from edgepress.runtime.counting.operators import PER_MICROSECOND, fewest, read_profile
from edgepress.runtime.model import Model
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import opening, prompt_of, tell
from edgepress.runtime.sessions.cpu import CpuSession

_REPEATS = 8


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Prefill the longest prompt once after a warm-up, then decode; tell the microseconds of each node."""
    how = opening(arguments)
    config = read_config(Path(how.bundle), how.graph)
    with tempfile.TemporaryDirectory(prefix="edgepress-profile-") as folder:
        session = CpuSession(
            config,
            threads=how.cores_used,
            context=how.context,
            prepared=how.prepared,
            prefill_chunk=max(arguments["prompt_lengths"]),
            profile=Path(folder) / "profile",
        )
        model = Model(config, session)
        prompt = prompt_of(model, max(arguments["prompt_lengths"]))
        for _ in range(2):
            model.reset()
            logits = model.prefill(prompt)
        for _ in range(min(_REPEATS, arguments["decode_tokens"])):
            logits = model.decode(int(logits.argmax()))
        runs = read_profile(session.end_profile())
    _tell("prefill", runs[1:2], len(prompt))
    _tell("decode", runs[3:] or runs[2:], len(prompt))  # the first step warms up, where there is another
    return {}, {}


def _tell(what: str, runs: list[Any], length: int) -> None:
    nodes = fewest(runs)
    detail = {"length": length, "nodes": [node.node for node in nodes], "operators": [node.operator for node in nodes]}
    tell(what, {"node_microseconds": [node.instructions / PER_MICROSECOND for node in nodes]}, detail)


PASS = Pass(
    "operators",
    "time of each node of the graph, in prefill and decode",
    measure,
    ("prompt_lengths", "decode_tokens"),
    Rounds.ONE,
)
