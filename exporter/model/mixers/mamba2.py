"""A state space with one decay a head, Mamba-2 (Dao & Gu 2024, "Transformers are SSMs", section 6).

Its state is of fixed size: a matrix for each head, and the last few inputs of a short convolution.
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

_CHUNK = 64  # tokens whose part of the scan is a product of matrices in torch


@dataclass(frozen=True, kw_only=True)
class Mamba2(Mixer):
    """``output(norm(y ∘ silu(z)))`` with y from a linear recurrence over tokens.

    ``inputs`` of the normed stream has the rows z (width), x (width), B and C (state_groups · state_size each) and the
    step Δ (heads), where width is heads · head_dim; they are multiplied by the five ``multipliers``, in this order.
    x, B and C go through a causal depthwise convolution with ``kernel`` (width + 2 · state_groups · state_size, 1,
    taps) and through silu. With ``Δ = clip(softplus(Δ + step_bias), step_limits)`` and ``A = −exp(decay)``, head h
    keeps a matrix S (state_size, head_dim), and B and C are those of its group::

        Sₜ = exp(A Δₜ) Sₜ₋₁ + Bₜ (Δₜ xₜ)ᵀ        yₜ = Sₜᵀ Cₜ + skip · xₜ

    ``norm`` is an RMS norm over each of ``state_groups`` parts of the width, of y ∘ silu(z), or, with
    ``norm_before_gate``, of y before it is multiplied.
    """

    scaled_by_token: ClassVar[bool] = True
    no_static_form: ClassVar[str] = "a static call is padded to its length, and the padding would go into its state"
    inputs: Linear
    kernel: Weight
    bias: Weight | None = None
    step_bias: Weight
    decay: Weight
    skip: Weight
    norm: Norm | None = None
    output: Linear
    heads: int
    head_dim: int
    state_size: int
    state_groups: int
    step_limits: tuple[float, float] = (0.0, float("inf"))
    norm_before_gate: bool = False
    multipliers: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        if self.kernel.shape[:2] != (self.channels, 1) or self.taps < 2:
            raise ValueError(f"{self.kernel.name} has shape {self.kernel.shape}, not ({self.channels}, 1, 2 or more)")
        if self.heads % self.state_groups:
            raise ValueError(f"{self.heads} heads cannot share the B and C of {self.state_groups} groups alike")

    @property
    def width(self) -> int:
        """Channels of z, x and y."""
        return self.heads * self.head_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: x, B and C."""
        return self.width + 2 * self.state_groups * self.state_size

    @property
    def taps(self) -> int:
        """How many tokens the convolution sees, the present one included."""
        return self.kernel.shape[2]

    @property
    def rows(self) -> tuple[int, int, int, int, int]:
        """Rows of z, x, B, C and Δ."""
        shared = self.state_groups * self.state_size
        return self.width, self.width, shared, shared, self.heads

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.inputs,), (self.output,)

    def states(self, layer: int, floats: StateType = "float32") -> tuple[State, ...]:  # noqa: ARG002
        """The last inputs of the convolution and the matrix of each head: float32 alone has kernels."""
        return (
            convolution_state(layer, self.taps, self.channels),
            recurrent_state(layer, self.heads, self.state_size, self.head_dim),
        )

    def source(self) -> Source | str:
        """There is none: x goes through silu, and what is made of it often through a norm."""
        return "its inputs go through silu, which does not pass a scale on"

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return self.step_limits, self.norm_before_gate, self.multipliers

    def sizes(self) -> None:
        """Configs have its width as a multiple of the hidden size."""
        return


# ---- torch ----------------------------------------------------------------------------------------------------------


def steps(mamba: Mamba2, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch, the scan in chunks."""
    import torch
    from torch.nn import functional

    from edgepress.exporter.model.operations import project

    (projected,) = yield from project((mamba.inputs,), values, x)
    if any(factor != 1.0 for factor in mamba.multipliers):
        projected = projected * torch.from_numpy(_by_row(mamba)).to(projected)
    z, inner, step = torch.split(projected, [mamba.width, mamba.channels, mamba.heads], dim=-1)
    padded = functional.pad(inner.transpose(1, 2), (mamba.taps - 1, 0))
    bias = None if mamba.bias is None else values(mamba.bias)
    inner = functional.conv1d(padded, values(mamba.kernel), bias, groups=mamba.channels).transpose(1, 2)
    _, *widths, _ = mamba.rows
    x, b, c = torch.split(functional.silu(inner), widths, dim=-1)
    step = functional.softplus(step + values(mamba.step_bias)).clamp(*mamba.step_limits)
    y = _scanned(mamba, values, (x, b, c), step)
    (y,) = yield from project((mamba.output,), values, _gated(mamba, values, y.flatten(-2), z))
    return y


def _scanned(mamba: Mamba2, values: Values, inputs: tuple[Tensor, Tensor, Tensor], step: Tensor) -> Tensor:
    """The recurrence and the skip: x, B and C → y (sequences, length, heads, head_dim)."""
    import torch

    repeats = mamba.heads // mamba.state_groups
    x, b, c = (y.reshape(*y.shape[:2], -1, n) for y, n in zip(inputs, _last_sizes(mamba), strict=True))
    b, c = (y.repeat_interleave(repeats, dim=2).transpose(1, 2) for y in (b, c))  # as many as there are heads
    v, decay = (x * step[..., None]).transpose(1, 2), (-values(mamba.decay).exp() * step).transpose(1, 2)
    state = x.new_zeros(*b.shape[:2], mamba.state_size, mamba.head_dim)
    found = []
    for start in range(0, x.shape[1], _CHUNK):
        at = slice(start, start + _CHUNK)
        y, state = _chunk(c[:, :, at], b[:, :, at], v[:, :, at], decay[:, :, at], state)
        found.append(y)
    return torch.cat(found, dim=2).transpose(1, 2) + x * values(mamba.skip)[:, None]


def _last_sizes(mamba: Mamba2) -> tuple[int, int, int]:
    """How many numbers a head has in x, and a group in B and in C."""
    return mamba.head_dim, mamba.state_size, mamba.state_size


def _chunk(c: Tensor, b: Tensor, v: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """y of a chunk, and the state after it: what is in the chunk as a product of matrices (the paper's equation 16).

    b and c (sequences, heads, chunk, state_size), v (sequences, heads, chunk, head_dim), decay, of which exp is taken,
    (sequences, heads, chunk), state (sequences, heads, state_size, head_dim).
    """
    total = decay.double().cumsum(-1)  # sums of many, of which differences are taken
    since = (total[..., :, None] - total[..., None, :]).tril()  # (sequences, heads, to, from)
    seen = since.exp().to(v).tril()
    y = (c @ b.transpose(-1, -2) * seen) @ v + total.exp().to(v)[..., None] * (c @ state)
    left = (total[..., -1:] - total).exp().to(v)[..., None]
    return y, total[..., -1:, None].exp().to(v) * state + (b * left).transpose(-1, -2) @ v


def _gated(mamba: Mamba2, values: Values, y: Tensor, z: Tensor) -> Tensor:
    """What goes into the output projection."""
    from torch.nn import functional

    gate = functional.silu(z)
    if mamba.norm is None:
        return y * gate
    y = y if mamba.norm_before_gate else y * gate
    parts = y.reshape(*y.shape[:2], mamba.state_groups, -1)
    normed = functional.rms_norm(parts, parts.shape[-1:], None, mamba.norm.epsilon).flatten(-2)
    normed = normed * values(mamba.norm.weight)
    return normed * gate if mamba.norm_before_gate else normed


def _by_row(mamba: Mamba2) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """The multiplier of each row of ``inputs``."""
    return np.repeat(np.array(mamba.multipliers, np.float32), mamba.rows)


# ---- graph ----------------------------------------------------------------------------------------------------------


def write(mamba: Mamba2, g: GraphWriter, name: str, x: str, states: Sequence[tuple[str, str]]) -> str:
    """Convolve and scan with what is left of the last call, in float32 as its states are.

    ::

        x ─ inputs ─ (Mul) ─ Split ┬ z ─ silu ───────────────────────────────────────────┐
                                   ├ xBC ─ CausalConvWithState ─ Split ┬ x ─┬─ Mul skip ─┐│
                                   │  past_conv.{i} ┘└ present_conv.{i}├ B ─┤            ││
                                   │                                   └ C ─┼ LinearAttention ─ Add ─ Mul ─ norm
                                   └ Δ ─ Add ─ Softplus ─ (Clip) ─┬─────────┤
                                                                  └ Mul A ──┘ past_recurrent.{i}, present_recurrent.{i}

    All rows of a batch are taken to be equally long: a token that pads a row would go into its states.
    """
    (conv_past, conv_present), recurrent = states
    projected = g.linear(mamba.inputs, x)
    with g.in_half(False):
        if any(factor != 1.0 for factor in mamba.multipliers):
            projected = g.node("Mul", [projected, _multipliers(mamba, g)], f"{name}.multiplied")
        z, inner, step = _split(g, projected, name, ("z", "xbc", "step"), (mamba.width, mamba.channels, mamba.heads))
        convolved = g.node(
            "CausalConvWithState",
            [inner, g.weight(mamba.kernel), "" if mamba.bias is None else g.weight(mamba.bias), conv_past],
            f"{name}.convolved",
            domain=CONTRIB,
            more_outputs=[conv_present],
            channels_last=1,
            activation="silu",
        )
        _, *widths, _ = mamba.rows
        x, b, c = _split(g, convolved, name, ("x", "b", "c"), widths)
        y = _write_scan(mamba, g, name, (x, b, c, step), recurrent)
        return _write_gate(mamba, g, name, y, z)


def _multipliers(mamba: Mamba2, g: GraphWriter) -> str:
    key = "_".join(f"{factor:.9g}" for factor in mamba.multipliers)
    return g.constant(f"mamba2_multipliers_{key}", _by_row(mamba))


def _split(g: GraphWriter, x: str, name: str, parts: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Split the last axis; the parts are named after the mixer."""
    names = [f"{name}.{part}" for part in parts]
    widths = g.constant(f"split_{'_'.join(map(str, sizes))}", np.array(sizes, np.int64))
    g.node("Split", [x, widths], names[0], more_outputs=names[1:], axis=-1)
    return names


def _write_scan(
    mamba: Mamba2, g: GraphWriter, name: str, inputs: tuple[str, str, str, str], state: tuple[str, str]
) -> str:
    """The recurrence and the skip: x, B, C and the raw Δ → y (batch, sequence, width).

    LinearAttention with the rule "gated" is S ← exp(g) S + k vᵀ, y = Sᵀ q: here k is B and q is C, of a group each,
    v is Δ x and g is A Δ, of a head each.
    """
    (x, b, c, raw), (past, present) = inputs, state
    by_head = g.constant(
        f"by_{mamba.heads}_of_{mamba.head_dim}", np.array([0, 0, mamba.heads, mamba.head_dim], np.int64)
    )
    flat = g.constant(f"flat_{mamba.width}", np.array([0, 0, mamba.width], np.int64))
    first, last = (g.constant(f"axis_{axis}", np.array([axis], np.int64)) for axis in (1, 3))
    step = g.node("Softplus", [g.node("Add", [raw, g.weight(mamba.step_bias)], f"{name}.raw_step")], f"{name}.steps")
    step = _clipped(mamba, g, step, name)
    rate = g.node("Neg", [g.node("Exp", [g.weight(mamba.decay)], f"{name}.rate")], f"{name}.minus_rate")  # A, folded
    decay = g.node("Mul", [step, rate], f"{name}.log_decay")
    x = g.node("Reshape", [x, by_head], f"{name}.x_by_head")  # (batch, sequence, heads, head_dim)
    scaled = g.node("Mul", [x, g.node("Unsqueeze", [step, last], f"{name}.step_by_head")], f"{name}.scaled")
    y = g.node(
        "LinearAttention",
        [c, b, g.node("Reshape", [scaled, flat], f"{name}.v"), past, decay],
        f"{name}.scanned",
        domain=CONTRIB,
        more_outputs=[present],
        q_num_heads=mamba.state_groups,
        kv_num_heads=mamba.heads,
        scale=1.0,
        update_rule="gated",
    )
    skip = g.node("Unsqueeze", [g.weight(mamba.skip), first], f"{name}.skip_by_head")
    skipped = g.node("Reshape", [g.node("Mul", [x, skip], f"{name}.skipped"), flat], f"{name}.skipped_flat")
    return g.node("Add", [y, skipped], f"{name}.y")


def _clipped(mamba: Mamba2, g: GraphWriter, step: str, name: str) -> str:
    """The step within its limits; softplus alone is within those that most models have, 0 and infinity."""
    if mamba.step_limits == (0.0, float("inf")):
        return step
    low, high = (
        g.constant(f"step_limit_{limit:.9g}", np.array(limit, np.float32)) if np.isfinite(limit) else ""
        for limit in mamba.step_limits
    )
    return g.node("Clip", [step, low, *filter(None, [high])], f"{name}.clipped_step")


def _write_gate(mamba: Mamba2, g: GraphWriter, name: str, y: str, z: str) -> str:
    """What goes into the output projection."""
    gate = g.node("QuickGelu", [z], f"{name}.gate", domain=CONTRIB, alpha=1.0)
    if mamba.norm is None:
        return g.node("Mul", [y, gate], f"{name}.mixed")
    if mamba.norm_before_gate:
        return g.node("Mul", [_write_norm(mamba, mamba.norm, g, y, f"{name}.normed"), gate], f"{name}.mixed")
    return _write_norm(mamba, mamba.norm, g, g.node("Mul", [y, gate], f"{name}.gated"), f"{name}.mixed")


def _write_norm(mamba: Mamba2, norm: Norm, g: GraphWriter, y: str, output: str) -> str:
    """An RMS norm of each part, its gains over all of them."""
    if mamba.state_groups == 1:
        return g.norm(norm, y, output)
    part = mamba.width // mamba.state_groups
    apart = g.constant(f"by_{mamba.state_groups}_of_{part}", np.array([0, 0, mamba.state_groups, part], np.int64))
    flat = g.constant(f"flat_{mamba.width}", np.array([0, 0, mamba.width], np.int64))
    ones = g.constant(f"ones_{part}", np.ones(part, np.float32))
    parts = g.node("Reshape", [y, apart], f"{output}_by_part")
    normed = g.node("SimplifiedLayerNormalization", [parts, ones], f"{output}_parts", axis=-1, epsilon=norm.epsilon)
    return g.node("Mul", [g.node("Reshape", [normed, flat], f"{output}_flat"), g.weight(norm.weight)], output)


MIXER = MixerKind(Mamba2, steps=steps, write=write)
