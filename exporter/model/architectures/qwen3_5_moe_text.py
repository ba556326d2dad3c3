"""Qwen3.5's text model with experts (Qwen Team 2026): Qwen3.5's layers, and a mixture of experts in each."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import IGNORED_TENSORS, read_sizes
from edgepress.exporter.model.architectures._experts import (
    in_stacks,
    read_counts,
    router,
    separate_experts,
    shared_expert,
)
from edgepress.exporter.model.architectures._gated_delta import (
    by_layer,
    mtp_layer,
    qwen_decoder,
    read_delta_sizes,
    separate_delta,
)
from edgepress.exporter.model.description import Decoder
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Qwen3_5MoeTextConfig's."""
    config.without_effect("intermediate_size")  # of the dense models
    sizes = read_sizes(
        config,
        vocab=248_320,
        hidden=2048,
        intermediate=512,
        layers=40,
        heads=16,
        kv_heads=2,
        head_dim=256,
        context=32_768,
    )
    delta = read_delta_sizes(config, key_heads=16, value_heads=32, key_dim=128, value_dim=128)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    width = config.integer("moe_intermediate_size", 512)
    shared = config.integer("shared_expert_intermediate_size", 512)
    count, chosen = read_counts(config, "num_experts", 256, 8)
    config.without_effect("router_aux_loss_coef", "mamba_ssm_dtype", "mlp_only_layers")
    config.without_effect("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings")  # of what predicts a token further

    def experts(index: int) -> MixtureOfExperts:
        tensors = f"model.layers.{index}.mlp"
        return MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width),
            shared=shared_expert(
                index, f"{tensors}.shared_expert", sizes.hidden, shared, share=f"{tensors}.shared_expert_gate"
            ),
            routing=Routing(count=chosen, normalized=True),
        )

    return qwen_decoder(
        config, "qwen3_5_moe_text", sizes, lambda index: separate_delta(index, sizes.hidden, delta, epsilon), experts
    )


ARCHITECTURE = Architecture(
    model_type="qwen3_5_moe_text",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, r"mtp\..*"),
    by_layer=by_layer,
    mtp=mtp_layer,
    elsewhere=in_stacks,
    experts_keys=("num_experts",),
)
