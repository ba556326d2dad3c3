"""The scales of keys that a graph keeps as integers, as its attention has them: what moves keys has to know them."""

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import State
from edgepress.runtime.graph_file import protobuf as pb
from edgepress.runtime.graph_file.products import read_node, read_tensor

_ATTENTION, _KEY_SCALE, _KEYS = "GroupQueryAttention", 12, 1  # an input and an output of it (ContribOperators.md)
_FLOAT = 1  # TensorProto.DataType


def key_scales(path: Path, states: Iterable[State]) -> dict[str, NDArray[np.float32]]:
    """What each channel of integers is multiplied by, (1, heads, 1, channels), of each of ``states`` that is int8 keys.

    By its name; states whose scales the graph file does not say so are left out.
    """
    wanted = {state.output: state for state in states if state.type == "int8"}
    if not wanted:
        return {}
    graph = pb.parse(next(pb.all_bytes(pb.parse(path.read_bytes()), 7), b""))
    names: dict[str, State] = {}
    for node in (read_node(value) for value in pb.all_bytes(graph, 1)):
        if node.op == _ATTENTION and len(node.inputs) > _KEY_SCALE and node.outputs[_KEYS] in wanted:
            names[node.inputs[_KEY_SCALE]] = wanted[node.outputs[_KEYS]]
    found = {}
    for tensor in (read_tensor(value) for value in pb.all_bytes(graph, 5)):
        state = names.get(tensor.name)
        if state is not None and tensor.data_type == _FLOAT:
            _, heads, _, channels = state.sizes(0)
            if len(tensor.raw) == 4 * heads * channels == 4 * math.prod(tensor.shape):
                found[state.name] = np.frombuffer(tensor.raw, "<f4").reshape(1, heads, 1, channels)
    return found
