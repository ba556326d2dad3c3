"""Attention: ONNX's own, and onnxruntime's for encoders and decoders."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgepress.exporter.interpreter.call import Call, Operator, Result

_CLOSED = -1e4  # onnxruntime's `mask_filter_value`


def _heads(x: Tensor, count: int) -> Tensor:
    """(batch, length, width) → (batch, heads, length, width / heads)."""
    return x.reshape(*x.shape[:2], count, -1).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, added: Tensor | None, *, softcap: float = 0.0) -> Tensor:
    """softmax(q kᵀ scale + added) v, each (batch, heads, length, head size)."""
    if q.shape[1] != k.shape[1]:
        k, v = (y.repeat_interleave(q.shape[1] // y.shape[1], 1) for y in (k, v))
    scores = (q * math.sqrt(scale)) @ (k * math.sqrt(scale)).mT
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    return torch.softmax(scores if added is None else scores + added, -1) @ v


def _causal(length: int, total: int, closed: float) -> Tensor:
    """0 where a query may look, else ``closed``, (length, total)."""
    is_open = torch.ones(length, total, dtype=torch.bool).tril(total - length)
    return torch.zeros(length, total).masked_fill(~is_open, closed)


def _attention(
    call: Call,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    lengths: Tensor | None = None,
) -> Result:
    """ai.onnx's (opset 23): inputs of three axes or of four; the new keys and values are outputs too."""
    call.only(qk_matmul_output_mode=0)
    if call.outputs > 3 or lengths is not None:
        call.refuse("its scores, or sequences of several lengths, are not known")
    is_flat = q.dim() == 3
    if is_flat:
        q = _heads(q, call.get("q_num_heads"))
        k, v = (_heads(y, call.get("kv_num_heads")) for y in (k, v))
    if past_k is not None and past_v is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    added = mask
    if mask is not None and mask.dtype == torch.bool:
        added = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -math.inf)
    if call.get("is_causal", 0):
        causal = _causal(q.shape[2], k.shape[2], -math.inf)
        added = causal if added is None else added + causal
    scale = call.get("scale", q.shape[-1] ** -0.5)
    made = _attend(q, k, v, scale, added, softcap=call.get("softcap", 0.0))
    return (_joined(made) if is_flat else made), k, v


def _padding(call: Call, mask: Tensor | None, length: int, total: int) -> Tensor | None:
    """A mask of 0 and 1 as what is added to scores: (batch, total), (batch, length, total) or lengths (batch,)."""
    if mask is None:
        return None
    closed = call.get("mask_filter_value", _CLOSED)
    if mask.dim() == 1:
        is_open = torch.arange(total)[None] < mask[:, None]
        return torch.zeros(is_open.shape).masked_fill(~is_open, closed)[:, None, None]
    if mask.dim() not in (2, 3):
        call.refuse(f"its mask has {mask.dim()} axes, and 1 to 3 are known")
    added = torch.zeros(mask.shape).masked_fill(mask == 0, closed)
    return added[:, None, None] if mask.dim() == 2 else added[:, None, :length]


def _multi_head(
    call: Call,
    q: Tensor,
    k: Tensor | None = None,
    v: Tensor | None = None,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    added: Tensor | None = None,
    past_k: Tensor | None = None,
    past_v: Tensor | None = None,
    *rest: Tensor | None,
) -> Result:
    """MultiHeadAttention: Q, K, V (batch, length, width), or K and V as heads, as those of a cross attention may be."""
    if any(one is not None for one in (past_k, past_v, *rest)):
        call.refuse("it keeps keys and values of earlier tokens")
    if k is None or v is None:
        call.refuse("queries, keys and values are packed in one input")
    heads, width = call.get("num_heads"), q.shape[-1]
    if bias is not None:
        parts = torch.split(bias, [width, width, len(bias) - 2 * width])
        q = q + parts[0]
        k, v = (y + part if y.dim() == 3 else y for y, part in zip((k, v), parts[1:], strict=True))
    q = _heads(q, heads)
    k, v = (_heads(y, heads) if y.dim() == 3 else y for y in (k, v))
    scores = _padding(call, mask, q.shape[2], k.shape[2])
    if added is not None:
        scores = added if scores is None else scores + added
    if call.get("unidirectional", 0):
        causal = _causal(q.shape[2], k.shape[2], call.get("mask_filter_value", _CLOSED))
        scores = causal if scores is None else scores + causal
    return _joined(_attend(q, k, v, call.get("scale", 0.0) or q.shape[-1] ** -0.5, scores)), k, v


def _group_query(
    call: Call,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    past_k: Tensor | None,
    past_v: Tensor | None,
    last: Tensor,
    total: Tensor,
    *rest: Tensor | None,
) -> Result:
    """GroupQueryAttention of rows that are all as long: each token sees itself and what is before it.

    Keys and values of earlier tokens, (batch, heads, past, head size), may be of no token; those of all are outputs.
    ``last`` (batch,) and ``total`` () are the last position and how many there are.
    """
    call.only(do_rotary=0, smooth_softmax=0, sliding_window_cache=0, local_window_size=-1, qk_output=0)
    added = rest[3] if len(rest) > 3 else None  # after cos, sin and positions
    if any(one is not None for index, one in enumerate(rest) if index != 3):
        call.refuse("rotary tables, sinks and scales of keys and values are not known")
    if bool((last + 1 != total).any()):
        call.refuse("its sequences have several lengths")
    heads, groups = call.get("num_heads"), call.get("kv_num_heads")
    if k is None or v is None:
        width = q.shape[-1] // (heads + 2 * groups)
        q, k, v = torch.split(q, [heads * width, groups * width, groups * width], -1)
    q, k, v = _heads(q, heads), _heads(k, groups), _heads(v, groups)
    if past_k is not None and past_v is not None:
        k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
    causal = _causal(q.shape[2], k.shape[2], -math.inf)
    scores = causal if added is None else added + causal
    scale = call.get("scale", 0.0) or q.shape[-1] ** -0.5
    return _joined(_attend(q, k, v, scale, scores, softcap=call.get("softcap", 0.0))), k, v


def _packed(
    call: Call,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
    past: Tensor | None = None,
    added: Tensor | None = None,
    *rest: Tensor | None,
) -> Result:
    """com.microsoft's Attention: the three projections and the attention, W (width, 3 · hidden)."""
    call.only(do_rotary=0)
    if past is not None or any(one is not None for one in rest) or call.outputs > 1:
        call.refuse("it keeps keys and values of earlier tokens")
    sizes = list(call.get("qkv_hidden_sizes", [weight.shape[1] // 3] * 3))
    projected = x @ weight
    projected = projected if bias is None else projected + bias
    q, k, v = (_heads(part, call.get("num_heads")) for part in torch.split(projected, sizes, -1))
    scores = _padding(call, mask, q.shape[2], k.shape[2])
    if added is not None:
        scores = added if scores is None else scores + added
    if call.get("unidirectional", 0):
        causal = _causal(q.shape[2], k.shape[2], call.get("mask_filter_value", _CLOSED))
        scores = causal if scores is None else scores + causal
    return _joined(_attend(q, k, v, call.get("scale", 0.0) or q.shape[-1] ** -0.5, scores))


def _rotary(call: Call, x: Tensor, *inputs: Tensor) -> Tensor:
    """RotaryEmbedding of both domains: x (batch, length, width) or (batch, heads, length, head size).

    ONNX has (cos, sin, positions), onnxruntime (positions, cos, sin); tables are (positions, rotated / 2).
    """
    is_onnx = ":" not in call.key
    cos, sin = inputs[:2] if is_onnx else inputs[1:3]
    positions = (inputs[2] if len(inputs) > 2 else None) if is_onnx else inputs[0]
    heads, is_flat = call.get("num_heads", 0), x.dim() == 3
    if is_flat:
        if not heads:
            call.refuse("num_heads is not given")
        x = _heads(x, heads)
    if positions is not None:
        if positions.numel() == 1 and not is_onnx:
            positions = positions.reshape(1, 1) + torch.arange(x.shape[2])
        cos, sin = cos[positions.long()], sin[positions.long()]  # (batch, length, rotated / 2)
    cos, sin = cos[:, None], sin[:, None]
    rotated = call.get("rotary_embedding_dim", 0) or x.shape[-1]
    turned, rest = x[..., :rotated], x[..., rotated:]
    if call.get("interleaved", 0):
        a, b = turned[..., 0::2], turned[..., 1::2]
        made = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        made = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    made = torch.cat([made, rest], -1)
    return _joined(made) if is_flat else made


OPERATORS: dict[str, Operator] = {
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    "com.microsoft:Attention": _packed,
    "com.microsoft:GroupQueryAttention": _group_query,
    "com.microsoft:MultiHeadAttention": _multi_head,
    "com.microsoft:RotaryEmbedding": _rotary,
}
