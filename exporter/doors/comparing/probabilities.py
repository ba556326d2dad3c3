"""Outputs that are probabilities: float32 holds them to its rounding at one, however near to nothing they are.

A sigmoid of -16 is 1.1e-7, and kernels compute it from values near a half: its error is one of these, not of the
result. A detector that sees nothing gives such values alone, and no two orders of sums agree on their digits.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx

ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""What a probability may differ by, whatever its size: a few roundings at one."""

_PROBABILITIES = ("Sigmoid", "Softmax", "HardSigmoid")
_MOVES = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Split", "Cast")


def least_sizes(model: onnx.ModelProto, names: Sequence[str], tolerance: float) -> list[float]:
    """The size that each output counts with at least where a difference may be ``tolerance`` of the largest value.

    Nothing for outputs that are no probabilities.
    """
    made = {output: node for node in model.graph.node for output in node.output}
    return [ROUNDING / tolerance if _is_probability(name, made) else 0.0 for name in names]


def _is_probability(name: str, made: Mapping[str, onnx.NodeProto]) -> bool:
    """Whether a value comes from a sigmoid or softmax, moved at most."""
    node = made.get(name)
    while node is not None and not node.domain and node.op_type in _MOVES:
        node = made.get(node.input[0])
    return node is not None and not node.domain and node.op_type in _PROBABILITIES
