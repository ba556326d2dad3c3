"""Qwen3 with experts (Yang et al. 2025): Qwen3-30B-A3B, Qwen3-Coder and their relatives."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    effective_window,
    gated_mlp,
    pre_norm_layer,
    query_and_key_norm,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import (
    in_stacks,
    qwen_experts,
    read_counts,
    read_silu,
    sparse_layers,
    sparse_without,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Qwen3MoeConfig's; with ``use_sliding_window`` all layers have the window."""
    sizes = read_sizes(
        config, vocab=151936, hidden=2048, intermediate=6144, layers=24, heads=32, kv_heads=4, context=32768
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    read_silu(config, "hidden_act")
    bias, sliding = config.flag("attention_bias", False), config.optional_integer("sliding_window", 4096)
    is_windowed = config.flag("use_sliding_window", False) and sliding is not None
    window = effective_window(sliding, sizes.context) if is_windowed and sliding else None
    config.without_effect("max_window_layers")  # Qwen2's, which the class does not read
    count, chosen = read_counts(config, "num_experts", 128, 8, "num_local_experts")
    width = config.integer("moe_intermediate_size", 768)
    routing = Routing(count=chosen, normalized=config.flag("norm_topk_prob", False))
    sparse = sparse_layers(config, sizes.layers)

    def layer(index: int) -> Layer:
        norms = query_and_key_norm(index, sizes, epsilon)
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, window=window, norms=norms)
        if index not in sparse:
            return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, "silu"))
        experts = qwen_experts(index, sizes, count=count, width=width, routing=routing)
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    return rms_decoder(config, "qwen3_moe", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(
    model_type="qwen3_moe",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    elsewhere=in_stacks,
    without_layers=sparse_without,
    experts_keys=("num_experts", "num_local_experts"),
)
