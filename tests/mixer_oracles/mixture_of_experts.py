"""A mixture of experts in float64, a token and an expert at a time."""

from collections.abc import Mapping

import numpy as np
from oracles_decoder import Array, Oracle

from edgepress.exporter.model.mixers.mixture_of_experts import SQUARED_RELU, MixtureOfExperts
from edgepress.exporter.model.parts.primitives import Rope


def forward(moe: MixtureOfExperts, model: Oracle, x: Array, _ropes: Mapping[str, Rope]) -> Array:
    """(length, hidden) → (length, hidden)."""
    logits = model.linear(moe.router, x)
    correction = np.zeros(len(moe.experts)) if moe.correction is None else model.weight(moe.correction).reshape(-1)
    y = np.zeros_like(x)
    for token, row in enumerate(logits):
        for number, weight in _chosen(moe, row, correction):
            expert = moe.experts[number]
            inner = model.linear(expert.gate_up, x[token : token + 1])
            y[token] += weight * model.linear(expert.down, _glu(moe, inner))[0]
    if moe.shared is not None:
        up = model.linear(moe.shared.up, x)
        if moe.shared.gate is None:
            inner = np.maximum(up, 0) ** 2
        else:
            gate = model.linear(moe.shared.gate, x)
            inner = gate / (1 + np.exp(-gate)) * up
        common = model.linear(moe.shared.down, inner)
        share = 1.0 if moe.shared.share is None else 1 / (1 + np.exp(-model.linear(moe.shared.share, x)))
        y += share * common
    return y


def _glu(moe: MixtureOfExperts, inner: Array) -> Array:
    limit = np.inf if moe.limit is None else moe.limit
    gate, up = np.minimum(inner[:, 0::2], limit), np.clip(inner[:, 1::2], -limit, limit)
    if moe.alpha == SQUARED_RELU:
        return np.maximum(up, 0) ** 2
    return gate / (1 + np.exp(-moe.alpha * gate)) * (up + moe.beta)


def _chosen(moe: MixtureOfExperts, logits: Array, correction: Array) -> list[tuple[int, float]]:
    """Numbers and weights of the experts of one token."""
    routing = moe.routing
    if routing.scores == "sparsemixer":
        return _mixed(routing.margin, logits)
    raised = np.exp(logits - logits.max())
    scores = raised / raised.sum() if routing.scores == "softmax" else 1 / (1 + np.exp(-logits))
    choice = scores + correction
    groups = np.array_split(np.arange(len(choice)), routing.groups)
    if routing.groups > 1:
        best = sorted(groups, key=lambda group: -np.sort(choice[group])[-routing.best_in_group :].sum())[
            : routing.chosen_groups
        ]
        allowed = np.isin(np.arange(len(choice)), np.concatenate(best))
        choice = np.where(allowed, choice, -np.inf)
    chosen = np.argsort(-choice, kind="stable")[: routing.count]
    total = scores[chosen].sum() + routing.epsilon if routing.normalized else 1.0
    return [(int(number), float(routing.factor * scores[number] / total)) for number in chosen]


def _mixed(margin: float, logits: Array) -> list[tuple[int, float]]:
    """Two experts, each weighted among those that are left and near it."""
    found: list[tuple[int, float]] = []
    left = list(range(len(logits)))
    for _ in range(2):
        best = max(left, key=lambda number: logits[number])
        most = logits[best]
        near = [number for number in left if (most - logits[number]) / max(abs(logits[number]), most) <= margin]
        found.append((best, float(1 / np.exp(logits[near] - most).sum())))
        left.remove(best)
    return found
