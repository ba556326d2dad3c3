"""What the node that makes a value says of its tokens: rounding all of them by one range goes by it."""

from collections.abc import Mapping

import onnx

from edgepress.onnx_graph.walk import normal_domain

_NORMS = (
    *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
    *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"),
)
_ATTENTION = ("Attention", "GroupQueryAttention", "MultiHeadAttention")
_MOVES = ("Identity", "Dropout", "Reshape", "Transpose")
_LOWEST = {  # what activations do not give less than; gelu's least is −0.16997, by tanh −0.17004
    **dict.fromkeys(("Relu", "Sigmoid", "Softplus", "HardSigmoid"), 0.0),
    **dict.fromkeys(("Gelu", "BiasGelu", "FastGelu"), -0.1701),
}
Makers = Mapping[str, onnx.NodeProto]


def are_alike(name: str, makers: Makers) -> bool:
    """Whether the tokens of a value are alike in size: they leave a norm, or are means of others by attention."""
    node = _maker(name, makers)
    if node is None:
        return False
    if node.op_type == "MatMul":
        scores = _maker(node.input[0], makers)
        return scores is not None and scores.op_type == "Softmax"
    return node.op_type in (*_NORMS, *_ATTENTION)


def lowest(name: str, makers: Makers) -> float | None:
    """What no number of a value is below, None where its maker does not say it."""
    node = _maker(name, makers)
    return None if node is None else _LOWEST.get(node.op_type)


def _maker(name: str, makers: Makers) -> onnx.NodeProto | None:
    """The node that computes a value, past those that only move numbers."""
    node = makers.get(name)
    while node is not None and node.op_type in _MOVES and not normal_domain(node.domain):
        node = makers.get(node.input[0])
    return node
