"""OLMoE (Muennighoff et al. 2024): OLMo's layers with small experts, a norm over all heads of q and k."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    pre_norm_layer,
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
    """Defaults are transformers' OlmoeConfig's."""
    sizes = read_sizes(
        config, vocab=50304, hidden=2048, intermediate=2048, layers=16, heads=16, kv_heads=None, context=4096
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    read_silu(config, "hidden_act")
    bias = config.flag("attention_bias", False)
    count, chosen = read_counts(config, "num_experts", 64, 8, "num_local_experts")
    routing = Routing(count=chosen, normalized=config.flag("norm_topk_prob", False))

    def layer(index: int) -> Layer:
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=bias,
            output_bias=bias,
            norm_per_head=False,
            norms=query_and_key_norm(index, sizes, epsilon, per_head=False),
        )
        tensors = f"model.layers.{index}.mlp"
        experts = MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=sizes.intermediate[index]),
            routing=routing,
        )
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    return rms_decoder(config, "olmoe", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(
    model_type="olmoe",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    config_keys=("clip_qkv", "sliding_window"),
    keeps_heads="its norm of all queries is as wide as the hidden size",
    elsewhere=in_stacks,
    experts_keys=("num_experts", "num_local_experts"),
)
