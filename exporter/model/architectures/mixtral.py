"""Mixtral (Jiang et al. 2024): Mistral with eight wide experts."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    effective_window,
    pre_norm_layer,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import MIXTRAL, read_counts, read_silu, router, separate_experts
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' MixtralConfig's."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, context=131072
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=1_000_000.0)
    sliding = config.optional_integer("sliding_window", None)
    window = None if sliding is None else effective_window(sliding, sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    read_silu(config, "hidden_act")
    config.without_effect("router_jitter_noise")  # in training alone
    count, chosen = read_counts(config, "num_local_experts", 8, 2, "num_experts")

    def layer(index: int) -> Layer:
        tensors = f"model.layers.{index}.block_sparse_moe"
        experts = MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            experts=separate_experts(
                index, f"{tensors}.experts", sizes, count=count, width=sizes.intermediate[index], names=MIXTRAL
            ),
            routing=Routing(count=chosen),
        )
        return pre_norm_layer(index, sizes, epsilon, separate_attention(index, sizes, window=window), experts)

    return rms_decoder(config, "mixtral", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(
    model_type="mixtral",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    experts_keys=("num_local_experts", "num_experts"),
)
