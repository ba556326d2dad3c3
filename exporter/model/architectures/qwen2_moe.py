"""Qwen1.5 and Qwen2 with experts (Yang et al. 2024): shared experts behind a gate of their own beside the others."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    gated_mlp,
    pre_norm_layer,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.architectures._experts import (
    in_stacks,
    read_counts,
    read_silu,
    router,
    separate_experts,
    shared_expert,
    sparse_layers,
    sparse_without,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Qwen2MoeConfig's."""
    sizes = read_sizes(
        config, vocab=151936, hidden=2048, intermediate=5632, layers=24, heads=16, kv_heads=16, context=32768
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    read_silu(config, "hidden_act")
    sliding, is_windowed = (
        config.optional_integer("sliding_window", 4096, minimum=0),
        config.flag("use_sliding_window", False),
    )
    windows = windows_of(config, _layer_types(config, sizes.layers), (sliding or None) if is_windowed else None, sizes)
    bias = config.flag("qkv_bias", True)
    count, chosen = read_counts(config, "num_experts", 60, 4)
    width, common = (
        config.integer(f"{name}_intermediate_size", size) for name, size in (("moe", 1408), ("shared_expert", 5632))
    )
    routing = Routing(count=chosen, normalized=config.flag("norm_topk_prob", False))
    sparse = sparse_layers(config, sizes.layers)

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, qkv_bias=bias, window=windows[index])
        if index not in sparse:
            return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, "silu"))
        tensors = f"model.layers.{index}.mlp"
        share = f"{tensors}.shared_expert_gate"
        experts = MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width),
            shared=shared_expert(index, f"{tensors}.shared_expert", sizes.hidden, common, share=share),
            routing=routing,
        )
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    return rms_decoder(config, "qwen2_moe", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Windows in every other layer below ``max_window_layers``."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    on, last = config.flag("use_sliding_window", False), config.integer("max_window_layers", 28, minimum=0)
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[on and index % 2 == 0 and index < last] for index in range(layers)]


ARCHITECTURE = Architecture(
    model_type="qwen2_moe",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    elsewhere=in_stacks,
    without_layers=sparse_without,
    experts_keys=("num_experts",),
)
