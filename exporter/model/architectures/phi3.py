"""Phi-3 and Phi-4-mini (Abdin et al. 2024): Llama with qkv and gate/up stored fused, partial rotary, longrope."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    effective_window,
    fused_mlp,
    linear,
    pre_norm_layer,
    read_activation,
    read_sizes,
    rms_decoder,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.attention import Attention
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

ROPE_NAMES = {"su": "longrope", "yarn": "longrope"}  # what transformers' Phi3Config takes these two for


def read(config: Config) -> Decoder:
    """Defaults are transformers' Phi3Config's; ``sliding_window`` is in every layer, none by default.

    The reference computes a cache anew when generation crosses ``original_max_position_embeddings`` and the long
    factors set in; a graph with a cache goes on from keys that were rotated with the short ones.
    """
    sizes = read_sizes(
        config, vocab=32064, hidden=3072, intermediate=8192, layers=32, heads=32, kv_heads=None, context=4096
    )
    rope = read_rope(
        config,
        head_dim=sizes.head_dim,
        context_length=sizes.context,
        partial=True,
        aliases=ROPE_NAMES,
        types=("default", "longrope"),
        original_context=4096,
    )
    sliding = config.optional_integer("sliding_window")
    window = None if sliding is None else effective_window(sliding, sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")

    def layer(index: int) -> Layer:
        attention = _attention(index, sizes, window)
        return pre_norm_layer(index, sizes, epsilon, attention, fused_mlp(index, sizes, activation))

    return rms_decoder(config, "phi3", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def _attention(index: int, sizes: Sizes, window: int | None) -> Attention:
    name, tensors = f"layers.{index}.attention", f"model.layers.{index}.self_attn"
    query_rows, key_rows = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    return Attention(
        heads=sizes.heads,
        kv_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        scale=sizes.head_dim**-0.5,
        qkv=linear(f"{name}.qkv", f"{tensors}.qkv_proj", query_rows + 2 * key_rows, sizes.hidden),
        output=linear(f"{name}.output", f"{tensors}.o_proj", sizes.hidden, query_rows),
        rope="default",
        window=window,
    )


ARCHITECTURE = Architecture(model_type="phi3", read=read, ignored_tensors=IGNORED_TENSORS)
