"""A layer's inputs beside the stream, gated by it, in float64."""

from collections.abc import Mapping

from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.per_layer_input import PerLayerInput
from edgepress.exporter.model.parts.primitives import Rope
from mixer_oracles.mlp import ACTIVATIONS


def forward(mixer: PerLayerInput, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    gate = ACTIVATIONS["gelu_tanh"](model.linear(mixer.gate, x))
    return model.linear(mixer.output, gate * model.per_layer[:, mixer.first : mixer.side])
