"""What onnxruntime's profiler adds to the nodes that it writes down: measured on small graphs, to be taken off again.

A node's time in a profile ends after the profiler has put its shapes and the arena's state into words, which takes some
20,000 instructions, as many as a small kernel. A graph of many nodes that do next to nothing costs so many instructions
a node when nobody profiles it, and so many by its profile: the difference is the profiler's, by how many inputs and
outputs a node has. What is left is a node's kernel and all that a session does around it.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from time import perf_counter_ns
from typing import TYPE_CHECKING

import numpy as np

from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.products import value_info
from edgepress.runtime.measures.counting.operators import Kernel, fewest, read_profile
from edgepress.sessions import open_on_cpu, session_options

if TYPE_CHECKING:
    from onnxruntime import SessionOptions

_FEW, _MANY, _REPEATS = 4, 36, 3  # nodes, and runs after a first one
_ODD = 3  # inputs or outputs of the graphs that have more than one
_SHAPE = (1, 1, 6)  # as activations have it, of three parts
_FLOAT = 1  # TensorProto.DataType
_OPSET, _IR = 18, 8


@dataclass(frozen=True)
class Overhead:
    """Instructions that a profile adds to a node, by its inputs and outputs."""

    one_of_each: float
    each_input: float
    each_output: float

    def taken_off(self, kernel: Kernel) -> int:
        """A node's instructions without the profiler's."""
        more = self.each_input * (kernel.inputs - 1) + self.each_output * (kernel.outputs - 1)
        return round(kernel.instructions - self.one_of_each - more)


def measure_overhead() -> Overhead:
    """Measure it on the machine that this is called on, whose clock counts instructions."""
    one, inputs, outputs = (_added(partial(_graph, *of)) for of in ((1, 1), (_ODD, 1), (1, _ODD)))
    return Overhead(one, (inputs - one) / (_ODD - 1), (outputs - one) / (_ODD - 1))


def _added(graph: Callable[[int], bytes]) -> float:
    """What a profile adds to each node of a graph that has as many alike as it is asked for."""
    few, many = (_run(graph(nodes)) for nodes in (_FEW, _MANY))
    with tempfile.TemporaryDirectory() as folder:
        kernels = _profile(graph(_MANY), Path(folder) / "profile")
    return mean(kernel.instructions for kernel in kernels) - (many - few) / (_MANY - _FEW)


def _run(model: bytes) -> int:
    """Instructions of one run, the fewest of several."""
    session, feeds, found = open_on_cpu(model, _options()), {"x": np.ones(_SHAPE, np.float32)}, []
    for _ in range(1 + _REPEATS):
        start = perf_counter_ns()
        session.run(["y"], feeds)
        found.append(perf_counter_ns() - start)
    return min(found)


def _profile(model: bytes, prefix: Path) -> list[Kernel]:
    options = _options()
    options.enable_profiling, options.profile_file_prefix = True, str(prefix)
    session = open_on_cpu(model, options)
    for _ in range(1 + _REPEATS):
        session.run(["y"], {"x": np.ones(_SHAPE, np.float32)})
    return fewest(read_profile(Path(session.end_profiling()))[1:])


def _options() -> "SessionOptions":
    """One thread, and nodes that nobody reads are not left out."""
    import onnxruntime

    options = session_options(1)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _graph(inputs: int, outputs: int, nodes: int) -> bytes:
    """x (1, 1, 6) → y by the first of ``nodes`` alike: sums of so many times x, or x split into parts."""
    operator, attributes = "Sum", []
    if outputs > 1:
        split = [pb.text(1, "num_outputs"), pb.integer(3, outputs), pb.integer(20, 2)]
        axis = [pb.text(1, "axis"), pb.integer(3, -1), pb.integer(20, 2)]
        operator, attributes = "Split", [pb.nested(5, split), pb.nested(5, axis)]
    graph = [pb.text(2, "overhead"), value_info(11, "x", _FLOAT, _SHAPE), value_info(12, "y", _FLOAT)]
    for node in range(nodes):
        names = ["y" if (node, output) == (0, 0) else f"{node}/{output}" for output in range(outputs)]
        read, given = [pb.text(1, "x")] * inputs, [pb.text(2, name) for name in names]
        graph.append(pb.nested(1, [*read, *given, pb.text(3, str(node)), pb.text(4, operator), *attributes]))
    opset = [pb.text(1, ""), pb.integer(2, _OPSET)]
    return pb.serialize([pb.integer(1, _IR), pb.nested(8, opset), pb.nested(7, graph)])
