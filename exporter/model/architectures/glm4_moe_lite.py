"""GLM-4.7-Flash (Zhipu AI 2026): DeepSeek-V3's attention and experts, with other sizes."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    rms_decoder,
)
from edgepress.exporter.model.architectures._experts import deepseek_experts, read_counts, read_groups, read_silu
from edgepress.exporter.model.architectures._mla import latent_attention, latent_rope, latent_sizes, read_latent
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import Routing
from edgepress.exporter.source.config import Config

_PREDICTOR = r"model\.layers\.47\..*"  # of the token after the next one, behind the last layer
_KINDS = ("dense", "sparse")


def read(config: Config) -> Decoder:
    """Defaults are transformers' Glm4MoeLiteConfig's."""
    sizes = latent_sizes(config, vocab=154_880, hidden=2048, intermediate=10_240, layers=47, heads=20, context=202_752)
    read_silu(config, "hidden_act")
    latent = read_latent(
        config,
        sizes,
        query_rank=768,
        rank=512,
        plain=192,
        rotated=64,
        value_dim=256,
        interleaved=config.flag("rope_interleave", True),
    )
    epsilon, kinds = config.number("rms_norm_eps", 1e-5, above=0.0), _kinds(config, sizes.layers)
    count, chosen = read_counts(config, "n_routed_experts", 64, 4, "num_local_experts")
    width, shared = config.integer("moe_intermediate_size", 1536), config.integer("n_shared_experts", 1)
    routing = read_groups(config, count, Routing(count=chosen, scores="sigmoid", factor=1.8))
    config.without_effect("num_nextn_predict_layers")  # which predict further tokens

    def layer(index: int) -> Layer:
        attention = latent_attention(index, latent)
        if kinds[index] == "dense":
            return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, "silu"))
        experts = deepseek_experts(
            index, f"model.layers.{index}.mlp", sizes, count=count, width=width, shared=shared, routing=routing
        )
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    ropes = {"default": latent_rope(config, latent, sizes.context)}
    return rms_decoder(config, "glm4_moe_lite", sizes, layer, ropes=ropes, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Experts in all layers but the first."""
    return {"mlp_layer_types": _kinds(config, layers)}


def _kinds(config: Config, layers: int) -> list[str]:
    return config.optional_texts("mlp_layer_types", layers, _KINDS) or ["dense", *["sparse"] * (layers - 1)]


ARCHITECTURE = Architecture(
    model_type="glm4_moe_lite",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, _PREDICTOR),
    by_layer=by_layer,
    experts_keys=("n_routed_experts", "num_local_experts"),
)
