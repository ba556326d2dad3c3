"""dots.llm1 (rednote-hilab 2025): DeepSeek-V3's experts behind Qwen3's attention."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    gated_mlp,
    pre_norm_layer,
    query_and_key_norm,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.architectures._experts import (
    deepseek_experts,
    first_dense,
    in_stacks,
    read_counts,
    read_groups,
    read_silu,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Dots1Config's; of experts, which it leaves open, dots.llm1's."""
    sizes = read_sizes(
        config, vocab=152064, hidden=4608, intermediate=10944, layers=62, heads=32, kv_heads=32, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    read_silu(config, "hidden_act")
    bias = config.flag("attention_bias", False)
    sliding = config.optional_integer("sliding_window", 4096)
    windows = windows_of(config, _layer_types(config, sizes.layers), sliding, sizes)
    count, chosen = read_counts(config, "n_routed_experts", 128, 6, "num_local_experts")
    width, shared = config.integer("moe_intermediate_size", 1408), config.integer("n_shared_experts", 2)
    routing = Routing(count=chosen, scores="sigmoid", normalized=False)
    routing = read_groups(config, count, routing)
    dense = config.integer("first_k_dense_replace", 0, minimum=0)

    def layer(index: int) -> Layer:
        norms = query_and_key_norm(index, sizes, epsilon)
        attention = separate_attention(
            index, sizes, qkv_bias=bias, output_bias=bias, window=windows[index], norms=norms
        )
        if index < dense:
            return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, "silu"))
        experts = deepseek_experts(
            index,
            f"model.layers.{index}.mlp",
            sizes,
            count=count,
            width=width,
            shared=shared,
            routing=routing,
        )
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    return rms_decoder(config, "dots1", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Windows in the layers from ``max_window_layers`` on."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    sliding = config.optional_integer("sliding_window", 4096)
    first = config.integer("max_window_layers", 62, minimum=0)
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[sliding is not None and index >= first] for index in range(layers)]


ARCHITECTURE = Architecture(
    model_type="dots1",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    elsewhere=in_stacks,
    without_layers=first_dense("first_k_dense_replace", 0),
    experts_keys=("n_routed_experts", "num_local_experts"),
)
