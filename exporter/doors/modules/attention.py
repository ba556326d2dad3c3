"""torch's own attention (``nn.MultiheadAttention``, ``nn.TransformerEncoder``), traced as other encoders have theirs.

torch writes it for tensors whose first axis is a text's length, with texts and heads in one axis, and takes it apart by
shapes that are computed; nothing that looks for attention knows that. Here the same is written by text::

    x (b, l, e) ─ products ─ q, k, v (b, l, e) ─ (b, h, l, e/h) ─ scaled_dot_product_attention ─ (b, l, e) ─ product

and modules are held against what torch computes the other way. In evaluation torch has a third one, kernels of its own
(the fast path), which leaves zeros where a text is padded; neither graph nor comparison take that.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

FAST_PATH = (
    "nn.TransformerEncoder leaves zeros where a text is padded (torch's fast path); the graph gives there what the "
    "layers compute"
)


def pads_with_zeros(module: nn.Module) -> bool:
    """Whether torch's fast path would leave zeros in what a part of the module gives where a text is padded."""
    from torch import nn

    return any(isinstance(part, nn.TransformerEncoder) and part.use_nested_tensor for part in module.modules())


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Have torch's attention modules compute as they are written."""
    import torch

    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def attention_by_text() -> Iterator[None]:
    """Have ``torch.nn.functional.multi_head_attention_forward`` compute by text where it can, without the fast path.

    Layers do not look at the values of a mask whether it is causal, which is to choose a kernel: they take it as it is.
    """
    from torch.nn import functional
    from torch.nn.modules import transformer

    written, looks = functional.multi_head_attention_forward, transformer._detect_is_causal_mask
    signature = inspect.signature(written)

    def forward(*arguments: Any, **named: Any) -> tuple[Tensor, Tensor | None]:
        call = signature.bind(*arguments, **named)
        call.apply_defaults()
        asked = call.arguments
        unusual = [asked[name] is not None for name in ("bias_k", "bias_v", "static_k", "static_v")]
        unusual += [asked["query"].dim() != 3, asked["add_zero_attn"], asked["training"] and asked["dropout_p"] > 0]
        return written(*arguments, **named) if any(unusual) else _by_text(asked)

    def is_said(mask: Tensor | None, is_causal: bool | None = None, size: int | None = None) -> bool:  # noqa: ARG001
        return is_causal is True

    functional.multi_head_attention_forward = forward
    transformer._detect_is_causal_mask = is_said
    try:
        with without_fast_path():
            yield
    finally:
        functional.multi_head_attention_forward = written
        transformer._detect_is_causal_mask = looks


def _by_text(asked: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """What the call gives: (length, texts, width), and the weights (texts, …, length, keys) if they are asked for."""
    import torch
    from torch.nn import functional

    heads, needs_weights = asked["num_heads"], asked["need_weights"]
    q, k, v = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in _projected(asked))  # (texts, heads, length, ·)
    causal = asked["is_causal"] and asked["key_padding_mask"] is None and not needs_weights
    left_out = _left_out(asked["key_padding_mask"], None if causal else asked["attn_mask"], heads)
    mask = None if left_out is None else ~left_out if left_out.dtype == torch.bool else left_out
    found = functional.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
    output = functional.linear(found.transpose(1, 2).flatten(2), asked["out_proj_weight"], asked["out_proj_bias"])
    if not needs_weights:
        return output.transpose(0, 1), None
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if left_out is not None:
        scores = scores + _as_floats(left_out, scores)
    weights = scores.softmax(-1)
    return output.transpose(0, 1), weights.mean(1) if asked["average_attn_weights"] else weights


def _projected(asked: dict[str, Any]) -> Sequence[Tensor]:
    """Queries, keys and values (texts, length, width): of one product, of two or of three, as torch has them."""
    from torch.nn.functional import linear

    given = [asked[name] for name in ("query", "key", "value")]
    query, key, value = (one.transpose(0, 1) for one in given)
    weight, bias, width = asked["in_proj_weight"], asked["in_proj_bias"], asked["embed_dim_to_check"]
    parts = [slice(width), slice(width, 2 * width), slice(2 * width, None)]
    biases = [None if bias is None else bias[part] for part in parts]
    if asked["use_separate_proj_weight"]:
        weights = [asked[f"{name}_proj_weight"] for name in "qkv"]
    elif given[0] is given[1] is given[2]:
        return linear(query, weight, bias).chunk(3, -1)
    elif given[1] is given[2]:
        both = None if bias is None else bias[width:]
        return linear(query, weight[:width], biases[0]), *linear(key, weight[width:], both).chunk(2, -1)
    else:
        weights = [weight[part] for part in parts]
    return [linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]


def _left_out(padding: Tensor | None, masked: Tensor | None, heads: int) -> Tensor | None:
    """What attention leaves out: True, or what is added to scores; (length, keys) or (texts, heads or 1, ·, keys)."""
    import torch

    if masked is not None and masked.dim() == 3:  # (texts · heads, length, keys)
        masked = masked.view(-1, heads, *masked.shape[1:])
    if padding is None or masked is None:
        return masked if padding is None else padding[:, None, None]
    padding = padding[:, None, None]
    if padding.dtype == masked.dtype == torch.bool:
        return padding | masked
    floats = padding if padding.is_floating_point() else masked
    return _as_floats(padding, floats) + _as_floats(masked, floats)


def _as_floats(left_out: Tensor, like: Tensor) -> Tensor:
    """What is added to scores where that is left out."""
    import torch

    if left_out.dtype != torch.bool:
        return left_out
    return torch.zeros_like(left_out, dtype=like.dtype).masked_fill(left_out, float("-inf"))
