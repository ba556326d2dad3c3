"""DeepSeek-V3 and R1 (DeepSeek-AI 2024): latent attention, and experts chosen by a corrected sigmoid router."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    rms_decoder,
)
from edgepress.exporter.model.architectures._experts import (
    deepseek_experts,
    first_dense,
    read_counts,
    read_groups,
    read_silu,
)
from edgepress.exporter.model.architectures._mla import latent_attention, latent_rope, latent_sizes, read_latent
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import Routing
from edgepress.exporter.source.config import Config

_PREDICTOR = r"model\.layers\.61\..*"  # of the token after the next one, behind the last layer


def read(config: Config) -> Decoder:
    """Defaults are transformers' DeepseekV3Config's."""
    sizes = latent_sizes(config, vocab=129_280, hidden=7168, intermediate=18_432, layers=61, heads=128, context=4096)
    read_silu(config, "hidden_act")
    latent = read_latent(
        config,
        sizes,
        query_rank=1536,
        rank=512,
        plain=128,
        rotated=64,
        value_dim=128,
        interleaved=config.flag("rope_interleave", True),
    )
    epsilon, dense = (
        config.number("rms_norm_eps", 1e-6, above=0.0),
        config.integer("first_k_dense_replace", 3, minimum=0),
    )
    count, chosen = read_counts(config, "n_routed_experts", 256, 8, "num_local_experts")
    width, shared = config.integer("moe_intermediate_size", 2048), config.integer("n_shared_experts", 1)
    default = Routing(count=chosen, scores="sigmoid", groups=8, chosen_groups=4, factor=2.5)
    routing = read_groups(config, count, default)
    config.without_effect("num_nextn_predict_layers", "num_mtp_layers")  # which predict further tokens

    def layer(index: int) -> Layer:
        attention = latent_attention(index, latent)
        if index < dense:
            return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, "silu"))
        experts = deepseek_experts(
            index, f"model.layers.{index}.mlp", sizes, count=count, width=width, shared=shared, routing=routing
        )
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    ropes = {"default": latent_rope(config, latent, sizes.context)}
    return rms_decoder(config, "deepseek_v3", sizes, layer, ropes=ropes, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(
    model_type="deepseek_v3",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, _PREDICTOR),
    without_layers=first_dense("first_k_dense_replace", 3),
    experts_keys=("n_routed_experts", "num_local_experts"),
)
