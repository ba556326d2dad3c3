"""LFM2 with experts (Liquid AI 2025): LFM2's layers, a sigmoid router with a correction in all but the first ones."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    read_sizes,
    rms_decoder,
    rms_norm,
)
from edgepress.exporter.model.architectures._experts import (
    MIXTRAL,
    correction,
    first_dense,
    read_counts,
    router,
    separate_experts,
)
from edgepress.exporter.model.architectures.lfm2 import LAYER_TYPES, mixed_layer, mlp
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

_EPSILON = 1e-6  # what the class adds to the sum that weights are divided by


def read(config: Config) -> Decoder:
    """Defaults are transformers' Lfm2MoeConfig's; ``tie_embedding`` wins over the usual name."""
    sizes = read_sizes(
        config, vocab=65536, hidden=2048, intermediate=7168, layers=32, heads=32, kv_heads=8, context=128_000
    )
    types = config.optional_texts("layer_types", sizes.layers, LAYER_TYPES) or ["full_attention"] * sizes.layers
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=1_000_000.0)
    epsilon = config.number("norm_eps", 1e-5, above=0.0)
    bias, taps = config.flag("conv_bias", False), config.integer("conv_L_cache", 3, minimum=2)
    tied = config.flag("tie_word_embeddings", True)
    dense, width = config.integer("num_dense_layers", 2, minimum=0), config.integer("moe_intermediate_size", 1792)
    count, chosen = read_counts(config, "num_experts", 32, 4)
    normalized = config.flag("norm_topk_prob", True)
    routing = Routing(
        count=chosen,
        scores="sigmoid",
        normalized=normalized,
        epsilon=_EPSILON if normalized else 0.0,
        factor=config.number("routed_scaling_factor", 1.0, above=0.0),
    )
    corrected = config.flag("use_expert_bias", True)

    def layer(index: int) -> Layer:
        experts = _experts(index, sizes, count=count, width=width, routing=routing, corrected=corrected)
        return mixed_layer(
            index,
            sizes,
            epsilon,
            mlp(index, sizes) if index < dense else experts,
            taps=taps if types[index] == "conv" else 0,
            bias=bias,
        )

    decoder = rms_decoder(
        config,
        "lfm2_moe",
        sizes,
        layer,
        ropes={"default": rope},
        epsilon=epsilon,
        tied=config.flag("tie_embedding", tied),
    )
    return replace(decoder, final_norm=rms_norm("final_norm", "model.embedding_norm.weight", sizes.hidden, epsilon))


def _experts(
    index: int, sizes: Sizes, *, count: int, width: int, routing: Routing, corrected: bool
) -> MixtureOfExperts:
    tensors = f"model.layers.{index}.feed_forward"
    return MixtureOfExperts(
        router=router(index, f"{tensors}.gate", count, sizes.hidden),
        correction=correction(index, f"{tensors}.expert_bias", count) if corrected else None,
        experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width, names=MIXTRAL),
        routing=routing,
    )


ARCHITECTURE = Architecture(
    model_type="lfm2_moe",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    without_layers=first_dense("num_dense_layers", 2),
    experts_keys=("num_experts",),
)
