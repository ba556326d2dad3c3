"""A mixture of experts gated by gelu in float64, a token and an expert at a time."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.gelu_experts import GeluExperts
from edgepress.exporter.model.parts.primitives import Rope
from mixer_oracles.mlp import ACTIVATIONS


def forward(moe: GeluExperts, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    logits = model.linear(moe.router, x * model.weight(moe.router_gain) / np.sqrt(x.shape[1]))
    scales, tokens, y = model.weight(moe.expert_scale), x * model.weight(moe.gain), np.zeros_like(x)
    for token, row in enumerate(logits):
        raised = np.exp(row - row.max())
        chosen = np.argsort(-row, kind="stable")[: moe.routing.count]
        for number in chosen:
            expert = moe.experts[number]
            gate, up = np.split(model.linear(expert.gate_up, tokens[token : token + 1]), 2, axis=1)
            share = raised[number] / raised[chosen].sum() * scales[number]
            y[token] += share * model.linear(expert.down, ACTIVATIONS["gelu_tanh"](gate) * up)[0]
    return y
