"""Hunyuan with experts (Tencent 2025): the dense Hunyuan's attention, one shared expert as wide as the others."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    pre_norm_layer,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import (
    in_stacks,
    read_silu,
    router,
    separate_experts,
    shared_expert,
)
from edgepress.exporter.model.architectures.hunyuan_v1_dense import query_and_key_layernorm
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' HunYuanMoEV1Config's; ``moe_topk`` may be a list with one number a layer."""
    sizes = read_sizes(
        config, vocab=290_943, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, ntk_alpha=True)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    read_silu(config, "hidden_act")
    bias = config.flag("attention_bias", False)
    count = config.integer("num_experts", 1)
    chosen = config.integers_by_layer("moe_topk", 1, sizes.layers)
    if max(chosen) > count:
        raise config.refuse("moe_topk", f"must be at most num_experts = {count}")

    def layer(index: int) -> Layer:
        norms = query_and_key_layernorm(index, sizes, epsilon)
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias, norms=norms)
        tensors, width = f"model.layers.{index}.mlp", sizes.intermediate[index]
        experts = MixtureOfExperts(
            router=router(index, f"{tensors}.gate.wg", count, sizes.hidden),
            experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width),
            shared=shared_expert(index, f"{tensors}.shared_mlp", sizes.hidden, width),
            routing=Routing(count=chosen[index]),
        )
        return pre_norm_layer(index, sizes, epsilon, replace(attention, norm_after_rope=True), experts)

    return rms_decoder(config, "hunyuan_v1_moe", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


def by_layer(config: Config, layers: int) -> dict[str, list[int]]:
    """How many experts a token goes through, where that is a list."""
    is_list = isinstance(config.values.get("moe_topk"), list)
    return {"moe_topk": list(config.integers_by_layer("moe_topk", 1, layers))} if is_list else {}


ARCHITECTURE = Architecture(
    model_type="hunyuan_v1_moe",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    config_keys=("num_experts_per_tok", "num_local_experts"),
    elsewhere=in_stacks,
    by_layer=by_layer,
    experts_keys=("num_experts",),
)
