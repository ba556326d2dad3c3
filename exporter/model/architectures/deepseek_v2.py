"""DeepSeek-V2 and V2-Lite (DeepSeek-AI 2024): multi-head latent attention, and experts chosen by their softmax."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    rms_decoder,
)
from edgepress.exporter.model.architectures._experts import (
    first_dense,
    read_counts,
    read_silu,
    router,
    separate_experts,
    shared_expert,
)
from edgepress.exporter.model.architectures._mla import latent_attention, latent_rope, latent_sizes, read_latent
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' DeepseekV2Config's. A group of experts is as good as its best."""
    sizes = latent_sizes(config, vocab=102_400, hidden=4096, intermediate=11_008, layers=32, heads=32, context=2048)
    read_silu(config, "hidden_act")
    config.without_effect("norm_topk_prob")  # in transformers' class
    if config.flag("mlp_bias", False):
        raise config.refuse("mlp_bias", "experts with biases are not implemented for this family")
    latent = read_latent(
        config,
        sizes,
        query_rank=1536,
        rank=512,
        plain=128,
        rotated=64,
        value_dim=128,
        interleaved=True,
    )
    epsilon, dense = (
        config.number("rms_norm_eps", 1e-6, above=0.0),
        config.integer("first_k_dense_replace", 0, minimum=0),
    )
    count, chosen = read_counts(config, "n_routed_experts", 64, 6, "num_experts")
    width, shared = config.integer("moe_intermediate_size", 1407), config.integer("n_shared_experts", 2)
    routing = Routing(count=chosen, normalized=False, factor=config.number("routed_scaling_factor", 1.0, above=0.0))
    groups, best = config.optional_integer("n_group"), config.optional_integer("topk_group")
    if config.text("topk_method", "greedy", ("greedy", "group_limited_greedy")) != "greedy":
        if groups is None or best is None or count % groups or best > groups:
            raise config.refuse("n_group", f"and topk_group must be there, and divide the {count} experts")
        routing = replace(routing, groups=groups, chosen_groups=best, best_in_group=1)

    def layer(index: int) -> Layer:
        attention, place = latent_attention(index, latent), f"model.layers.{index}.mlp"
        if index < dense:
            return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, "silu"))
        experts = MixtureOfExperts(
            router=router(index, f"{place}.gate", count, sizes.hidden),
            experts=separate_experts(index, f"{place}.experts", sizes, count=count, width=width),
            shared=shared_expert(index, f"{place}.shared_experts", sizes.hidden, shared * width),
            routing=routing,
        )
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    ropes = {"default": latent_rope(config, latent, sizes.context)}
    return rms_decoder(config, "deepseek_v2", sizes, layer, ropes=ropes, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(
    model_type="deepseek_v2",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    without_layers=first_dense("first_k_dense_replace", 0),
    experts_keys=("n_routed_experts", "num_experts"),
)
