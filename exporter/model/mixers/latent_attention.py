"""Multi-head latent attention (DeepSeek-V2, Liu et al. 2024, section 2.1): keys and values from one narrow vector.

The cache has keys and values of every head, as plain attention has them: the kernels that onnxruntime has on CPUs take
no others. Heads of keys and of values that differ in width are padded with zeros to the wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgepress.bundle.states import State, StateType
from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import CONTRIB, GraphWriter, MixerKind
from edgepress.exporter.model.parts.primitives import Linear, Norm, RotatedKeys, Source

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, Values

_HEAD_MULTIPLE = 8  # of GroupQueryAttention on CPUs


@dataclass(frozen=True, kw_only=True)
class LatentAttention(Mixer):
    """Causal attention of ``heads`` whose keys and values are projections of one latent vector.

    A head of a query is ``rotated`` channels that are rotated and then ``plain`` ones that are not; so is that of a
    key, whose rotated channels are the same in all heads. ``latent`` gives the latent vector and these rotated channels
    of the keys; ``key_value`` gives from the normed latent vector the plain channels of all heads' keys, then all
    heads' values, ``value_dim`` channels each. Queries come from the stream, or where there is a ``query_latent`` from
    that, normed. ``interleaved`` rotates the pairs (2d, 2d + 1), not (d, d + rotated / 2).
    """

    heads: int
    rotated: int
    plain: int
    value_dim: int
    scale: float
    latent: Linear
    query_latent: Linear | None = None
    query_norm: Norm | None = None
    query: Linear
    latent_norm: Norm
    key_value: Linear
    output: Linear
    rope: str
    interleaved: bool = False

    @property
    def query_dim(self) -> int:
        """Channels of a head of queries and keys."""
        return self.rotated + self.plain

    @property
    def head_dim(self) -> int:
        """Channels of a head in the cache."""
        return -(-max(self.query_dim, self.value_dim) // _HEAD_MULTIPLE) * _HEAD_MULTIPLE

    @property
    def rank(self) -> int:
        """Channels of the latent vector of keys and values."""
        return self.key_value.weight.shape[1]

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        if self.query_latent is None:
            return (self.latent, self.query), (self.key_value,), (self.output,)
        return (self.latent, self.query_latent), (self.query,), (self.key_value,), (self.output,)

    def states(self, layer: int, floats: StateType = "float32") -> tuple[State, ...]:
        """Keys and values, as wide as each other."""
        return tuple(
            State(
                name=f"layers.{layer}.{part}",
                input=f"past_key_values.{layer}.{part}",
                output=f"present.{layer}.{part}",
                shape=("batch", self.heads, "past", self.head_dim),
                type=floats,
                kind="key-value",
            )
            for part in ("key", "value")
        )

    def rotated_keys(self, layer: int) -> RotatedKeys:
        """See :class:`Mixer`."""
        return RotatedKeys(f"layers.{layer}.key", self.rope, self.interleaved)

    def source(self) -> Source | str:
        """The rows of the values: attention mixes positions, not channels."""
        start, rows = self.heads * self.plain, self.heads * self.value_dim
        return Source(self.key_value, slice(start, start + rows), self.value_dim)

    def ropes(self) -> tuple[str, ...]:
        """See :class:`Mixer`."""
        return (self.rope,)

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return self.rope, self.interleaved, self.scale

    def sizes(self) -> dict[str, int]:
        """See :class:`Mixer`."""
        return {"v_head_dim": self.value_dim}

    def genai(self) -> dict[str, object]:
        """See :class:`Mixer`."""
        return {"head_size": self.head_dim, "num_attention_heads": self.heads, "num_key_value_heads": self.heads}


# ---- torch ----------------------------------------------------------------------------------------------------------


def steps(a: LatentAttention, values: Values, x: Tensor, ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from edgepress.exporter.model.operations import norm_forward, project

    sequences, length, _ = x.shape
    latent, first = yield from project(a.input_projections, values, x)
    if a.query_latent is not None:
        (first,) = yield from project((a.query,), values, norm_forward(a.query_norm, values, first))
    latent, rotated = latent[..., : a.rank], latent[..., a.rank :]
    (key_value,) = yield from project((a.key_value,), values, norm_forward(a.latent_norm, values, latent))

    def by_head(y: Tensor, heads: int) -> Tensor:  # (sequences, heads, length, channels)
        return y.reshape(sequences, length, heads, -1).transpose(1, 2)

    plain, v = torch.split(key_value, [a.heads * a.plain, a.heads * a.value_dim], dim=-1)
    q, shared = _rotate(a, ropes[a.rope], by_head(first, a.heads)), _rotate(a, ropes[a.rope], by_head(rotated, 1))
    k = torch.cat([shared.expand(-1, a.heads, -1, -1), by_head(plain, a.heads)], dim=-1)
    y = scaled_dot_product_attention(q, k, by_head(v, a.heads), is_causal=True, scale=a.scale)
    (y,) = yield from project((a.output,), values, y.transpose(1, 2).reshape(sequences, length, -1))
    return y


def _rotate(a: LatentAttention, rotary: Rotary, x: Tensor) -> Tensor:
    """Rotate the first channels of x (sequences, heads, length, channels)."""
    import torch

    turned, rest = x[..., : a.rotated], x[..., a.rotated :]
    if a.interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = turned.chunk(2, dim=-1)
    pair = [first * rotary.cos - second * rotary.sin, second * rotary.cos + first * rotary.sin]
    turned = torch.stack(pair, dim=-1).flatten(-2) if a.interleaved else torch.cat(pair, dim=-1)
    return torch.cat([turned, rest], dim=-1)


# ---- graph ----------------------------------------------------------------------------------------------------------


def write(a: LatentAttention, g: GraphWriter, name: str, x: str, states: Sequence[tuple[str, str]]) -> str:
    """Make keys and values of every head, and attend with GroupQueryAttention.

    ::

        x ┬ (query_latent ─ norm ─) query ─ RotaryEmbedding ───────────────────────────┐
          └ latent ─ Split ┬ norm ─ key_value ─ Split ┬ plain ──┐                      │
                           │                          └ v (padded) ──────────────────┐ │
                           └ RotaryEmbedding ─ Expand to heads ─┴ Concat ─ (padded) ┐│ │
                                                                GroupQueryAttention ─ (cut)
    """
    first = g.linear(a.input_projections[1], x)
    q = first if a.query_latent is None else g.linear(a.query, g.norm(a.query_norm, first, f"{name}.query_norm"))
    latent, shared = _split(g, g.linear(a.latent, x), [a.rank, a.rotated], [f"{name}.latent", f"{name}.shared"])
    key_value = g.linear(a.key_value, g.norm(a.latent_norm, latent, f"{name}.latent_norm"))
    plain, v = _split(
        g, key_value, [a.heads * a.plain, a.heads * a.value_dim], [f"{name}.plain", f"{name}.v"]
    )  # (batch, sequence, heads · channels)
    with g.in_type_of(states[0][0]):
        q, shared = _rotated(a, g, q, a.heads), _rotated(a, g, shared, 1)
        k = g.node("Concat", [_to_heads(a, g, shared), _by_head(a, g, plain, a.plain)], f"{name}.k", axis=-1)
        q = _flat(a, g, _padded(a, g, _by_head(a, g, q, a.query_dim), a.query_dim), f"{name}.q.flat")
        k = _flat(a, g, _padded(a, g, k, a.query_dim), f"{name}.k.flat")
        v = _flat(a, g, _padded(a, g, _by_head(a, g, v, a.value_dim), a.value_dim), f"{name}.v.flat")
        attended = g.node(
            "GroupQueryAttention",
            [q, k, v, *(before for before, _ in states), "seqlens_k", "total_length"],
            f"{name}.attended",
            domain=CONTRIB,
            more_outputs=[after for _, after in states],
            num_heads=a.heads,
            kv_num_heads=a.heads,
            scale=a.scale,
        )
        return _cut(a, g, attended)


def _split(g: GraphWriter, x: str, widths: list[int], outputs: list[str]) -> tuple[str, str]:
    sizes = g.constant(f"widths_{'_'.join(map(str, widths))}", np.array(widths, np.int64))
    first, second = outputs
    g.node("Split", [x, sizes], first, more_outputs=[second], axis=-1)
    return first, second


def _rotated(a: LatentAttention, g: GraphWriter, x: str, heads: int) -> str:
    """Rotate the first channels of each head of x (batch, sequence, heads · channels)."""
    cos, sin, rows = g.rotary(a.rope)
    return g.node(
        "RotaryEmbedding",
        [x, rows, cos, sin],
        f"{x}.rotated",
        domain=CONTRIB,
        num_heads=heads,
        rotary_embedding_dim=a.rotated if heads > 1 and a.plain else 0,
        interleaved=int(a.interleaved),
    )


def _by_head(a: LatentAttention, g: GraphWriter, x: str, channels: int) -> str:
    """(batch, sequence, heads · channels) → (batch, sequence, heads, channels)."""
    shape = g.constant(f"by_{a.heads}_heads_of_{channels}", np.array([0, 0, a.heads, channels], np.int64))
    return g.node("Reshape", [x, shape], f"{x}.by_head")


def _flat(a: LatentAttention, g: GraphWriter, x: str, output: str) -> str:
    """(batch, sequence, heads, head_dim) → (batch, sequence, heads · head_dim)."""
    shape = g.constant(f"flat_{a.heads * a.head_dim}", np.array([0, 0, a.heads * a.head_dim], np.int64))
    return g.node("Reshape", [x, shape], output)


def _to_heads(a: LatentAttention, g: GraphWriter, x: str) -> str:
    """The same for every head: (batch, sequence, channels) → (batch, sequence, heads, channels)."""
    one = g.node("Unsqueeze", [x, g.constant("axis_2", np.array([2], np.int64))], f"{x}.one_head")
    shape = g.constant(f"to_{a.heads}_heads", np.array([1, 1, a.heads, 1], np.int64))
    return g.node("Expand", [one, shape], f"{x}.every_head")


def _padded(a: LatentAttention, g: GraphWriter, x: str, channels: int) -> str:
    """Zeros after the ``channels`` of each head, up to the heads of the cache."""
    if channels == a.head_dim:
        return x
    pads = g.constant(f"pad_{a.head_dim - channels}", np.array([0] * 7 + [a.head_dim - channels], np.int64))
    return g.node("Pad", [x, pads], f"{x}.padded")


def _cut(a: LatentAttention, g: GraphWriter, x: str) -> str:
    """The channels of values alone, (batch, sequence, heads · value_dim)."""
    if a.value_dim == a.head_dim:
        return x
    apart = _by_head(a, g, x, a.head_dim)
    bounds = [g.constant(f"slice_{n}", np.array([n], np.int64)) for n in (0, a.value_dim, 3)]
    cut = g.node("Slice", [apart, *bounds], f"{x}.cut")
    flat = g.constant(f"flat_{a.heads * a.value_dim}", np.array([0, 0, a.heads * a.value_dim], np.int64))
    return g.node("Reshape", [cut, flat], f"{x}.values")


MIXER = MixerKind(LatentAttention, steps=steps, write=write)
