"""A mixture of experts (Shazeer et al. 2017): each token goes through the few gated MLPs that a router chooses for it.

The router's product and the choice are computed in float32 and its weight is never rounded: an error there is another
expert. The experts are one node of onnxruntime, ``QMoE`` where their weights are codes and ``MoE`` where they are
floats, both of which read all of a layer's experts as one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import CONTRIB, GraphWriter, MixerKind, Stacked
from edgepress.exporter.model.parts.primitives import Linear, Source, Weight
from edgepress.exporter.model.parts.tree import every

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, Values

_FLOAT_BITS = 32
_LEAST = float(np.finfo(np.float32).tiny)
SQUARED_RELU = 2.0**14
"""The ``alpha`` of experts without a gate, which have the same rows as gate and up: x · sigmoid(alpha · x) · x is
relu(x)² to within 0.55 / alpha², 2e-9. The kernels have no squared relu."""


@dataclass(frozen=True, kw_only=True)
class Expert:
    """``down(glu(gate_up(x)))``: row 2 i of ``gate_up`` is row i of the gate, row 2 i + 1 that of up."""

    gate_up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True)
class Shared:
    """An MLP for every token, ``down(silu(gate(x)) · up(x))``, times ``sigmoid(share(x))`` where there is one.

    Without a gate it is ``down(relu(up(x))²)``.
    """

    gate: Linear | None
    up: Linear
    share: Linear | None = None
    down: Linear


@dataclass(frozen=True, kw_only=True)
class Routing:
    """How experts are chosen and weighted, by the router's logits.

    ``scores`` says what becomes of them; the ``count`` experts of the greatest scores are chosen, with a correction
    (:attr:`MixtureOfExperts.correction`) of the greatest sums of both; and with ``groups`` only among the experts of
    the ``chosen_groups`` whose ``best_in_group`` add up to most (DeepSeek-AI 2024, V3, section 2.1.2). Weights are the
    scores, ``normalized`` ones divided by their sum plus ``epsilon``, times ``factor``.

    ``sparsemixer`` (Liu et al. 2024, arXiv:2409.12136) chooses one after the other, each time the greatest logit m that
    is left: its weight is its share of the softmax of those that are left with (m − s) / max(|s|, m) up to ``margin``.
    """

    count: int
    scores: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    normalized: bool = True
    epsilon: float = 0.0
    factor: float = 1.0
    groups: int = 1
    chosen_groups: int = 1
    best_in_group: int = 2
    margin: float = 0.0


@dataclass(frozen=True, kw_only=True)
class MixtureOfExperts(Mixer):
    """``Σ wₑ(x) · expertₑ(x) + shared(x)``.

    Inside an expert ``glu(g, u) = g · sigmoid(alpha · g) · (u + beta)``, with g at most ``limit`` and u within ± it.
    With :data:`SQUARED_RELU` for ``alpha`` it has no gate.
    """

    ends_in_sum: ClassVar[bool] = True
    scaled_by_token: ClassVar[bool] = True
    no_static_form: ClassVar[str] = "which experts compute is known when it runs, and compilers would compute them all"
    keeps_hidden: ClassVar[str] = "its experts are stored in stacks"
    router: Linear
    correction: Weight | None = None
    experts: tuple[Expert, ...]
    shared: Shared | None = None
    routing: Routing
    alpha: float = 1.0
    beta: float = 0.0
    limit: float | None = None

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`; what goes into an expert are its own tokens, so that each has groups of its own."""
        found: list[tuple[Linear, ...]] = [(self.router,)]
        for expert in self.experts:
            found += [(expert.gate_up,), (expert.down,)]
        if self.shared is not None:
            found += [_inputs(self.shared), (self.shared.down,)]
        return tuple(found)

    def rounds(self) -> tuple[int, ...]:
        """See :class:`Mixer`: no expert reads what another one gives."""
        return (0, *(1, 2) * len(self.experts), *(() if self.shared is None else (1, 2)))

    def taken(self) -> float:
        """See :class:`Mixer`: of the experts, those that are chosen."""
        inside = sum(prod(weight.shape) for weight in every(Weight, self.experts))
        return super().taken() - inside * (1 - self.routing.count / len(self.experts))

    @property
    def input_projections(self) -> tuple[Linear, ...]:
        """See :class:`Mixer`."""
        inside = tuple(expert.gate_up for expert in self.experts)
        return (self.router, *inside, *(() if self.shared is None else _inputs(self.shared)))

    @property
    def output_projections(self) -> tuple[Linear, ...]:
        """See :class:`Mixer`."""
        inside = tuple(expert.down for expert in self.experts)
        return (*inside, *(() if self.shared is None else (self.shared.down,)))

    def source(self) -> Source | str:
        """See :class:`Mixer`."""
        return "each expert has an input of its own there"

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return self.routing, self.alpha, self.beta, self.limit


def _inputs(shared: Shared) -> tuple[Linear, ...]:
    return tuple(linear for linear in (shared.gate, shared.up, shared.share) if linear is not None)


# ---- torch ----------------------------------------------------------------------------------------------------------


def steps(moe: MixtureOfExperts, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch; into the projections of an expert goes (1, its tokens, columns), which may be none."""
    import torch
    from torch.nn import functional

    from edgepress.exporter.model.operations import project

    (logits,) = yield from project((moe.router,), values, x)
    correction = None if moe.correction is None else values(moe.correction)
    weights, chosen = route(moe.routing, logits.reshape(-1, len(moe.experts)), correction)
    tokens = x.reshape(-1, x.shape[-1])
    y = torch.zeros_like(tokens)
    for index, expert in enumerate(moe.experts):
        mine, place = torch.where(chosen == index)
        (inner,) = yield from project((expert.gate_up,), values, tokens[mine][None])
        (inner,) = yield from project((expert.down,), values, glu(moe, inner))
        y = y.index_add(0, mine, inner[0] * weights[mine, place, None])
    y = y.reshape(x.shape)
    if moe.shared is None:
        return y
    projected = yield from project(_inputs(moe.shared), values, x)
    share = None if moe.shared.share is None else projected.pop()
    inner = functional.relu(projected[0]).square() if moe.shared.gate is None else _gated(*projected)
    (common,) = yield from project((moe.shared.down,), values, inner)
    return y + (common if share is None else common * torch.sigmoid(share))


def _gated(gate: Tensor, up: Tensor) -> Tensor:
    from torch.nn import functional

    return functional.silu(gate) * up


def route(routing: Routing, logits: Tensor, correction: Tensor | None) -> tuple[Tensor, Tensor]:
    """Logits (tokens, experts) → weights and numbers of the experts that are chosen, (tokens, count) each."""
    import torch

    if routing.scores == "sparsemixer":
        return _mixed(routing, logits)
    scores = logits.softmax(-1) if routing.scores == "softmax" else logits.sigmoid()
    choice = scores if correction is None else scores + correction
    if routing.groups > 1:
        by_group = choice.reshape(len(choice), routing.groups, -1)
        sums = by_group.topk(routing.best_in_group, dim=-1)[0].sum(-1)  # (tokens, groups)
        left_out = torch.full_like(sums, -torch.inf).scatter(1, sums.topk(routing.chosen_groups, dim=-1)[1], 0.0)
        choice = (by_group + left_out[..., None]).reshape(choice.shape)
    chosen = choice.topk(routing.count, dim=-1)[1]
    weights = scores.gather(1, chosen)
    if routing.normalized:
        weights = weights / (weights.sum(-1, keepdim=True) + routing.epsilon)
    return weights * routing.factor, chosen


def _mixed(routing: Routing, logits: Tensor) -> tuple[Tensor, Tensor]:
    """SparseMixer's choice, see :class:`Routing`."""
    import torch

    left = logits
    weights, chosen = [], []
    for _ in range(routing.count):
        most, place = left.max(-1, keepdim=True)
        far = (most - logits) / logits.abs().maximum(most) > routing.margin
        weights.append(left.masked_fill(far, -torch.inf).softmax(-1).gather(-1, place))
        chosen.append(place)
        left = left.scatter(-1, place, -torch.inf)
    return torch.cat(weights, -1), torch.cat(chosen, -1)


def glu(moe: MixtureOfExperts, inner: Tensor) -> Tensor:
    """What goes into an expert's ``down``, from gate and up by turns."""
    import torch

    gate, up = inner[..., 0::2], inner[..., 1::2]
    if moe.limit is not None:
        gate, up = gate.clamp(max=moe.limit), up.clamp(-moe.limit, moe.limit)
    return gate * torch.sigmoid(moe.alpha * gate) * (up + moe.beta)


# ---- graph ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Routed:
    """Inputs of the node that say which experts compute, (tokens, experts), and what is left to multiply with.

    Experts are chosen by ``probs``. Without ``weights`` the node takes their softmax for weights; what it takes is
    divided by its sum over the chosen ones where it is ``normalized``.
    """

    probs: str
    weights: str
    normalized: bool
    factors: tuple[str, ...]


def write(moe: MixtureOfExperts, g: GraphWriter, name: str, x: str, _states: Sequence[tuple[str, str]]) -> str:
    """All of it in float32, as a router in float16 would choose other experts.

    ::

        x ─┬ router ─ (scores, choice) ─┐
           ├────────────────────────────┴ QMoE or MoE ─ (Mul) ─┐
           └ gate, up ─ Mul ─ down ─ (Mul sigmoid(share)) ─────┴ Add
    """
    with g.in_half(False):
        gate_up = g.stack([expert.gate_up for expert in moe.experts])
        down = g.stack([expert.down for expert in moe.experts])
        y = _experts(moe, g, name, x, gate_up=gate_up, down=down)
        return y if moe.shared is None else g.node("Add", [y, _shared(moe.shared, g, f"{name}.shared", x)], f"{name}.y")


def _experts(moe: MixtureOfExperts, g: GraphWriter, name: str, x: str, *, gate_up: Stacked, down: Stacked) -> str:
    in_codes = gate_up.bits < _FLOAT_BITS
    routed = _route(moe, g, name, g.linear(moe.router, x), in_codes=in_codes)
    attributes: dict[str, int | float | str] = {
        "k": moe.routing.count,
        "activation_type": "swiglu",
        "swiglu_fusion": 1,  # gate and up take turns: the CPU has no kernel for other orders
        "activation_alpha": moe.alpha,
        "activation_beta": moe.beta,
        "normalize_routing_weights": int(routed.normalized),
        **({} if moe.limit is None else {"swiglu_limit": moe.limit}),
    }
    if in_codes:
        inputs = [x, routed.probs, gate_up.weights, gate_up.scales, gate_up.bias, down.weights, down.scales, down.bias]
        inputs += ["", "", "", gate_up.zero_points, down.zero_points, "", routed.weights]
        attributes |= {
            "expert_weight_bits": gate_up.bits,
            "block_size": gate_up.block_size,
            "accuracy_level": g.accuracy_level,
        }
    else:
        inputs = [x, routed.probs, gate_up.weights, gate_up.bias, down.weights, down.bias]
    while not inputs[-1]:
        inputs.pop()
    op = "QMoE" if in_codes else "MoE"
    y = g.node(op, inputs, f"{name}.routed", domain=CONTRIB, more_outputs=(), **attributes)
    for number, factor in enumerate(routed.factors):
        y = g.node("Mul", [y, factor], f"{name}.scaled.{number}")
    return y


def _route(moe: MixtureOfExperts, g: GraphWriter, name: str, logits: str, *, in_codes: bool) -> _Routed:
    """What :func:`route` computes, in the form that the node takes.

    ``MoE`` has to normalize: without, it computes zeros in onnxruntime 1.31 where its output takes the place of its
    input in memory. What that divides by is multiplied with again.
    """
    routing = moe.routing
    if routing.scores == "sparsemixer":
        return _mix(moe, g, name, logits, in_codes=in_codes)
    is_plain = routing.scores == "softmax" and moe.correction is None and routing.groups == 1
    factors: list[str] = []
    if routing.factor != 1.0:
        factors.append(g.constant(f"routing_factor_{routing.factor:.9g}", np.array(routing.factor, np.float32)))
    if is_plain and routing.normalized and not routing.epsilon:  # what both operators do themselves
        return _Routed(_by_token(moe, g, logits, name), "", normalized=True, factors=tuple(factors))
    scores = g.node("Softmax" if routing.scores == "softmax" else "Sigmoid", [logits], f"{name}.scores")
    choice = scores
    if moe.correction is not None:
        choice = g.node("Add", [scores, g.weight(moe.correction)], f"{name}.corrected")
    if routing.groups > 1:
        choice = _within_groups(moe, g, name, choice)
    probs = weights = ""
    if in_codes:
        probs, weights = choice, _by_token(moe, g, scores, f"{name}.weights")
    if routing.epsilon or not in_codes:
        count = g.constant(f"experts_{routing.count}", np.array([routing.count], np.int64))
        places = f"{name}.chosen"
        g.node("TopK", [choice, count], f"{name}.chosen_scores", more_outputs=[places], axis=-1)
        chosen = g.node("GatherElements", [scores, places], f"{name}.chosen_weights", axis=2)
        factors += _of_total(routing, g, name, chosen)
        probs = probs or (logits if is_plain else _as_logits(g, name, choice, places, chosen))
    return _Routed(
        _by_token(moe, g, probs, f"{name}.probs"),
        weights,
        normalized=routing.normalized or not in_codes,
        factors=tuple(factors),
    )


def _mix(moe: MixtureOfExperts, g: GraphWriter, name: str, logits: str, *, in_codes: bool) -> _Routed:
    """SparseMixer's choice, as :func:`_mixed` computes it.

    ::

        logits ─┬ TopK ─ values, places
                ├ ScatterElements(−∞ at the places before) ─ Where(far, −∞) ─ Softmax ─ ReduceMax ─ Concat
                └ Abs ─ Max(value) ─ Div(value − logits) ─ Greater(margin) ─┘
    """
    routing = moe.routing
    nothing = g.constant("minus_infinity", np.array(-np.inf, np.float32))
    margin = g.constant(f"margin_{routing.margin:.9g}", np.array(routing.margin, np.float32))
    axis = g.constant("slice_2", np.array([2], np.int64))
    count = g.constant(f"experts_{routing.count}", np.array([routing.count], np.int64))
    places = f"{name}.chosen"
    values = g.node("TopK", [logits, count], f"{name}.chosen_logits", more_outputs=[places], axis=-1)
    size, left, weights = g.node("Abs", [logits], f"{name}.sizes"), logits, []
    for number in range(routing.count):
        one = f"{name}.{number}"
        first, last = (g.constant(f"number_{end}", np.array([end], np.int64)) for end in (number, number + 1))
        most = g.node("Slice", [values, first, last, axis], f"{one}.most")
        apart = g.node("Sub", [most, logits], f"{one}.apart")
        share = g.node("Div", [apart, g.node("Max", [size, most], f"{one}.size")], f"{one}.share")
        far = g.node("Greater", [share, margin], f"{one}.far")
        near = g.node("Where", [far, nothing, left], f"{one}.near")
        shares = g.node("Softmax", [near], f"{one}.shares")
        weights.append(g.node("ReduceMax", [shares, axis], f"{one}.weight", keepdims=1))
        place = g.node("Slice", [places, first, last, axis], f"{one}.place")
        gone = g.node("Expand", [nothing, g.node("Shape", [place], f"{one}.shape")], f"{one}.nothing")
        left = g.node("ScatterElements", [left, place, gone], f"{one}.left", axis=2)
    chosen = g.node("Concat", weights, f"{name}.chosen_weights", axis=2)
    if not in_codes:
        probs = _as_logits(g, name, logits, places, chosen)
        total = _of_total(routing, g, name, chosen)
        return _Routed(_by_token(moe, g, probs, f"{name}.probs"), "", normalized=True, factors=tuple(total))
    none = g.node("Sub", [logits, logits], f"{name}.no_weights")
    scattered = g.node("ScatterElements", [none, places, chosen], f"{name}.weights", axis=2)
    return _Routed(
        _by_token(moe, g, logits, name),
        _by_token(moe, g, scattered, f"{name}.weights"),
        normalized=False,
        factors=(),
    )


def _of_total(routing: Routing, g: GraphWriter, name: str, chosen: str) -> list[str]:
    """What weights are to be multiplied with that were divided by their sum, (batch, sequence, 1)."""
    total = g.node("ReduceSum", [chosen, g.constant("slice_2", np.array([2], np.int64))], f"{name}.total", keepdims=1)
    if not routing.normalized:
        return [total]
    if not routing.epsilon:
        return []
    epsilon = g.constant(f"epsilon_{routing.epsilon:.9g}", np.array(routing.epsilon, np.float32))
    more = g.node("Add", [total, epsilon], f"{name}.total_and_epsilon")
    return [g.node("Div", [total, more], f"{name}.share_of_total")]


def _as_logits(g: GraphWriter, name: str, choice: str, places: str, chosen: str) -> str:
    """Logits whose softmax are the chosen weights over their sum: their logarithms, −∞ for the other experts.

    ::

        choice ─ Shape ─ Expand(−∞) ─────┬ ScatterElements
        chosen ─ Max(least) ─ Log ───────┘
    """
    least = g.constant("tiny", np.array(_LEAST, np.float32))
    logs = g.node("Log", [g.node("Max", [chosen, least], f"{name}.positive")], f"{name}.logs")
    nothing = g.constant("minus_infinity", np.array(-np.inf, np.float32))
    empty = g.node("Expand", [nothing, g.node("Shape", [choice], f"{name}.shape")], f"{name}.none")
    return g.node("ScatterElements", [empty, places, logs], f"{name}.log_weights", axis=2)


def _within_groups(moe: MixtureOfExperts, g: GraphWriter, name: str, choice: str) -> str:
    """The choice with −∞ for the experts of the groups that are left out, (batch, sequence, experts).

    ::

        choice ─ Reshape ┬ TopK ─ ReduceSum ─ TopK ─ ScatterElements(0 into −∞) ┬ Add ─ Reshape
                         └──────────────────────────────────────────────────────┘
    """
    routing = moe.routing
    size = len(moe.experts) // routing.groups

    def count(number: int) -> str:
        return g.constant(f"experts_{number}", np.array([number], np.int64))

    apart = g.constant(f"groups_{routing.groups}_of_{size}", np.array([0, 0, routing.groups, size], np.int64))
    flat = g.constant(f"flat_{routing.groups * size}", np.array([0, 0, routing.groups * size], np.int64))
    by_group = g.node("Reshape", [choice, apart], f"{name}.by_group")
    best = f"{name}.best_experts"
    g.node("TopK", [by_group, count(routing.best_in_group)], best, more_outputs=[f"{best}.places"], axis=-1)
    axis = g.constant("axis_3", np.array([3], np.int64))
    sums = g.node("ReduceSum", [best, axis], f"{name}.group_sums", keepdims=0)  # (batch, sequence, groups)
    places = f"{name}.best_groups"
    g.node("TopK", [sums, count(routing.chosen_groups)], f"{name}.best_sums", more_outputs=[places], axis=-1)
    nothing = g.constant("minus_infinity", np.array(-np.inf, np.float32))
    zero = g.constant("zero_float", np.array(0, np.float32))
    out = g.node("Expand", [nothing, g.node("Shape", [sums], f"{name}.groups_shape")], f"{name}.no_groups")
    zeros = g.node("Expand", [zero, g.node("Shape", [places], f"{name}.best_shape")], f"{name}.chosen_groups")
    left_out = g.node("ScatterElements", [out, places, zeros], f"{name}.left_out", axis=2)
    mask = g.node("Unsqueeze", [left_out, axis], f"{name}.group_mask")
    return g.node("Reshape", [g.node("Add", [by_group, mask], f"{name}.masked"), flat], f"{name}.in_groups")


def _by_token(moe: MixtureOfExperts, g: GraphWriter, x: str, name: str) -> str:
    """(batch, sequence, experts) → (tokens, experts)."""
    shape = g.constant(f"tokens_of_{len(moe.experts)}", np.array([-1, len(moe.experts)], np.int64))
    return g.node("Reshape", [x, shape], f"{name}.by_token")


def _shared(shared: Shared, g: GraphWriter, name: str, x: str) -> str:
    up = g.linear(shared.up, x)
    if shared.gate is None:
        opened = up = g.node("Relu", [up], f"{name}.act")
    else:
        opened = g.node("QuickGelu", [g.linear(shared.gate, x)], f"{name}.act", domain=CONTRIB, alpha=1.0)  # silu
    y = g.linear(shared.down, g.node("Mul", [opened, up], f"{name}.mixed"), normed=False)
    if shared.share is None:
        return y
    share = g.node("Sigmoid", [g.linear(shared.share, x)], f"{name}.share")
    return g.node("Mul", [y, share], f"{name}.shared")


MIXER = MixerKind(MixtureOfExperts, steps=steps, write=write)
