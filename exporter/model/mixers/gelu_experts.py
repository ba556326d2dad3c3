"""A mixture of experts gated by gelu, whose router reads the stream by gains of its own (Gemma 4, Google 2026).

onnxruntime's operators of experts have gates of silu alone, so each expert is two products here, over the tokens that
come to it: of one that is chosen by none, they have no rows and cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import GraphWriter, MixerKind
from edgepress.exporter.model.mixers.mixture_of_experts import Routing, route
from edgepress.exporter.model.parts.primitives import Linear, Source, Weight

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, Values


@dataclass(frozen=True, kw_only=True)
class GeluExpert:
    """``down(gelu(g) · u)``, where ``gate_up(x)`` is g and then u; gelu by its tanh formula."""

    gate_up: Linear
    down: Linear


@dataclass(frozen=True, kw_only=True)
class GeluExperts(Mixer):
    """``Σ wₑ · scaleₑ · expertₑ(gain · x)`` over the experts that ``router(router_gain · x) / √hidden`` chooses.

    Gains have a number for each channel, ``expert_scale`` one for each expert. ``routing`` gives the weights wₑ.
    """

    ends_in_sum: ClassVar[bool] = True
    scaled_by_token: ClassVar[bool] = True
    scales_input: ClassVar[bool] = True
    no_static_form: ClassVar[str] = "which experts compute is known when it runs, and compilers would compute them all"
    keeps_hidden: ClassVar[str] = "its router and its experts have gains of their own"
    router_gain: Weight
    router: Linear
    gain: Weight
    experts: tuple[GeluExpert, ...]
    expert_scale: Weight
    routing: Routing

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`; what goes into an expert are its own tokens, so that each has groups of its own."""
        inside = ((linear,) for expert in self.experts for linear in (expert.gate_up, expert.down))
        return ((self.router,), *inside)

    @property
    def input_projections(self) -> tuple[Linear, ...]:
        """See :class:`Mixer`."""
        return (self.router, *(expert.gate_up for expert in self.experts))

    @property
    def output_projections(self) -> tuple[Linear, ...]:
        """See :class:`Mixer`."""
        return tuple(expert.down for expert in self.experts)

    def source(self) -> Source | str:
        """See :class:`Mixer`."""
        return "each expert has an input of its own there"

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return (self.routing,)


def steps(moe: GeluExperts, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch; into the projections of an expert goes (1, its tokens, columns), which may be none."""
    import torch
    from torch.nn import functional

    from edgepress.exporter.model.operations import project

    (logits,) = yield from project((moe.router,), values, x * values(moe.router_gain) * x.shape[-1] ** -0.5)
    weights, chosen = route(moe.routing, logits.reshape(-1, len(moe.experts)), None)
    weights = weights * values(moe.expert_scale)[chosen]
    tokens = (x * values(moe.gain)).reshape(-1, x.shape[-1])
    y = torch.zeros_like(tokens)
    for index, expert in enumerate(moe.experts):
        mine, place = torch.where(chosen == index)
        (inner,) = yield from project((expert.gate_up,), values, tokens[mine][None])
        gate, up = inner.chunk(2, dim=-1)
        (inner,) = yield from project((expert.down,), values, functional.gelu(gate, approximate="tanh") * up)
        y = y.index_add(0, mine, inner[0] * weights[mine, place, None])
    return y.reshape(x.shape)


def write(moe: GeluExperts, g: GraphWriter, name: str, x: str, _states: Sequence[tuple[str, str]]) -> str:
    """All of it in float32, as a router in float16 would choose other experts.

    Tokens are sorted by the experts that they go through; ``rows`` are all pairs of an expert and a token of its.

    ::

        x · router_gain ─ router ─ (softmax, choice) ─ weights (experts, tokens) ┬ NonZero ─ rows
                                                                                 └ Not 0 ─ ReduceSum ─ counts
        x · gain ─ Gather(rows) ─ Split(counts) ═ gate_up of each ═ Concat ─ gelu(g) · u ─ Split(counts) ═ down of each
                                                        ═ Concat ─ Mul(weights of rows) ─ ScatterND (add) ─ y
    """
    hidden = moe.router.weight.shape[1]
    with g.in_half(False):
        flat = g.constant(f"tokens_of_{hidden}", np.array([-1, hidden], np.int64))
        tokens = g.node("Mul", [x, g.weight(moe.gain)], f"{name}.tokens")
        tokens = g.node("Reshape", [tokens, flat], f"{name}.by_token")
        weights = _weights(moe, g, name, x)
        rows = g.node("NonZero", [weights], f"{name}.rows")  # (2, pairs)
        token, of_pair = _pairs(g, name, weights, rows)
        counts = _counts(g, name, weights)
        inner = _each(g, f"{name}.gate_up", g.node("Gather", [tokens, token], f"{name}.sorted"), counts,
                      [expert.gate_up for expert in moe.experts])  # fmt: skip
        inner = _gated(moe, g, name, inner)
        y = _each(g, f"{name}.down", inner, counts, [expert.down for expert in moe.experts])
        y = g.node("Mul", [y, of_pair], f"{name}.weighted")
        places = g.node("Unsqueeze", [token, g.constant("axis_1", np.array([1], np.int64))], f"{name}.places")
        none = g.node("Sub", [tokens, tokens], f"{name}.zeros")
        y = g.node("ScatterND", [none, places, y], f"{name}.added", reduction="add")
        shape = g.node("Shape", [x], f"{name}.shape")
        return g.node("Reshape", [y, shape], f"{name}.y", allowzero=1)  # of no token, too


def _weights(moe: GeluExperts, g: GraphWriter, name: str, x: str) -> str:
    """The weight of each expert for each token, (experts, tokens): 0 where it is not chosen.

    ::

        x ─ Mul ─ router ─ Reshape ─ Softmax ┬ TopK ┬ Div by their sum ┬ ScatterElements into 0 ─ Mul ─ Transpose
                                             └──────┴──────────────────┘
    """
    hidden, count = moe.router.weight.shape[1], len(moe.experts)
    share = g.constant(f"router_share_{hidden}", np.array(hidden**-0.5, np.float32))
    x = g.node("Mul", [g.node("Mul", [x, g.weight(moe.router_gain)], f"{name}.gained"), share], f"{name}.router_input")
    by_token = g.constant(f"tokens_of_{count}", np.array([-1, count], np.int64))
    logits = g.node("Reshape", [g.linear(moe.router, x), by_token], f"{name}.logits")
    scores = g.node("Softmax", [logits], f"{name}.scores", axis=1)
    chosen, places = f"{name}.chosen", f"{name}.chosen_places"
    several = g.constant(f"experts_{moe.routing.count}", np.array([moe.routing.count], np.int64))
    g.node("TopK", [scores, several], chosen, more_outputs=[places], axis=1)
    total = g.node("ReduceSum", [chosen, g.constant("axis_1", np.array([1], np.int64))], f"{name}.total", keepdims=1)
    chosen = g.node("Div", [chosen, total], f"{name}.shares")
    none = g.node("Sub", [scores, scores], f"{name}.none")
    dense = g.node("ScatterElements", [none, places, chosen], f"{name}.dense", axis=1)
    dense = g.node("Mul", [dense, g.weight(moe.expert_scale)], f"{name}.scaled")
    return g.node("Transpose", [dense], f"{name}.weights", perm=[1, 0])


def _pairs(g: GraphWriter, name: str, weights: str, rows: str) -> tuple[str, str]:
    """The token of each pair, (pairs,), and its weight, (pairs, 1)."""
    token = g.node("Gather", [rows, g.constant("row_1", np.array(1, np.int64))], f"{name}.token", axis=0)
    found = g.node("GatherND", [weights, g.node("Transpose", [rows], f"{name}.pairs", perm=[1, 0])], f"{name}.of_pair")
    return token, g.node("Unsqueeze", [found, g.constant("axis_1", np.array([1], np.int64))], f"{name}.pair_weights")


def _counts(g: GraphWriter, name: str, weights: str) -> str:
    """How many tokens go through each expert, (experts,)."""
    zero = g.constant("zero_float", np.array(0, np.float32))
    unused = g.node("Equal", [weights, zero], f"{name}.unused")
    used = g.node("Cast", [g.node("Not", [unused], f"{name}.used")], f"{name}.used_counts", to=_INT64)
    return g.node("ReduceSum", [used, g.constant("axis_1", np.array([1], np.int64))], f"{name}.counts", keepdims=0)


def _each(g: GraphWriter, name: str, x: str, counts: str, linears: Sequence[Linear]) -> str:
    """Each projection on its own rows of x, one after the other."""
    pieces = [f"{name}.in.{index}" for index in range(len(linears))]
    g.node("Split", [x, counts], pieces[0], more_outputs=pieces[1:], axis=0)
    found = [g.linear(linear, piece, normed=False) for linear, piece in zip(linears, pieces, strict=True)]
    return g.node("Concat", found, f"{name}.out", axis=0)


def _gated(moe: GeluExperts, g: GraphWriter, name: str, inner: str) -> str:
    """``gelu(g) · u``, (pairs, width)."""
    width = moe.experts[0].down.weight.shape[1]
    halves = g.constant(f"halves_of_{2 * width}", np.full(2, width, np.int64))
    gate, up = f"{name}.gate", f"{name}.up"
    g.node("Split", [inner, halves], gate, more_outputs=[up], axis=1)
    return g.node("Mul", [g.node("Gelu", [gate], f"{name}.act", approximate="tanh"), up], f"{name}.mixed")


_INT64 = 7  # TensorProto.INT64

MIXER = MixerKind(GeluExperts, steps=steps, write=write)
