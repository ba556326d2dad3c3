"""A decoder in torch, computed from its description: what calibration runs, differentiates and looks into.

Free functions over activations; weights come from a callable, so that the same code runs the checkpoint's weights,
quantized ones and ones that are being learned. Held against transformers, for every architecture, in
tests/exporter/model/test_network.py.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from edgepress.exporter.model.description import MLP, Attention, Decoder, Layer, Linear, Norm, Rotation, Weight
from edgepress.exporter.model.rope import rope_tables
from edgepress.exporter.model.rotation import factors

Values = Callable[[Weight], Tensor]
"""Gives a weight in float32, in its own shape, on the device of the activations."""

Step = tuple[tuple[Linear, ...], Tensor]
"""Projections that share their input, and that input, (sequences, length, columns)."""

Steps = Generator[Step, Tensor, Tensor]
"""Yields each :data:`Step` before it is computed, is sent what is to go in, and returns the output."""

Tap = Callable[[tuple[Linear, ...], Tensor], Tensor]
"""Sees a :data:`Step` and returns what is to go into the projections."""

Added = Callable[[Tensor], Tensor]
"""Sees what is added to the residual stream, (sequences, length, hidden), and returns what is added in its place."""


@dataclass(frozen=True)
class Rotary:
    """Tables of one rope for the positions of a sequence, each (length, rotated / 2)."""

    cos: Tensor
    sin: Tensor


def rotaries(decoder: Decoder, length: int, device: torch.device | str = "cpu") -> dict[str, Rotary]:
    """Tables of every rope of ``decoder`` for sequences of ``length`` tokens from position 0."""
    return {
        name: Rotary(*(torch.tensor(table, device=device) for table in rope_tables(rope, length)))
        for name, rope in decoder.ropes.items()
    }


def embed(decoder: Decoder, values: Values, tokens: Tensor) -> Tensor:
    """Tokens (sequences, length) → residual stream (sequences, length, hidden)."""
    x = functional.embedding(tokens, values(decoder.embedding)) * decoder.embedding_multiplier
    if decoder.positions is not None:
        x = x + values(decoder.positions)[: tokens.shape[1]]
    return x if decoder.rotation is None else rotate(decoder.rotation, x)


def rotate(rotation: Rotation, x: Tensor, *, back: bool = False) -> Tensor:
    """``x (A ⊗ B)``, or ``x (A ⊗ B)ᵀ`` to go ``back``; x (…, hidden)."""
    left, right = (torch.from_numpy(factor).to(x) for factor in factors(rotation))
    matrix = x.reshape(*x.shape[:-1], rotation.left, rotation.right)
    return (left @ matrix @ right.T if back else left.T @ matrix @ right).reshape(x.shape)


def layer_steps(layer: Layer, values: Values, x: Tensor, rotary: Rotary | None, added: Added | None = None) -> Steps:
    """One decoder layer on the residual stream, (sequences, length, hidden) → the same, a step at a time.

    A projection's weights are asked for after its step was answered, so that they can be made in between.
    """
    attention, mlp = layer.attention, layer.mlp
    (qkv,) = yield from _project((attention.qkv,), values, norm_forward(layer.attention_norm, values, x))
    (y,) = yield from _project((attention.output,), values, attend(attention, values, qkv, rotary))
    y = layer.residual_multiplier * norm_forward(layer.attention_post_norm, values, y)
    x = x + (y if added is None else added(y))
    group = (mlp.up,) if mlp.gate is None else (mlp.gate, mlp.up)
    projected = yield from _project(group, values, norm_forward(layer.mlp_norm, values, x))
    (y,) = yield from _project((mlp.down,), values, mlp_activation(mlp, projected))
    y = layer.residual_multiplier * norm_forward(layer.mlp_post_norm, values, y)
    return x + (y if added is None else added(y))


def _project(group: tuple[Linear, ...], values: Values, x: Tensor) -> Generator[Step, Tensor, list[Tensor]]:
    """What projections that share their input give."""
    x = yield group, x
    return [linear_forward(linear, values, x) for linear in group]


def head_steps(decoder: Decoder, values: Values, x: Tensor) -> Steps:
    """Residual stream (…, hidden) → logits (…, vocabulary)."""
    if decoder.rotation is not None:
        x = rotate(decoder.rotation, x, back=True)
    x = yield (decoder.head,), norm_forward(decoder.final_norm, values, x)
    logits = linear_forward(decoder.head, values, x) * decoder.logits_multiplier
    cap = decoder.logits_softcap
    return cap * torch.tanh(logits / cap) if cap else logits


def run(steps: Steps, tap: Tap | None = None) -> Tensor:
    """Compute all steps to the end; ``tap`` sees each."""
    try:
        step = next(steps)
        while True:
            step = steps.send(step[1] if tap is None else tap(*step))
    except StopIteration as end:
        output: Tensor = end.value
        return output


def layer_forward(
    layer: Layer,
    values: Values,
    x: Tensor,
    rotary: Rotary | None,
    tap: Tap | None = None,
    *,
    added: Added | None = None,
) -> Tensor:
    """One decoder layer on the residual stream, (sequences, length, hidden) → the same."""
    return run(layer_steps(layer, values, x, rotary, added), tap)


def head_forward(decoder: Decoder, values: Values, x: Tensor, tap: Tap | None = None) -> Tensor:
    """Residual stream (…, hidden) → logits (…, vocabulary)."""
    return run(head_steps(decoder, values, x), tap)


def linear_forward(linear: Linear, values: Values, x: Tensor) -> Tensor:
    """``x Wᵀ + b``, (…, columns) → (…, rows)."""
    return functional.linear(x, values(linear.weight), None if linear.bias is None else values(linear.bias))


def logits(decoder: Decoder, values: Values, tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Logits (length, vocabulary) of one text (length,); ``values`` is asked for a weight when it is needed."""
    ids = torch.from_numpy(np.asarray(tokens, np.int64))[None]
    tables = rotaries(decoder, ids.shape[1])
    with torch.no_grad():
        x = embed(decoder, values, ids)
        for layer in decoder.layers:
            rotary = None if layer.attention.rope is None else tables[layer.attention.rope]
            x = layer_forward(layer, values, x, rotary)
        found: NDArray[np.float32] = head_forward(decoder, values, x)[0].numpy()
    return found


def norm_forward(norm: Norm | None, values: Values, x: Tensor) -> Tensor:
    """RMS or layer normalization over the last dimension; the identity when there is none."""
    if norm is None:
        return x
    gain, width = values(norm.weight), (x.shape[-1],)
    if norm.kind == "layer":
        return functional.layer_norm(x, width, gain, None if norm.bias is None else values(norm.bias), norm.epsilon)
    return functional.rms_norm(x, width, gain, norm.epsilon)


def attend(a: Attention, values: Values, qkv: Tensor, rotary: Rotary | None) -> Tensor:
    """Causal grouped-query attention: qkv (sequences, length, rows) → (sequences, length, heads · head_dim)."""
    sequences, length, _ = qkv.shape
    widths = [heads * a.head_dim for heads in (a.heads, a.kv_heads, a.kv_heads)]
    q, k, v = torch.split(qkv, widths, dim=-1)
    if not a.norm_per_head:
        q, k = norm_forward(a.query_norm, values, q), norm_forward(a.key_norm, values, k)
    # to (sequences, heads, length, head_dim) each
    q = q.reshape(sequences, length, a.heads, a.head_dim).transpose(1, 2)
    k, v = (y.reshape(sequences, length, a.kv_heads, a.head_dim).transpose(1, 2) for y in (k, v))
    if a.norm_per_head:
        q, k = norm_forward(a.query_norm, values, q), norm_forward(a.key_norm, values, k)
    if rotary is not None:
        q, k = _rotate(rotary, q), _rotate(rotary, k)
    return _attend(a, q, k, v).transpose(1, 2).reshape(sequences, length, -1)


def _attend(a: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    length = q.shape[2]
    if a.softcap:
        k, v = (y.repeat_interleave(a.heads // a.kv_heads, dim=1) for y in (k, v))
        scores = q @ k.transpose(-1, -2) * a.scale  # (sequences, heads, query, key)
        scores = a.softcap * torch.tanh(scores / a.softcap)
        return scores.masked_fill(~_seen(length, a.window, q.device), -torch.inf).softmax(-1) @ v
    grouped = a.heads != a.kv_heads
    if a.window is None or a.window >= length:
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=a.scale, enable_gqa=grouped)
    mask = _seen(length, a.window, q.device)
    return functional.scaled_dot_product_attention(q, k, v, mask, scale=a.scale, enable_gqa=grouped)


def _seen(length: int, window: int | None, device: torch.device) -> Tensor:
    """Which keys a query sees, (query, key): itself and what is before it within the window."""
    position = torch.arange(length, device=device)
    back = position[:, None] - position[None]
    return (back >= 0) & (back < (window or length))


def _rotate(rotary: Rotary, x: Tensor) -> Tensor:
    """Rotate the pairs (d, d + rotated / 2) of x (sequences, heads, length, head_dim)."""
    half = rotary.cos.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([first * rotary.cos - second * rotary.sin, second * rotary.cos + first * rotary.sin, rest], dim=-1)


def mlp_activation(mlp: MLP, projected: list[Tensor]) -> Tensor:
    """What goes into ``down``: ``activation(gate) · up``, or ``activation(up)`` when that is all that is projected."""
    activation, up = _ACTIVATIONS[mlp.activation], projected[-1]
    return activation(up) if mlp.gate is None else activation(projected[0]) * up


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}
