"""gpt-oss (OpenAI 2025): sinks in attention, windows in every other layer, experts with clamped gates and biases."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    pre_norm_layer,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.architectures._experts import fused_experts, read_counts, read_silu, router
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.model.parts.primitives import Rope, Weight
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config
from edgepress.exporter.source.part import Part

# What the class takes where a config says nothing of the kind.
_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 4096,
}


def read(config: Config) -> Decoder:
    """Defaults are transformers' GptOssConfig's."""
    sizes = read_sizes(
        config,
        vocab=201_088,
        hidden=2880,
        intermediate=2880,
        layers=36,
        heads=64,
        kv_heads=8,
        head_dim=64,
        context=131_072,
    )
    types = _layer_types(config, sizes.layers)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 128), sizes)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    read_silu(config, "hidden_act")
    bias = config.flag("attention_bias", True)
    count, chosen = read_counts(config, "num_local_experts", 128, 4, "num_experts")
    config.without_effect("experts_per_token", "initial_context_length")  # other names of what it says again
    alpha = config.number("swiglu_alpha", 1.702, above=0.0)
    limit = config.number("swiglu_limit", 7.0, above=0.0)

    def layer(index: int) -> Layer:
        sinks = Weight(
            f"layers.{index}.attention.sinks",
            "bias",
            (sizes.heads,),
            (Part(f"model.layers.{index}.self_attn.sinks", 0, sizes.heads),),
        )
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, window=windows[index])
        tensors = f"model.layers.{index}.mlp"
        experts = MixtureOfExperts(
            router=router(index, f"{tensors}.router", count, sizes.hidden, bias=True),
            experts=fused_experts(
                index,
                sizes,
                f"{tensors}.experts.gate_up_proj",
                f"{tensors}.experts.down_proj",
                count=count,
                width=sizes.intermediate[index],
                by_turns=True,
            ),
            routing=Routing(count=chosen),
            alpha=alpha,
            beta=1.0,
            limit=limit,
        )
        return pre_norm_layer(index, sizes, epsilon, replace(attention, sinks=sinks), experts)

    rope = _rope(config, sizes.head_dim, sizes.context)
    return rms_decoder(config, "gpt_oss", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def _rope(config: Config, head_dim: int, context: int) -> Rope:
    said = config if config.has("rope_parameters") or config.has("rope_scaling") else None
    if said is None:
        said = Config({**config.values, "rope_parameters": _YARN}, config.where)
        config.optional_number("rope_theta", above=1.0)
        config.section("rope_parameters")
    return read_rope(said, head_dim=head_dim, context_length=context, theta=150_000.0)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Windows in every other layer, from the first one on."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[index % 2 == 0] for index in range(layers)]


ARCHITECTURE = Architecture(
    model_type="gpt_oss",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    keeps_heads="each head has a sink",
    experts_keys=("num_local_experts", "num_experts"),
)
