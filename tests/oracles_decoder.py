"""A decoder's logits in numpy float64, written from the description alone: what the graph must compute.

Slow and plain: no cache, no fused operators, one sequence. Independent of onnxruntime and of torch.
"""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgepress.exporter.model.description import MLP, Attention, Decoder, Linear, Norm, Rope, Weight
from edgepress.exporter.model.rotation import factors

Array = NDArray[np.float64]
Read = Callable[[str], NDArray[np.float32]]


def forward(
    decoder: Decoder,
    read: Read,
    tokens: NDArray[np.int64],
    rounding: Callable[[Linear, Array], Array] | None = None,
) -> Array:
    """Return logits (length, vocabulary); ``read`` gives a checkpoint tensor by name.

    With ``rounding``, what goes into a projection is first rounded as that function says.
    """
    model = _Model(read, rounding)
    x = model.weight(decoder.embedding)[tokens] * decoder.embedding_multiplier  # (length, hidden)
    if decoder.positions is not None:
        x = x + model.weight(decoder.positions)[: len(tokens)]
    rotation = np.kron(*factors(decoder.rotation)) if decoder.rotation is not None else np.eye(decoder.hidden_size)
    x = x @ rotation
    for layer in decoder.layers:
        rope = decoder.ropes[layer.attention.rope] if layer.attention.rope is not None else None
        y = model.attention(layer.attention, rope, model.norm(layer.attention_norm, x))
        x = x + layer.residual_multiplier * model.norm(layer.attention_post_norm, y)
        y = model.mlp(layer.mlp, model.norm(layer.mlp_norm, x))
        x = x + layer.residual_multiplier * model.norm(layer.mlp_post_norm, y)
    logits = model.linear(decoder.head, model.norm(decoder.final_norm, x @ rotation.T)) * decoder.logits_multiplier
    cap = decoder.logits_softcap
    return cap * np.tanh(logits / cap) if cap else logits


class _Model:
    def __init__(self, read: Read, rounding: Callable[[Linear, Array], Array] | None) -> None:
        self.read, self.rounding = read, rounding

    def weight(self, weight: Weight) -> Array:
        pieces = []
        for part in weight.parts:
            tensor = self.read(part.tensor).astype(np.float64)
            pieces.append((tensor.T if part.transposed else tensor)[part.start : part.stop])
        whole = np.concatenate(pieces)
        assert whole.shape == weight.shape, (weight.name, whole.shape, weight.shape)
        return whole + weight.plus

    def linear(self, linear: Linear, x: Array) -> Array:
        if self.rounding is not None:
            x = self.rounding(linear, x)
        y = x @ self.weight(linear.weight).T
        return y if linear.bias is None else y + self.weight(linear.bias)

    def norm(self, norm: Norm | None, x: Array) -> Array:
        if norm is None:
            return x
        centred = x - x.mean(-1, keepdims=True) if norm.kind == "layer" else x
        y = centred / np.sqrt(np.mean(centred**2, -1, keepdims=True) + norm.epsilon) * self.weight(norm.weight)
        return y if norm.bias is None else y + self.weight(norm.bias)

    def attention(self, a: Attention, rope: Rope | None, x: Array) -> Array:
        length = len(x)
        widths = np.cumsum([a.heads * a.head_dim, a.kv_heads * a.head_dim])
        q, k, v = np.split(self.linear(a.qkv, x), widths, axis=-1)
        if not a.norm_per_head:
            q, k = self.norm(a.query_norm, q), self.norm(a.key_norm, k)
        q = q.reshape(length, a.heads, a.head_dim)
        k, v = (y.reshape(length, a.kv_heads, a.head_dim) for y in (k, v))
        if a.norm_per_head:
            q, k = self.norm(a.query_norm, q), self.norm(a.key_norm, k)
        if rope is not None:
            q, k = rotate(rope, q), rotate(rope, k)
        k, v = (np.repeat(y, a.heads // a.kv_heads, axis=1) for y in (k, v))  # each kv head serves a group
        scores = np.einsum("ihd,jhd->hij", q, k) * a.scale  # (heads, query, key)
        if a.softcap:
            scores = a.softcap * np.tanh(scores / a.softcap)
        i, j = np.ogrid[:length, :length]
        seen = (j <= i) & (j > i - (a.window or length))
        scores = np.where(seen, scores, -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        return self.linear(a.output, np.einsum("hij,jhd->ihd", shares, v).reshape(length, -1))

    def mlp(self, mlp: MLP, x: Array) -> Array:
        act = ACTIVATIONS[mlp.activation]
        up = self.linear(mlp.up, x)
        return self.linear(mlp.down, act(up) if mlp.gate is None else act(self.linear(mlp.gate, x)) * up)


def rotate(rope: Rope, x: Array) -> Array:
    """Rotate the pairs (d, d + rotated/2) of x (length, heads, head_dim)."""
    is_long = rope.long_inverse_frequencies is not None and len(x) > rope.long_from
    chosen = rope.long_inverse_frequencies if is_long else rope.inverse_frequencies
    angles = np.arange(len(x))[:, None, None] * np.array(chosen)  # (length, 1, rotated / 2)
    cos, sin = np.cos(angles) * rope.attention_factor, np.sin(angles) * rope.attention_factor
    half = angles.shape[-1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def round_to_int8(x: Array, block: int) -> Array:
    """Round each block of ``block`` columns to 127 steps of its largest magnitude, as MLAS does before int8 products.

    In float32 and in MLAS's order: quantized embeddings lie on exact ties, which only the same rounding errors decide.
    """
    rows, columns = x.shape
    blocks = np.pad(x, ((0, 0), (0, -columns % block))).reshape(rows, -1, block).astype(np.float32)
    largest = np.maximum(np.abs(blocks).max(-1, keepdims=True), np.float32(1e-30))
    codes = np.round(blocks * (np.float32(127) / largest))
    step = largest / np.float32(127)
    return (codes * step).astype(np.float64).reshape(rows, -1)[:, :columns]


_erf = np.vectorize(math.erf)
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}
