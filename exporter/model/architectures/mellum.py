"""Mellum 2 (JetBrains 2026): Qwen3 with experts, windows in some layers and a rope for each kind of attention."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    gated_mlp,
    pre_norm_layer,
    query_and_key_norm,
    read_ropes,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.architectures._experts import (
    in_stacks,
    qwen_experts,
    read_counts,
    read_silu,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import Routing
from edgepress.exporter.source.config import Config

_THETAS = {"full_attention": 500_000.0, "sliding_attention": 10_000.0}
_MLPS = ("sparse", "dense")


def read(config: Config) -> Decoder:
    """Defaults are transformers' MellumConfig's; predictors of further tokens are passed over."""
    sizes = read_sizes(
        config,
        vocab=98304,
        hidden=2304,
        intermediate=7168,
        layers=28,
        heads=32,
        kv_heads=4,
        head_dim=128,
        context=131072,
    )
    types, mlps = _layer_types(config, sizes.layers), _mlp_types(config, sizes.layers)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 1024), sizes)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    read_silu(config, "hidden_act")
    bias = config.flag("attention_bias", False)
    count, chosen = read_counts(config, "num_experts", 64, 8, "num_local_experts")
    width = config.integer("moe_intermediate_size", 896)
    routing = Routing(count=chosen, normalized=config.flag("norm_topk_prob", True))
    config.without_effect("num_mtp_layers", "num_nextn_predict_layers", "mtp_layer_types", "mtp_mlp_layer_types")

    def layer(index: int) -> Layer:
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=bias,
            output_bias=bias,
            rope=types[index],
            window=windows[index],
            norms=query_and_key_norm(index, sizes, epsilon),
        )
        if mlps[index] == "dense":
            return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, "silu"))
        experts = qwen_experts(index, sizes, count=count, width=width, routing=routing)
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    ropes = read_ropes(config, sizes, types, _THETAS)
    return rms_decoder(config, "mellum", sizes, layer, ropes=ropes, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[str]]:
    """All layers attend to all of the text, and have experts, where the config lists nothing else."""
    return {"layer_types": _layer_types(config, layers), "mlp_layer_types": _mlp_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    return config.optional_texts("layer_types", layers, LAYER_TYPES) or ["full_attention"] * layers


def _mlp_types(config: Config, layers: int) -> list[str]:
    return config.optional_texts("mlp_layer_types", layers, _MLPS) or ["sparse"] * layers


ARCHITECTURE = Architecture(
    model_type="mellum",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, r"mtp\..*"),
    by_layer=by_layer,
    elsewhere=in_stacks,
    config_keys=("partial_rotary_factor",),
    experts_keys=("num_experts", "num_local_experts"),
)
