"""Attention of a layer that has queries alone: keys and values are those of an earlier one (Gemma 3n, Google 2025).

It needs nothing of its own from token to token, so that a model ends in layers that compute, of a prompt, the positions
alone whose logits are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgepress.exporter.model.description import Mixer
from edgepress.exporter.model.mixers import CONTRIB, GraphWriter, MixerKind
from edgepress.exporter.model.mixers.attention import (
    attend_heads,
    check_head_dim,
    normed_heads,
    rotate_heads,
)
from edgepress.exporter.model.parts.primitives import Linear, Norm, Source

if TYPE_CHECKING:
    from torch import Tensor

    from edgepress.exporter.model.operations import Rotary, Steps, StepsWithSide, Values


@dataclass(frozen=True, kw_only=True)
class SharedAttention(Mixer):
    """Causal grouped-query attention to the keys and values of layer ``keys_of``.

    These are normed and rotated already. In torch they stand beside the residual stream, from column ``stored_at`` on:
    keys, then values. The other fields are those of :class:`.attention.Attention`.
    """

    takes_no_tokens: ClassVar[bool] = False  # "sequence_length shall be 1 when it is not prompt", of its operator
    no_static_form: ClassVar[str] = "it reads the cache of another layer, which static graphs have no input for"
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    query: Linear
    query_norm: Norm | None = None
    output: Linear
    rope: str | None
    window: int | None = None
    softcap: float = 0.0
    keys_of: int
    stored_at: int

    @property
    def side(self) -> int:
        """See :class:`Mixer`."""
        return self.stored_at + 2 * self.kv_heads * self.head_dim

    def groups(self) -> tuple[tuple[Linear, ...], ...]:
        """See :class:`Mixer`."""
        return (self.query,), (self.output,)

    def source(self) -> Source | str:
        """Values are another layer's."""
        return "the values are another layer's"

    def ropes(self) -> tuple[str, ...]:
        """See :class:`Mixer`."""
        return () if self.rope is None else (self.rope,)

    def windows(self) -> tuple[int, ...]:
        """See :class:`Mixer`."""
        return () if self.window is None else (self.window,)

    def settings(self) -> tuple[object, ...]:
        """See :class:`Mixer`."""
        return self.rope, self.window, self.softcap, self.keys_of, self.stored_at

    def sizes(self) -> dict[str, int]:
        """See :class:`Mixer`."""
        return {"head_dim": self.head_dim}


def steps(a: SharedAttention, _values: Values, _x: Tensor, _ropes: Mapping[str, Rotary]) -> Steps:
    """There is no such attention without what is beside the stream."""
    raise NotImplementedError(f"keys and values of layer {a.keys_of} are beside the stream")


def steps_with_side(
    a: SharedAttention, values: Values, x: Tensor, ropes: Mapping[str, Rotary], side: Tensor
) -> StepsWithSide:
    """The steps in torch; keys and values are read beside the stream."""
    from edgepress.exporter.model.operations import norm_forward, project

    (q,) = yield from project((a.query,), values, x)
    tokens = x.shape[:2]
    q = norm_forward(a.query_norm, values, q.reshape(*tokens, a.heads, a.head_dim))
    if a.rope is not None:
        q = rotate_heads(ropes[a.rope], q)
    k, v = (
        y.reshape(*tokens, a.kv_heads, a.head_dim).transpose(1, 2)
        for y in side[..., a.stored_at : a.side].chunk(2, dim=-1)
    )
    attended = attend_heads(q.transpose(1, 2), k, v, scale=a.scale, window=a.window, softcap=a.softcap)
    (y,) = yield from project((a.output,), values, attended.transpose(1, 2).flatten(-2))
    return y, side


def write(a: SharedAttention, g: GraphWriter, name: str, x: str, _states: Sequence[tuple[str, str]]) -> str:
    """GroupQueryAttention without new keys: what it takes for the past is what the other layer has after this call.

    ::

        x ─ query ─ (norm) ─ (rotary) ┬────────────────── GroupQueryAttention ─ attended
                                      └ Slice (0 tokens) ──┤  (key and value)
        present.{keys_of}.key, .value ─────────────────────┘  (past)
    """
    check_head_dim(a.head_dim)
    query = g.linear(a.query, x)
    if a.query_norm is not None:
        query = normed_heads(g, a.query_norm, query, a.heads, a.head_dim)
    keys, shared = (f"present.{a.keys_of}.{part}" for part in ("key", "value"))
    with g.in_type_of(keys):
        if a.rope is not None:
            query = _rotated(a, g, query, a.rope)
        return g.node(
            "GroupQueryAttention",
            [query, *_none(a, g, query, name), keys, shared, "seqlens_k", "total_length"],
            f"{name}.attended",
            domain=CONTRIB,
            num_heads=a.heads,
            kv_num_heads=a.kv_heads,
            scale=a.scale,
            softcap=a.softcap,
            local_window_size=-1 if a.window is None else a.window,
        )


def _rotated(a: SharedAttention, g: GraphWriter, query: str, rope: str) -> str:
    """Queries rotated by a node of their own, which takes the positions that are computed."""
    cos, sin, rows = g.rotary(rope)
    rotated = g.rotated_dimensions(rope)
    return g.node(
        "RotaryEmbedding",
        [query, rows, cos, sin],
        f"{query}_rotated",
        domain=CONTRIB,
        num_heads=a.heads,
        rotary_embedding_dim=rotated if rotated < a.head_dim else 0,
        interleaved=int(g.rotates_neighbours(rope)),
    )


def _none(a: SharedAttention, g: GraphWriter, query: str, name: str) -> list[str]:
    """Keys and values of no token, (batch, 0, kv_heads · head_dim), which queries are wide enough to be cut from."""
    width = a.kv_heads * a.head_dim
    start = g.constant("none_start", np.array([0, 0], np.int64))
    stop = g.constant(f"none_{width}", np.array([0, width], np.int64))
    axes = g.constant("none_axes", np.array([1, 2], np.int64))
    return [g.node("Slice", [query, start, stop, axes], f"{name}.none")] * 2


MIXER = MixerKind(SharedAttention, steps=steps, write=write, steps_with_side=steps_with_side)
