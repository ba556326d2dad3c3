"""Linear attention by the gated delta rule (Yang et al. 2024, "Gated Delta Networks", equation 10).

Its state is of fixed size: a matrix for each head, and the last few inputs of a short convolution.
"""

from __future__ import annotations

import math
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

_UNIT_EPSILON = 1e-6  # added to the squared length of a query or key before it is made 1 long
_CHUNK = 64  # tokens whose part of the recurrence is products of matrices in torch


@dataclass(frozen=True, kw_only=True)
class GatedDelta(Mixer):
    """``output(norm(y) ∘ silu(z))`` with y from a recurrence over tokens that overwrites what a key had.

    ``inputs`` of the normed stream has the rows q and k (key_heads · key_dim each), v and z (value_heads · value_dim
    each), ``rates`` b and a (value_heads each). q, k and v go through a causal depthwise convolution with ``kernel``
    (their rows, 1, taps) and through silu; each head of q and k is then made 1 long. With ``β = largest_rate ·
    sigmoid(b)`` and ``α = exp(−exp(decay) · softplus(a + step_bias))``, head h keeps a matrix S (key_dim, value_dim),
    q and k being those of head ``h // (value_heads / key_heads)``::

        Sₜ = αₜ Sₜ₋₁ + βₜ kₜ (vₜ − αₜ Sₜ₋₁ᵀ kₜ)ᵀ        yₜ = Sₜᵀ qₜ / √key_dim

    ``norm`` is an RMS norm over each head, its gain (value_dim,).
    """

    scaled_by_token: ClassVar[bool] = True
    no_static_form: ClassVar[str] = "a static call is padded to its length, and the padding would go into its state"
    inputs: Linear
    rates: Linear
    kernel: Weight
    step_bias: Weight
    decay: Weight
    norm: Norm
    output: Linear
    key_heads: int
    key_dim: int
    value_heads: int
    value_dim: int
    largest_rate: float = 1.0

    def __post_init__(self) -> None:
        if self.kernel.shape[:2] != (self.channels, 1) or self.taps < 2:
            raise ValueError(f"{self.kernel.name} has shape {self.kernel.shape}, not ({self.channels}, 1, 2 or more)")
        if self.value_heads % self.key_heads:
            raise ValueError(f"{self.value_heads} heads of v cannot share {self.key_heads} of q and k alike")

    @property
    def key_width(self) -> int:
        """Rows of q, and of k."""
        return self.key_heads * self.key_dim

    @property
    def value_width(self) -> int:
        """Rows of v, of z and of y."""
        return self.value_heads * self.value_dim

    @property
    def channels(self) -> int:
        """Channels of the convolution: q, k and v."""
        return 2 * self.key_width + self.value_width

    @property
    def taps(self) -> int:
        """How many tokens the convolution sees, the present one included."""
        return self.kernel.shape[2]

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.inputs, self.rates), (self.output,)

    def states(self, layer: int, floats: StateType = "float32") -> tuple[State, ...]:  # noqa: ARG002
        """The last inputs of the convolution and the matrix of each head: float32 alone has kernels."""
        return (
            convolution_state(layer, self.taps, self.channels),
            recurrent_state(layer, self.value_heads, self.key_dim, self.value_dim),
        )

    def source(self) -> Source | str:
        """There is none: v goes through silu, and what is made of it through a norm."""
        return "v goes through silu, and what is made of it through a norm: neither passes a scale on"

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return (self.largest_rate,)

    def sizes(self) -> dict[str, int]:
        """See :class:`Mixer`."""
        return {
            "linear_num_key_heads": self.key_heads,
            "linear_key_head_dim": self.key_dim,
            "linear_num_value_heads": self.value_heads,
            "linear_value_head_dim": self.value_dim,
        }


# ---- torch ----------------------------------------------------------------------------------------------------------


def steps(delta: GatedDelta, values: Values, x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch, the recurrence in chunks."""
    import torch
    from torch.nn import functional

    from edgepress.exporter.model.operations import norm_forward, project

    projected, rates = yield from project((delta.inputs, delta.rates), values, x)
    inner, z = torch.split(projected, [delta.channels, delta.value_width], dim=-1)
    padded = functional.pad(inner.transpose(1, 2), (delta.taps - 1, 0))
    inner = functional.conv1d(padded, values(delta.kernel), groups=delta.channels).transpose(1, 2)
    y = _recurred(delta, values, functional.silu(inner), rates)  # (sequences, length, value_heads, value_dim)
    gate = functional.silu(z)
    (y,) = yield from project((delta.output,), values, norm_forward(delta.norm, values, y).flatten(-2) * gate)
    return y


def _recurred(delta: GatedDelta, values: Values, inner: Tensor, rates: Tensor) -> Tensor:
    """The recurrence: q, k, v (sequences, length, channels), b and a → y (…, length, value_heads, value_dim)."""
    import torch
    from torch.nn import functional

    b, a = rates.chunk(2, dim=-1)  # (sequences, length, value_heads) each
    beta = (delta.largest_rate * torch.sigmoid(b)).transpose(1, 2)
    decay = (-values(delta.decay).exp() * functional.softplus(a + values(delta.step_bias))).transpose(1, 2)
    q, k, v = torch.split(inner, [delta.key_width, delta.key_width, delta.value_width], dim=-1)
    q, k = (_unit(y.reshape(*y.shape[:2], delta.key_heads, delta.key_dim)) for y in (q, k))
    shared = delta.value_heads // delta.key_heads
    q, k = (y.repeat_interleave(shared, dim=2).transpose(1, 2) for y in (q, k))  # (sequences, heads, length, key_dim)
    v = v.reshape(*v.shape[:2], delta.value_heads, delta.value_dim).transpose(1, 2)
    state = v.new_zeros(*v.shape[:2], delta.key_dim, delta.value_dim)
    found = []
    for start in range(0, v.shape[2], _CHUNK):
        at = slice(start, start + _CHUNK)
        y, state = _chunk(q[:, :, at], k[:, :, at], v[:, :, at], decay[:, :, at], beta[:, :, at], state)
        found.append(y)
    return torch.cat(found, dim=2).transpose(1, 2) / math.sqrt(delta.key_dim)


def _unit(x: Tensor) -> Tensor:
    import torch

    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _UNIT_EPSILON)


def _chunk(  # noqa: PLR0917 - the symbols of the equations
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """y of a chunk, and the state after it (the paper's section 3.3, solved instead of inverted).

    With γₜ the product of α up to t and uₜ = βₜ (vₜ − αₜ Sₜ₋₁ᵀ kₜ), the state is Sₜ = γₜ S₀ + Σⱼ (γₜ / γⱼ) kⱼ uⱼᵀ, so
    that u solves a triangular system: uₜ + βₜ Σⱼ﹤ₜ (γₜ / γⱼ) (kₜ · kⱼ) uⱼ = βₜ (vₜ − γₜ S₀ᵀ kₜ).

    q and k (sequences, heads, chunk, key_dim), v (…, chunk, value_dim), decay, of which exp is taken, and beta (…,
    chunk), state (sequences, heads, key_dim, value_dim).
    """
    import torch

    total = decay.double().cumsum(-1)  # sums of many, of which differences are taken
    since = (total[..., :, None] - total[..., None, :]).tril().exp().to(v).tril()  # (…, to, from)
    gamma, rate = total.exp().to(v)[..., None], beta[..., None]
    system = rate * (k @ k.transpose(-1, -2)) * since  # its diagonal is taken to be 1
    wanted = rate * (v - gamma * (k @ state))
    u = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    y = gamma * (q @ state) + (q @ k.transpose(-1, -2) * since) @ u
    left = (total[..., -1:] - total).exp().to(v)[..., None]
    return y, gamma[..., -1:, :] * state + (k * left).transpose(-1, -2) @ u


# ---- graph ----------------------------------------------------------------------------------------------------------


def write(delta: GatedDelta, g: GraphWriter, name: str, x: str, states: Sequence[tuple[str, str]]) -> str:
    """Convolve and recur with what is left of the last call, in float32 as its states are.

    ::

        x ─┬ inputs ─ Split ┬ qkv ─ CausalConvWithState ─ Split ┬ q, k ─ made 1 long ┐
           │                │  past_conv.{i} ┘└ present_conv.{i}└ v ─────────────────┼ LinearAttention ─ GatedRMSNorm ─
           │                └ z ─────────────────────────────────────────────────────┼───────────────────┘
           └ rates ─ Split ─ LinearAttentionGate ─ decay, rate ──────────────────────┤
                                                past_recurrent.{i}, present_recurrent.{i}

    All rows of a batch are taken to be equally long: a token that pads a row would go into its states.
    """
    (conv_past, conv_present), (past, present) = states
    projected, rates = g.linear(delta.inputs, x), g.linear(delta.rates, x)
    with g.in_half(False):
        inner, z = _split(g, projected, name, ("qkv", "z"), (delta.channels, delta.value_width))
        convolved = g.node(
            "CausalConvWithState",
            [inner, g.weight(delta.kernel), "", conv_past],
            f"{name}.convolved",
            domain=CONTRIB,
            more_outputs=[conv_present],
            channels_last=1,
            activation="silu",
        )
        both, v = _split(g, convolved, name, ("qk", "v"), (2 * delta.key_width, delta.value_width))
        q, k = _split(g, _made_unit(delta, g, both, name), name, ("q", "k"), (delta.key_width, delta.key_width))
        y = g.node(
            "LinearAttention",
            [q, k, v, past, *_write_rates(delta, g, rates, name)],
            f"{name}.recurred",
            domain=CONTRIB,
            more_outputs=[present],
            q_num_heads=delta.key_heads,
            kv_num_heads=delta.value_heads,
            scale=1 / math.sqrt(delta.key_dim),
            update_rule="gated_delta",
        )
        gain, epsilon = g.weight(delta.norm.weight), delta.norm.epsilon
        return g.node("GatedRMSNorm", [y, gain, z], f"{name}.mixed", domain=CONTRIB, epsilon=epsilon)


def _split(g: GraphWriter, x: str, name: str, parts: Sequence[str], sizes: Sequence[int]) -> list[str]:
    """Split the last axis; the parts are named after the mixer."""
    names = [f"{name}.{part}" for part in parts]
    widths = g.constant(f"split_{'_'.join(map(str, sizes))}", np.array(sizes, np.int64))
    g.node("Split", [x, widths], names[0], more_outputs=names[1:], axis=-1)
    return names


def _made_unit(delta: GatedDelta, g: GraphWriter, both: str, name: str) -> str:
    """Make each head of q and k 1 long: x / √(Σ x² + ε) is an RMS norm with ε / size and gains 1 / √size."""
    heads, size = 2 * delta.key_heads, delta.key_dim
    by_head = g.constant(f"by_{heads}_of_{size}", np.array([0, 0, heads, size], np.int64))
    flat = g.constant(f"flat_{heads * size}", np.array([0, 0, heads * size], np.int64))
    gains = g.constant(f"unit_gains_{size}", np.full(size, size**-0.5, np.float32))
    apart = g.node("Reshape", [both, by_head], f"{name}.qk_by_head")  # (batch, sequence, heads, size)
    normed = g.node(
        "SimplifiedLayerNormalization", [apart, gains], f"{name}.qk_normed", axis=-1, epsilon=_UNIT_EPSILON / size
    )
    return g.node("Reshape", [normed, flat], f"{name}.qk_unit")


def _write_rates(delta: GatedDelta, g: GraphWriter, rates: str, name: str) -> tuple[str, str]:
    """The logarithm of α and β, (batch, sequence, value_heads) each."""
    b, a = _split(g, rates, name, ("b", "a"), (delta.value_heads, delta.value_heads))
    minus = g.node("Neg", [g.node("Exp", [g.weight(delta.decay)], f"{name}.speed")], f"{name}.minus_speed")  # folded
    decay = g.node(
        "LinearAttentionGate",
        [a, g.weight(delta.step_bias), minus, b],
        f"{name}.log_decay",
        domain=CONTRIB,
        more_outputs=[f"{name}.share"],
    )
    if delta.largest_rate == 1.0:
        return decay, f"{name}.share"
    factor = g.constant(f"largest_rate_{delta.largest_rate:.9g}", np.array(delta.largest_rate, np.float32))
    return decay, g.node("Mul", [f"{name}.share", factor], f"{name}.rate")


MIXER = MixerKind(GatedDelta, steps=steps, write=write)
