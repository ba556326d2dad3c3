"""GLM-4.5 to 4.7 (Zhipu AI 2025): DeepSeek-V3's experts behind grouped-query attention, rotated by half."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    query_and_key_norm,
    read_sizes,
    rms_decoder,
    separate_attention,
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

_PREDICTORS = r"model\.layers\.(46|47|61|92)\..*"  # of tokens after the next one, behind the last layer


def read(config: Config) -> Decoder:
    """Defaults are transformers' Glm4MoeConfig's."""
    heads, hidden = config.integer("num_attention_heads", 96), config.integer("hidden_size", 4096)
    sizes = read_sizes(
        config,
        vocab=151552,
        hidden=4096,
        intermediate=10944,
        layers=46,
        heads=heads,
        kv_heads=8,
        head_dim=128 if hidden % heads else None,  # as all of them have it, where it is not the quotient
        context=131072,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, partial=True, share=0.5)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    read_silu(config, "hidden_act")
    bias, normed = config.flag("attention_bias", False), config.flag("use_qk_norm", False)
    count, chosen = read_counts(config, "n_routed_experts", 128, 8, "num_local_experts")
    width, shared = config.integer("moe_intermediate_size", 1408), config.integer("n_shared_experts", 1)
    routing = read_groups(config, count, Routing(count=chosen, scores="sigmoid"))
    dense = config.integer("first_k_dense_replace", 1, minimum=0)
    config.without_effect("num_nextn_predict_layers", "num_mtp_layers")

    def layer(index: int) -> Layer:
        norms = query_and_key_norm(index, sizes, epsilon) if normed else None
        attention = separate_attention(index, sizes, qkv_bias=bias, norms=norms)
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

    return rms_decoder(config, "glm4_moe", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(
    model_type="glm4_moe",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, _PREDICTORS),
    elsewhere=in_stacks,
    without_layers=first_dense("first_k_dense_replace", 1),
    experts_keys=("n_routed_experts", "num_local_experts"),
)
