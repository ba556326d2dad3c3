"""A multilayer perceptron in float64."""

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.mlp import MLP
from edgepress.exporter.model.parts.primitives import Rope


def forward(mlp: MLP, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    act = _xielu(mlp, model) if mlp.activation == "xielu" else ACTIVATIONS[mlp.activation]
    up = model.linear(mlp.up, x)
    inner = act(up) if mlp.gate is None else act(_gate(mlp, model.linear(mlp.gate, x))) * up
    return model.linear(mlp.down, model.norm(mlp.inner_norm, inner))


def _gate(mlp: MLP, gate: Array) -> Array:
    """The gate of each token, of which a share is left above mean + z · deviation where it is sparse."""
    gate = gate * mlp.gate_multiplier
    if not mlp.sparsity:
        return gate
    cutoff = gate.mean(-1) + NormalDist().inv_cdf(mlp.sparsity) * gate.std(-1)
    return np.maximum(gate - cutoff[:, None], 0)


def _xielu(mlp: MLP, model: Oracle) -> Callable[[Array], Array]:
    """With beta = 0.5 and, where expm1 is, at most eps = -1e-6, as transformers' class has it."""
    assert mlp.positive is not None
    assert mlp.negative is not None
    positive, negative = (float(np.log1p(np.exp(model.weight(w)))[0]) for w in (mlp.positive, mlp.negative))

    def xielu(x: Array) -> Array:
        bent = (np.expm1(np.minimum(x, -1e-6)) - x) * (0.5 + negative)
        return np.where(x > 0, positive * x * x, bent) + 0.5 * x

    return xielu


_erf = np.vectorize(math.erf)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
}
