"""Where time goes: nodes of the graph, timed by onnxruntime's own profiler, in a pass of its own.

The profiler makes small nodes look dearer than they are (it takes about a microsecond itself), so these are shares,
not speeds. Of repeated calls the fastest time of each node is kept.
"""

import tempfile
from pathlib import Path
from typing import Any

from edgepress.calls import Answer, Arrays
from edgepress.runtime.measures.counting.operators import PER_MICROSECOND, fewest
from edgepress.runtime.profile.passing import Pass, Rounds
from edgepress.runtime.profile.rounds import opening, tell
from edgepress.runtime.profile.workloads import find_kind
from edgepress.runtime.profile.workloads.workload import Timed


def measure(arguments: dict[str, Any], _arrays: Arrays) -> Answer:
    """Run each part of a turn once after a warm-up and more often where it is short; tell each node's microseconds."""
    how = opening(arguments)
    with tempfile.TemporaryDirectory(prefix="edgepress-profile-") as folder:
        for timed in find_kind(Path(how.bundle)).operators(how, Path(folder)):
            _tell(timed)
    return {}, {}


def _tell(timed: Timed) -> None:
    nodes, part = fewest(timed.runs), timed.part
    detail = {
        part.axis: timed.size,
        "nodes": [node.node for node in nodes],
        "operators": [node.operator for node in nodes],
    }
    tell(part.what, {"node_microseconds": [node.instructions / PER_MICROSECOND for node in nodes]}, detail)


PASS = Pass(
    "operators",
    "time of each node of the graph, in each part of a turn",
    measure,
    (),
    Rounds.ONE,
)
