"""A selective state space, Mamba (Gu & Dao 2023, algorithm 2): a decay for each channel and each number of its state.

Its state is of fixed size: a vector for each channel, and the last few inputs of a short convolution.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgepress.bundle.states import State, StateType
from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import CONTRIB, GraphWriter, MixerKind, convolution_state, recurrent_state
from edgepress.exporter.model.parts.primitives import Linear, Norm, Source, Weight

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, Values

_CHUNK = 32  # tokens that are scanned together in torch


@dataclass(frozen=True, kw_only=True)
class Mamba(Mixer):
    """``output(y ∘ silu(z))`` with y from a linear recurrence over tokens, of each channel for itself.

    ``inputs`` of the normed stream has the rows x and z (width each). x goes through a causal depthwise convolution
    with ``kernel`` (width, 1, taps) and through silu; ``parameters`` of that has the rows of a low-rank step (rank), B
    and C (state_size each), and ``step`` makes Δ = softplus(step(…)), (width,), of the first. With ``A = −exp(decay)``,
    (width, state_size), channel d keeps a vector S::

        Sₜ = exp(Δₜ A) ∘ Sₜ₋₁ + Δₜ xₜ Bₜ        yₜ = Cₜ · Sₜ + skip · xₜ

    The low-rank step, B and C may each go through an RMS norm first: of its own gains (Jamba), or of none, with
    ``plain_norms`` as its ε (Falcon Mamba).
    """

    scaled_by_token: ClassVar[bool] = True
    no_static_form: ClassVar[str] = "a static call is padded to its length, and the padding would go into its state"
    inputs: Linear
    kernel: Weight
    bias: Weight | None = None
    parameters: Linear
    step_norm: Norm | None = None
    b_norm: Norm | None = None
    c_norm: Norm | None = None
    step: Linear
    decay: Weight
    skip: Weight
    output: Linear
    plain_norms: float | None = None

    def __post_init__(self) -> None:
        if self.kernel.shape[:2] != (self.width, 1) or self.taps < 2:
            raise ValueError(f"{self.kernel.name} has shape {self.kernel.shape}, not ({self.width}, 1, 2 or more)")

    @property
    def width(self) -> int:
        """Channels of x, z and y."""
        return self.decay.shape[0]

    @property
    def state_size(self) -> int:
        """Numbers of a channel's state."""
        return self.decay.shape[1]

    @property
    def taps(self) -> int:
        """How many tokens the convolution sees, the present one included."""
        return self.kernel.shape[2]

    @property
    def rows(self) -> tuple[int, int, int]:
        """Rows of ``parameters``: of the low-rank step, of B and of C."""
        return self.step.weight.shape[1], self.state_size, self.state_size

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.inputs,), (self.parameters,), (self.step,), (self.output,)

    def states(self, layer: int, floats: StateType = "float32") -> tuple[State, ...]:  # noqa: ARG002
        """The last inputs of the convolution and the vector of each channel."""
        return (
            convolution_state(layer, self.taps, self.width),
            recurrent_state(layer, self.width, self.state_size, 1),
        )

    def source(self) -> Source | str:
        """There is none: x goes through silu."""
        return "its inputs go through silu, which does not pass a scale on"

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return (self.plain_norms,)

    def sizes(self) -> None:
        """Configs have its width as a multiple of the hidden size."""
        return


# ---- torch ----------------------------------------------------------------------------------------------------------


def steps(mamba: Mamba, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch, the scan in chunks."""
    import torch
    from torch.nn import functional

    from edgepress.exporter.model.operations import norm_forward, project

    (projected,) = yield from project((mamba.inputs,), values, x)
    x, z = projected.chunk(2, dim=-1)
    padded = functional.pad(x.transpose(1, 2), (mamba.taps - 1, 0))
    bias = None if mamba.bias is None else values(mamba.bias)
    x = functional.conv1d(padded, values(mamba.kernel), bias, groups=mamba.width).transpose(1, 2)
    x = functional.silu(x)  # (sequences, length, width)
    (made,) = yield from project((mamba.parameters,), values, x)
    parts = torch.split(made, [*mamba.rows], dim=-1)
    if mamba.plain_norms is not None:
        parts = tuple(functional.rms_norm(part, part.shape[-1:], None, mamba.plain_norms) for part in parts)
    norms = (mamba.step_norm, mamba.b_norm, mamba.c_norm)
    low, b, c = (norm_forward(norm, values, part) for norm, part in zip(norms, parts, strict=True))
    (raw,) = yield from project((mamba.step,), values, low)
    y = _scanned(mamba, values, functional.softplus(raw), (x, b, c)) + x * values(mamba.skip)
    (y,) = yield from project((mamba.output,), values, y * functional.silu(z))
    return y


def _scanned(mamba: Mamba, values: Values, step: Tensor, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The recurrence: Δ, x (sequences, length, width), B and C (sequences, length, state_size) → y like x."""
    import torch

    x, b, c = inputs
    rate = -values(mamba.decay).exp()  # (width, state_size)
    state = x.new_zeros(len(x), 1, mamba.width, mamba.state_size)
    found = []
    for start in range(0, x.shape[1], _CHUNK):
        at = slice(start, start + _CHUNK)
        kept = (step[:, at, :, None] * rate).exp()  # (sequences, chunk, width, state_size)
        added = (step[:, at] * x[:, at])[..., None] * b[:, at, None]
        states = _states(kept, torch.cat([added[:, :1] + kept[:, :1] * state, added[:, 1:]], dim=1))
        state = states[:, -1:]
        found.append(torch.einsum("btdn,btn->btd", states, c[:, at]))
    return torch.cat(found, dim=1)


def _states(kept: Tensor, added: Tensor) -> Tensor:
    """``Sₜ = keptₜ ∘ Sₜ₋₁ + addedₜ`` of all t, in as many steps as doublings reach them (Hillis & Steele 1986)."""
    import torch

    back = 1
    while back < added.shape[1]:
        more = kept[:, back:] * added[:, :-back]
        kept = torch.cat([kept[:, :back], kept[:, back:] * kept[:, :-back]], dim=1)
        added = torch.cat([added[:, :back], added[:, back:] + more], dim=1)
        back *= 2
    return added


# ---- graph ----------------------------------------------------------------------------------------------------------


def write(mamba: Mamba, g: GraphWriter, name: str, x: str, states: Sequence[tuple[str, str]]) -> str:
    """Convolve and scan with what is left of the last call, in float32 as its states are.

    ::

        x ─ inputs ─ Split ┬ x ─ CausalConvWithState ─┬─ parameters ─ Split ┬ step ─ Softplus ─┐
                           │   past_conv.{i} ┘        │                     ├ B ───────────────┤
                           │                          │                     └ C ─── LinearAttention ─ Add ─ Mul ─
                           │                          └ Mul skip ─────────────────────────────────────┘     │
                           └ z ─ silu ──────────────────────────────────────────────────────────────────────┘

    All rows of a batch are taken to be equally long: a token that pads a row would go into its states.
    """
    (conv_past, conv_present), recurrent = states
    projected = g.linear(mamba.inputs, x)
    with g.in_half(False):
        inner, z = _split(g, projected, name, ("inner", "z"), (mamba.width, mamba.width))
        x = g.node(
            "CausalConvWithState",
            [inner, g.weight(mamba.kernel), "" if mamba.bias is None else g.weight(mamba.bias), conv_past],
            f"{name}.convolved",
            domain=CONTRIB,
            more_outputs=[conv_present],
            channels_last=1,
            activation="silu",
        )
    made = g.linear(mamba.parameters, x, normed=False)
    with g.in_half(False):
        parts = _split(g, made, name, ("low_step", "b", "c"), mamba.rows)
        norms = (mamba.step_norm, mamba.b_norm, mamba.c_norm)
        low, b, c = (_normed(mamba, g, norm, part) for norm, part in zip(norms, parts, strict=True))
    raw = g.linear(mamba.step, low, normed=False)
    with g.in_half(False):
        step = g.node("Softplus", [raw], f"{name}.steps")
        scanned = _write_scan(mamba, g, name, (x, b, c, step), recurrent)
        skipped = g.node("Mul", [x, g.weight(mamba.skip)], f"{name}.skipped")
        y = g.node("Add", [scanned, skipped], f"{name}.y")
        return g.node("Mul", [y, g.node("QuickGelu", [z], f"{name}.gate", domain=CONTRIB, alpha=1.0)], f"{name}.mixed")


def _split(g: GraphWriter, x: str, name: str, parts: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Split the last axis; the parts are named after the mixer."""
    names = [f"{name}.{part}" for part in parts]
    widths = g.constant(f"split_{'_'.join(map(str, sizes))}", np.array(sizes, np.int64))
    g.node("Split", [x, widths], names[0], more_outputs=names[1:], axis=-1)
    return names


def _normed(mamba: Mamba, g: GraphWriter, norm: Norm | None, x: str) -> str:
    """The low-rank step, B or C behind its norm."""
    if mamba.plain_norms is None:
        return g.norm(norm, x, f"{x}_normed")
    size = mamba.rows[0] if x.endswith("step") else mamba.state_size
    ones = g.constant(f"ones_{size}", np.ones(size, np.float32))
    return g.node("SimplifiedLayerNormalization", [x, ones], f"{x}_normed", axis=-1, epsilon=mamba.plain_norms)


def _write_scan(
    mamba: Mamba, g: GraphWriter, name: str, inputs: tuple[str, str, str, str], state: tuple[str, str]
) -> str:
    """The recurrence: x, B, C and Δ → y (batch, sequence, width).

    LinearAttention with the rule "gated" is S ← exp(g) ∘ S + k vᵀ, y = Sᵀ q: here each channel is a head whose v has
    one number, Δ x. k is B and q is C, for all heads, and g is Δ A, of each head and number of its state.
    """
    (x, b, c, step), (past, present) = inputs, state
    last = g.constant("axis_3", np.array([3], np.int64))
    flat = g.constant(
        f"flat_{mamba.width * mamba.state_size}", np.array([0, 0, mamba.width * mamba.state_size], np.int64)
    )
    rate = g.node("Neg", [g.node("Exp", [g.weight(mamba.decay)], f"{name}.rate")], f"{name}.minus_rate")  # A, folded
    by_state = g.node("Mul", [g.node("Unsqueeze", [step, last], f"{name}.step_by_channel"), rate], f"{name}.by_state")
    return g.node(
        "LinearAttention",
        [
            c,
            b,
            g.node("Mul", [x, step], f"{name}.v"),
            past,
            g.node("Reshape", [by_state, flat], f"{name}.log_decay"),
        ],
        f"{name}.scanned",
        domain=CONTRIB,
        more_outputs=[present],
        q_num_heads=1,
        kv_num_heads=mamba.width,
        scale=1.0,
        update_rule="gated",
    )


MIXER = MixerKind(Mamba, steps=steps, write=write)
