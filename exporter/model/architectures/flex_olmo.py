"""FlexOlmo (Shi et al. 2025): OLMo 2's layers, norms behind them, with experts that were trained apart."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    post_norm_layer,
    query_and_key_norm,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import in_stacks, read_counts, read_silu, router, separate_experts
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' FlexOlmoConfig's."""
    sizes = read_sizes(
        config, vocab=100352, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=4096
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=500_000.0)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    read_silu(config, "hidden_act")
    bias = config.flag("attention_bias", False)
    count, chosen = read_counts(config, "num_experts", 7, 5, "num_local_experts")
    routing = Routing(count=chosen, normalized=config.flag("norm_topk_prob", False))

    def layer(index: int) -> Layer:
        norms = query_and_key_norm(index, sizes, epsilon, per_head=False)
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, norm_per_head=False, norms=norms)
        tensors, width = f"model.layers.{index}.mlp", sizes.intermediate[index]
        experts = MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width),
            routing=routing,
        )
        return post_norm_layer(index, sizes, epsilon, attention, experts)

    return rms_decoder(config, "flex_olmo", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(
    model_type="flex_olmo",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    elsewhere=in_stacks,
    experts_keys=("num_experts", "num_local_experts"),
)
