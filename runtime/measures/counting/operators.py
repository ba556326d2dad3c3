"""Which operators an onnxruntime session spends its time on, read from the profile that it writes itself.

On a machine that counts instructions the profile's clock counts them, too: a microsecond is 1,000 instructions. The
profile has whole microseconds, rounded down, so that half of one is added to each node: ± 500 instructions. What the
profiler itself takes within a node's time is measured in :mod:`edgepress.runtime.measures.counting.overhead`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from edgepress.errors import CheckFailed

PER_MICROSECOND = 1000  # instructions
_NODE, _RUN = "_kernel_time", "model_run"  # how names of events end, or what they are


@dataclass(frozen=True)
class Kernel:
    """One node in one run of a session, with the number of its inputs and outputs that the profile names."""

    node: str
    operator: str
    instructions: int
    inputs: int = 1
    outputs: int = 1


@dataclass(frozen=True)
class OperatorCost:
    """All nodes of one operator in one run: how many, and their instructions."""

    nodes: int
    instructions: int


class _Event(msgspec.Struct, frozen=True):
    """One event of the profile, in the trace event format; ``ts`` and ``dur`` are microseconds."""

    name: str
    ts: int
    dur: int
    args: dict[str, Any] = {}

    @property
    def end(self) -> int:
        return self.ts + self.dur


def read_profile(path: Path) -> list[list[Kernel]]:
    """The nodes of each run of a session, in the order of their starts, from the profile that it wrote.

    Raises:
        CheckFailed: the file is no profile.

    """
    try:
        return runs_of(msgspec.json.decode(path.read_bytes(), type=list[_Event]))
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckFailed(f"{path} is no profile of onnxruntime: {error}") from error


def runs_of(events: Sequence[_Event]) -> list[list[Kernel]]:
    """The nodes of each run. What runs inside of another node (an If, a Loop) is in that one's time."""
    runs = sorted((event for event in events if event.name == _RUN), key=lambda event: event.ts)
    # What is within a node is written before it, so that of two with the same time the later one is the outer one.
    nodes = [event for event in reversed(events) if event.name.endswith(_NODE) and "op_name" in event.args]
    outer = list(_outermost(sorted(nodes, key=lambda event: (event.ts, -event.dur))))
    found, first = [], 0
    for run in runs:
        while first < len(outer) and outer[first].ts < run.ts:  # before the first run: nothing that is asked for
            first += 1
        last = first
        while last < len(outer) and outer[last].end <= run.end:
            last += 1
        found.append([_kernel(event) for event in outer[first:last]])
        first = last
    return found


def _outermost(nodes: Iterable[_Event]) -> Iterator[_Event]:
    end = -1
    for event in nodes:
        if event.end > end or event.ts >= end:
            yield event
            end = max(end, event.end)


def _kernel(event: _Event) -> Kernel:
    instructions = event.dur * PER_MICROSECOND + PER_MICROSECOND // 2
    inputs, outputs = (len(event.args.get(name, "?")) for name in ("input_type_shape", "output_type_shape"))
    return Kernel(event.name.removesuffix(_NODE), str(event.args["op_name"]), instructions, inputs, outputs)


def fewest(repeats: Sequence[Sequence[Kernel]]) -> list[Kernel]:
    """Of repeated runs each node with the fewest instructions: without the kernel's timer, should that have come."""
    return [min(same, key=lambda kernel: kernel.instructions) for same in zip(*repeats, strict=True)]


def by_operator(kernels: Iterable[Kernel]) -> dict[str, OperatorCost]:
    """Nodes and instructions of each operator, the most expensive first."""
    counts, nodes = Counter[str](), Counter[str]()
    for kernel in kernels:
        counts[kernel.operator] += kernel.instructions
        nodes[kernel.operator] += 1
    return {name: OperatorCost(nodes[name], instructions) for name, instructions in counts.most_common()}
