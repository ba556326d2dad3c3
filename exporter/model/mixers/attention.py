"""Causal grouped-query attention (Ainslie et al. 2023), with rotary embedding and a cache of keys and values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from edgepress.bundle.states import State, StateType
from edgepress.errors import InputError
from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import CONTRIB, GraphWriter, MixerKind
from edgepress.exporter.model.parts.primitives import Alibi, Linear, Norm, RotatedKeys, Source, Weight

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, StepsWithSide, Values

_SINKS = 11  # the input of GroupQueryAttention that has them
_HEAD_MULTIPLE = 8  # onnxruntime's CPU kernel; what is rotated inside it must be a multiple of 16


@dataclass(frozen=True, kw_only=True)
class Attention(Mixer):
    """Causal grouped-query attention.

    ``qkv`` is one projection whose rows are q (heads · head_dim), k and v (kv_heads · head_dim each): fused because it
    is measured to be faster (benchmarks/fusion.py). What it gives is cut off at ± ``clip``; 0 is off.
    ``query_norm``/``key_norm`` are norms either over each head (``norm_per_head``, gain (head_dim,), or (heads,
    head_dim) for a gain of its own in each head) or over all heads together (gain (heads · head_dim,)), of what is not
    rotated yet or, with ``norm_after_rope``, of what is. ``rope`` names an entry of :attr:`Decoder.ropes`; none means
    no rotary embedding in this layer, and ``alibi`` has a slope a head. ``window`` counts the positions that a query
    sees, itself included. ``softcap`` c gives scores c · tanh(s / c); 0 is off. ``gate`` (heads · head_dim rows, or
    one for each head) of the normed stream, through a sigmoid, multiplies what is attended (Qiu et al. 2025, Gated
    Attention). ``inner_norm`` is
    of what goes into ``output``, over all heads together (BitNet). ``value_norm`` is the ε of an RMS norm without gain
    over each head of v; 0 is off. Keys and values that other layers use too (:mod:`.shared_attention`) stand beside the
    residual stream from column ``stored_at`` on: keys, then values.
    ``sinks`` (heads,) are scores of a key that every query sees and that has no value (OpenAI 2025, gpt-oss).
    """

    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    qkv: Linear
    gate: Linear | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    inner_norm: Norm | None = None
    output: Linear
    rope: str | None
    norm_per_head: bool = True
    norm_after_rope: bool = False
    window: int | None = None
    softcap: float = 0.0
    clip: float = 0.0
    alibi: Alibi | None = None
    value_norm: float = 0.0
    stored_at: int | None = None
    sinks: Weight | None = None

    def __post_init__(self) -> None:
        if self.norm_after_rope and not self.norm_per_head:
            raise ValueError("queries and keys normalized over all heads are normalized before they are rotated")
        if self.norm_after_rope and self.key_norm is not None and self.key_norm.kind != "rms":
            raise ValueError("keys are normalized after they are rotated by RMS norms, whose size no rotation changes")
        if self.alibi is not None and (len(self.alibi.slopes) != self.heads or self.softcap):
            raise ValueError(f"{len(self.alibi.slopes)} slopes for {self.heads} heads, softcap {self.softcap}")

    def why_not_static(self) -> str:
        """See :class:`Mixer`."""
        return "" if self.alibi is None else "its ALiBi follows from lengths, which a static call has not"

    @property
    def side(self) -> int:
        """See :class:`Mixer`."""
        return 0 if self.stored_at is None else self.stored_at + 2 * self.kv_heads * self.head_dim

    @property
    def widths(self) -> list[int]:
        """Rows of q, of k and of v."""
        return [heads * self.head_dim for heads in (self.heads, self.kv_heads, self.kv_heads)]

    @property
    def gate_by_head(self) -> bool:
        """Whether the gate has one number for all of a head."""
        return self.gate is not None and self.gate.weight.shape[0] == self.heads

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.qkv,) if self.gate is None else (self.qkv, self.gate), (self.output,)

    def states(self, layer: int, floats: StateType = "float32") -> tuple[State, ...]:
        """Keys and values, as transformers and onnxruntime-genai name them."""
        return tuple(
            State(
                name=f"layers.{layer}.{part}",
                input=f"past_key_values.{layer}.{part}",
                output=f"present.{layer}.{part}",
                shape=("batch", self.kv_heads, "past", self.head_dim),
                type=floats,
                kind="key-value",
            )
            for part in ("key", "value")
        )

    def rotated_keys(self, layer: int) -> RotatedKeys | None:
        """See :class:`Mixer`; a norm after the rotation has a gain for each channel."""
        if self.rope is None:
            return None
        gain = self.key_norm.weight if self.norm_after_rope and self.key_norm is not None else None
        return RotatedKeys(f"layers.{layer}.key", self.rope, gain=gain)

    def source(self) -> Source | str:
        """The rows of v: attention mixes positions, not channels; all query heads of a group use the same v."""
        if self.inner_norm is not None:
            return "the norm before it does not pass a scale on"
        if self.clip:
            return "v is cut off before it, which does not pass a scale on"
        if self.value_norm:
            return "a norm before it does not pass a scale on"
        start, rows = sum(self.widths[:2]), self.widths[2]
        repeats = self.heads // self.kv_heads
        return Source(self.qkv, slice(start, start + rows), self.head_dim, repeats, turns=self.gate is None)

    def ropes(self) -> tuple[str, ...]:
        """See :class:`Mixer`."""
        return () if self.rope is None else (self.rope,)

    def windows(self) -> tuple[int, ...]:
        """See :class:`Mixer`."""
        return () if self.window is None else (self.window,)

    def cache_window(self) -> int | None:
        """See :class:`Mixer`; layers that share keys and values read those of a call's first token, too."""
        return self.window if self.stored_at is None else None

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`; ``scale`` is not among them, as it can be moved into the weights."""
        cut = (self.clip, self.value_norm)
        return self.rope, self.window, self.softcap, *cut, self.norm_after_rope, self.alibi, self.stored_at

    def made_up_for(self, new: Self) -> dict[str, NDArray[np.float32]]:
        """The queries take what another scale leaves out, where it follows from the layer's number (GPT-2's option)."""
        if self.scale == new.scale:
            return {}
        if self.query_norm is not None:
            raise ValueError("a scale by layer cannot be moved through a norm")
        factor = np.ones(self.qkv.weight.shape[0], np.float32)
        factor[: self.widths[0]] = self.scale / new.scale
        return {weight.name: factor for weight in (new.qkv.weight, new.qkv.bias) if weight is not None}

    def sizes(self) -> dict[str, int] | None:
        """See :class:`Mixer`; what heads give together is normed as wide as the stream (BitNet)."""
        return {"head_dim": self.head_dim} if self.inner_norm is None else None

    def genai(self) -> dict[str, object]:
        """See :class:`Mixer`."""
        return {
            "head_size": self.head_dim,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
        }


# ---- torch ----------------------------------------------------------------------------------------------------------


def steps(a: Attention, values: Values, x: Tensor, ropes: Mapping[str, Rotary]) -> Steps:
    """The steps in torch."""
    from edgepress.exporter.model.operations import norm_forward, project

    qkv, *gates = yield from project(a.input_projections, values, x)
    y = attend(a, values, qkv, None if a.rope is None else ropes[a.rope])
    for gate in gates:
        y = y * _opened(a, gate)
    (y,) = yield from project((a.output,), values, norm_forward(a.inner_norm, values, y))
    return y


def _opened(a: Attention, gate: Tensor) -> Tensor:
    """How far each channel is open, (…, heads · head_dim)."""
    return gate.sigmoid().repeat_interleave(a.head_dim if a.gate_by_head else 1, dim=-1)


def steps_with_side(
    a: Attention, values: Values, x: Tensor, ropes: Mapping[str, Rotary], side: Tensor
) -> StepsWithSide:
    """As :func:`steps`; keys and values are left beside the stream, for other layers."""
    import torch

    from edgepress.exporter.model.operations import project

    assert a.stored_at is not None
    qkv, *gates = yield from project(a.input_projections, values, x)
    q, k, v = _by_head(a, values, qkv, None if a.rope is None else ropes[a.rope])
    kept = [y.transpose(1, 2).flatten(-2) for y in (k, v)]  # (sequences, length, kv_heads · head_dim) each
    side = torch.cat([side[..., : a.stored_at], *kept, side[..., a.side :]], dim=-1)
    y = _attend(a, values, q, k, v)
    for gate in gates:
        y = y * _opened(a, gate)
    (y,) = yield from project((a.output,), values, y)
    return y, side


def attend(a: Attention, values: Values, qkv: Tensor, rotary: Rotary | None) -> Tensor:
    """qkv (sequences, length, rows) → attended values (sequences, length, heads · head_dim)."""
    q, k, v = _by_head(a, values, qkv, rotary)
    return _attend(a, values, q, k, v)


def _by_head(a: Attention, values: Values, qkv: Tensor, rotary: Rotary | None) -> tuple[Tensor, Tensor, Tensor]:
    """Q, k and v, normed and rotated, (sequences, heads, length, head_dim) each."""
    import torch
    from torch.nn.functional import rms_norm

    from edgepress.exporter.model.operations import norm_forward

    sequences, length, _ = qkv.shape
    if a.clip:
        qkv = qkv.clamp(-a.clip, a.clip)
    q, k, v = torch.split(qkv, a.widths, dim=-1)
    if not a.norm_per_head:
        q, k = norm_forward(a.query_norm, values, q), norm_forward(a.key_norm, values, k)
    q, k, v = (y.reshape(sequences, length, -1, a.head_dim) for y in (q, k, v))  # by head, (…, heads, head_dim)
    if a.norm_per_head and not a.norm_after_rope:
        q, k = norm_forward(a.query_norm, values, q), norm_forward(a.key_norm, values, k)
    if a.value_norm:
        v = rms_norm(v, (a.head_dim,), eps=a.value_norm)
    if rotary is not None:
        q, k = rotate_heads(rotary, q), rotate_heads(rotary, k)
    if a.norm_after_rope:
        q, k = norm_forward(a.query_norm, values, q), norm_forward(a.key_norm, values, k)
    if rotary is not None and rotary.query_factors is not None:
        q = q * rotary.query_factors[:, None, None]
    q, k, v = (y.transpose(1, 2) for y in (q, k, v))
    return q, k, v


def _attend(a: Attention, values: Values, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Values attended, (sequences, length, heads · head_dim)."""
    sinks = None if a.sinks is None else values(a.sinks)
    found = attend_heads(q, k, v, scale=a.scale, window=a.window, softcap=a.softcap, alibi=a.alibi, sinks=sinks)
    return found.transpose(1, 2).flatten(-2)


def attend_heads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    window: int | None,
    softcap: float = 0.0,
    alibi: Alibi | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Causal attention of every head: (sequences, heads, length, head_dim) → the same."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    length, repeats = q.shape[2], q.shape[1] // k.shape[1]
    if softcap or sinks is not None:
        k, v = (y.repeat_interleave(repeats, dim=1) for y in (k, v))
        scores = q @ k.transpose(-1, -2) * scale  # (sequences, heads, query, key)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        scores = scores.masked_fill(~_seen(length, window, q), -torch.inf)
        if sinks is None:
            return scores.softmax(-1) @ v
        with_sink = torch.cat([scores, sinks[:, None, None].expand(*scores.shape[:3], 1)], dim=-1)
        return with_sink.softmax(-1)[..., :-1] @ v
    if alibi is None and (window is None or window >= length):
        return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=repeats > 1)
    mask = _seen(length, window, q)
    if alibi is not None:
        mask = _biases(alibi, length, q).masked_fill(~mask, -torch.inf)
    return scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=repeats > 1)


def _seen(length: int, window: int | None, like: Tensor) -> Tensor:
    """Which keys a query sees, (query, key): itself and what is before it within the window."""
    import torch

    position = torch.arange(length, device=like.device)
    back = position[:, None] - position[None]
    return (back >= 0) & (back < (window or length))


def _biases(alibi: Alibi, length: int, like: Tensor) -> Tensor:
    """What ALiBi adds, (heads, query or 1, key)."""
    import torch

    position = torch.arange(length, device=like.device, dtype=torch.bfloat16 if alibi.in_bfloat16 else like.dtype)
    slopes = torch.tensor(alibi.slopes, device=like.device, dtype=position.dtype)[:, None, None]
    if alibi.in_bfloat16:
        return (slopes * position).to(like.dtype) * alibi.factor
    return slopes * (position[None] - position[:, None])


def rotate_heads(rotary: Rotary, x: Tensor) -> Tensor:
    """Rotate the pairs of x (sequences, length, heads, head_dim): (d, d + rotated / 2), or neighbours."""
    import torch

    half = rotary.cos.shape[-1]
    cos, sin = rotary.cos[:, None], rotary.sin[:, None]  # (length, 1, rotated / 2)
    rest = x[..., 2 * half :]
    if rotary.interleaved:
        first, second = x[..., : 2 * half : 2], x[..., 1 : 2 * half : 2]
    else:
        first, second = x[..., :half], x[..., half : 2 * half]
    real, imaginary = first * cos - second * sin, second * cos + first * sin
    if rotary.interleaved:
        return torch.cat([torch.stack([real, imaginary], dim=-1).flatten(-2), rest], dim=-1)
    return torch.cat([real, imaginary, rest], dim=-1)


# ---- graph ----------------------------------------------------------------------------------------------------------


def write(a: Attention, g: GraphWriter, name: str, x: str, states: Sequence[tuple[str, str]]) -> str:
    """Attend with rotary embedding and cache inside GroupQueryAttention, in the type that the cache has.

    ::

        x ─ qkv ─ (Clip) ────────────────────┬ GroupQueryAttention ┬ attended (─ Mul sigmoid(gate))
              └ (Split ─ norm q, norm k)     │                     └ present.{i}.key, .value
        past_key_values.{i}.key, .value ─────┘

    Where norms come after the rotary embedding, or the operator cannot rotate, q and k are rotated by their own nodes.
    """
    check_head_dim(a.head_dim)
    qkv = g.linear(a.qkv, x)
    if a.clip:
        ends = [g.constant(f"clip_{end:.9g}", np.array(end, np.float32)) for end in (-a.clip, a.clip)]
        qkv = g.node("Clip", [qkv, *ends], f"{name}.clipped")
    apart = _rotates_apart(a, g)
    rope = [] if a.rope is None else list(g.rotary(a.rope))
    factors = "" if a.rope is None else g.query_factors(a.rope)
    normed = a.query_norm is not None or a.key_norm is not None
    query = [qkv, "", ""]
    if apart or normed or factors or a.value_norm:
        query = _split_qkv(a, g, qkv, name)
    if normed and not a.norm_after_rope:
        query = _normed(a, g, query)
    if a.value_norm:
        query[2] = _normed_values(a, g, query[2])
    with g.in_type_of(states[0][0]):
        if apart:
            query, rope = _rotated(a, g, query, rope), []
        if normed and a.norm_after_rope:
            query = _normed(a, g, query)
        if factors:  # numbers, which may come before a rotation
            query[0] = g.node("Mul", [query[0], factors], f"{name}.q_grown")
        bias = [] if a.alibi is None else [*([] if rope else ["", "", ""]), g.alibi(a.alibi)]
        inputs = [*query, *(before for before, _ in states), "seqlens_k", "total_length", *rope, *bias]
        if a.sinks is not None:
            inputs += [""] * (_SINKS - len(inputs)) + [g.weight(a.sinks)]
        attended = g.node(
            "GroupQueryAttention",
            inputs,
            f"{name}.attended",
            domain=CONTRIB,
            more_outputs=[after for _, after in states],
            num_heads=a.heads,
            kv_num_heads=a.kv_heads,
            do_rotary=int(bool(rope)),
            rotary_interleaved=int(bool(rope) and _is_interleaved(a, g)),
            scale=a.scale,
            softcap=a.softcap,
            local_window_size=-1 if a.window is None else a.window,
            **({"sliding_window_cache": 1} if g.keeps_window(states[0][0]) else {}),
        )
    if a.gate is not None:
        gate = g.node("Sigmoid", [g.linear(a.gate, x)], f"{name}.open")
        attended = (
            _gated_by_head(a, g, attended, gate, name)
            if a.gate_by_head
            else g.node("Mul", [attended, gate], f"{name}.gated")
        )
    return g.norm(a.inner_norm, attended, f"{name}.inner_norm")


def _gated_by_head(a: Attention, g: GraphWriter, attended: str, gate: str, name: str) -> str:
    """Multiply each head of what is attended by its number: ``Reshape ─ Mul Reshape(gate) ─ Reshape``."""
    each = _apart(g, gate, a.heads, 1)
    gated = g.node("Mul", [_apart(g, attended, a.heads, a.head_dim), each], f"{name}.gated_heads")
    return _together(g, gated, a.heads * a.head_dim, f"{name}.gated")


def check_head_dim(head_dim: int) -> None:
    """Raise InputError for heads that onnxruntime's CPU kernel does not take."""
    if head_dim % _HEAD_MULTIPLE:
        raise InputError(
            f"head_dim is {head_dim}; GroupQueryAttention takes multiples of {_HEAD_MULTIPLE} only, "
            "so this model cannot be exported"
        )


def _rotates_apart(a: Attention, g: GraphWriter) -> bool:
    """Whether rotary embedding must be a node of its own.

    Inside onnxruntime's GroupQueryAttention heads must be a multiple of 16 wide, and so must what is rotated of them.
    """
    return a.rope is not None and bool(a.norm_after_rope or a.head_dim % 16 or g.rotated_dimensions(a.rope) % 16)


def _is_interleaved(a: Attention, g: GraphWriter) -> bool:
    """Whether what is rotated are pairs of neighbours."""
    return a.rope is not None and g.rotates_neighbours(a.rope)


def _split_qkv(a: Attention, g: GraphWriter, qkv: str, name: str) -> list[str]:
    """Split into q, k and v, each (batch, sequence, its heads · head_dim)."""
    sizes = g.constant(f"qkv_widths_{'_'.join(map(str, a.widths))}", np.array(a.widths, np.int64))
    q, k, v = (f"{name}.{part}" for part in "qkv")
    g.node("Split", [qkv, sizes], q, more_outputs=[k, v], axis=-1)
    return [q, k, v]


def _normed(a: Attention, g: GraphWriter, qkv: list[str]) -> list[str]:
    """Norm q and k, per head or over all heads together."""
    q, k, v = qkv
    normed = []
    for norm, x, heads in ((a.query_norm, q, a.heads), (a.key_norm, k, a.kv_heads)):
        if norm is None or not a.norm_per_head:
            normed.append(g.norm(norm, x, f"{x}_norm"))
        else:
            normed.append(normed_heads(g, norm, x, heads, a.head_dim))
    return [*normed, v]


def normed_heads(g: GraphWriter, norm: Norm, x: str, heads: int, head_dim: int) -> str:
    """Norm each head of x (batch, sequence, heads · head_dim)."""
    rows = heads if norm.weight.shape != (head_dim,) else 1
    y = g.norm(norm, _apart(g, x, heads, head_dim), f"{x}_norm", rows=rows)
    return _together(g, y, heads * head_dim, f"{x}_normed")


def _normed_values(a: Attention, g: GraphWriter, v: str) -> str:
    """Norm each head of v, without a gain."""
    ones = g.constant(f"ones_{a.head_dim}", np.ones(a.head_dim, np.float32))
    apart = _apart(g, v, a.kv_heads, a.head_dim)
    y = g.node("SimplifiedLayerNormalization", [apart, ones], f"{v}_norm.y", axis=-1, epsilon=a.value_norm)
    return _together(g, y, a.kv_heads * a.head_dim, f"{v}_normed")


def _apart(g: GraphWriter, x: str, heads: int, head_dim: int) -> str:
    """Heads as an axis of their own, (batch, sequence, heads, head_dim)."""
    shape = g.constant(f"by_{heads}_heads_of_{head_dim}", np.array([0, 0, heads, head_dim], np.int64))
    return g.node("Reshape", [x, shape], f"{x}_by_head")


def _together(g: GraphWriter, x: str, width: int, output: str) -> str:
    return g.node("Reshape", [x, g.constant(f"flat_{width}", np.array([0, 0, width], np.int64))], output)


def _rotated(a: Attention, g: GraphWriter, qkv: list[str], rope: list[str]) -> list[str]:
    """Rotate q and k by nodes of their own; ``rope`` is cos, sin and the row of each token."""
    if a.rope is None:
        raise ValueError("attention without a rope is not rotated")
    rotated = g.rotated_dimensions(a.rope)
    partial = rotated < a.head_dim
    q, k, v = qkv
    cos, sin, rows = rope
    return [
        *(
            g.node(
                "RotaryEmbedding",
                [x, rows, cos, sin],
                f"{x}_rotated",
                domain=CONTRIB,
                num_heads=heads,
                rotary_embedding_dim=rotated if partial else 0,
                interleaved=int(_is_interleaved(a, g)),
            )
            for x, heads in ((q, a.heads), (k, a.kv_heads))
        ),
        v,
    ]


MIXER = MixerKind(Attention, steps=steps, write=write, steps_with_side=steps_with_side)
