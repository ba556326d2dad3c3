"""Solar Open (Upstage 2025): DeepSeek-V3's experts in every layer, behind grouped-query attention."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    pre_norm_layer,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import (
    deepseek_experts,
    in_stacks,
    read_counts,
    read_groups,
    read_silu,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' SolarOpenConfig's; no layer has an MLP of ``intermediate_size``."""
    sizes = read_sizes(
        config,
        vocab=196_608,
        hidden=4096,
        intermediate=10_240,
        layers=48,
        heads=64,
        kv_heads=8,
        head_dim=128,
        context=131_072,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=1_000_000.0, partial=True)
    epsilon, bias = config.number("rms_norm_eps", 1e-5, above=0.0), config.flag("attention_bias", False)
    read_silu(config, "hidden_act")
    count, chosen = read_counts(config, "n_routed_experts", 128, 8, "num_local_experts")
    width, shared = config.integer("moe_intermediate_size", 1280), config.integer("n_shared_experts", 1)
    routing = read_groups(config, count, Routing(count=chosen, scores="sigmoid"))

    def layer(index: int) -> Layer:
        attention, place = separate_attention(index, sizes, qkv_bias=bias), f"model.layers.{index}.mlp"
        experts = deepseek_experts(index, place, sizes, count=count, width=width, shared=shared, routing=routing)
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    return rms_decoder(config, "solar_open", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(
    model_type="solar_open",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    elsewhere=in_stacks,
    experts_keys=("n_routed_experts", "num_local_experts"),
)
