"""ERNIE 4.5 with experts (Baidu 2025): a softmax router with a correction, the rotary embedding turns neighbours."""

from collections.abc import Sequence

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import (
    correction,
    in_stacks,
    read_counts,
    read_silu,
    router,
    separate_experts,
    shared_expert,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

_PREDICTORS = r"model\.mtp_.*"


def read(config: Config) -> Decoder:
    """Defaults are transformers' Ernie4_5_MoeConfig's."""
    sizes = read_sizes(
        config, vocab=103424, hidden=2560, intermediate=12288, layers=28, heads=20, kv_heads=4, context=131072
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, theta=500_000.0, interleaved=True)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    read_silu(config, "hidden_act")
    if config.flag("use_bias", False):
        raise config.refuse("use_bias", "biases of all projections, the experts' too, are not implemented")
    count, chosen = read_counts(config, "moe_num_experts", 64, 6, "num_experts", per_token="moe_k")
    if config.number("moe_norm_min", 1e-12) > chosen / count:  # what the weights add up to at least
        raise config.refuse("moe_norm_min", f"more than {chosen / count} cuts off what weights are divided by")
    width, shared = (
        config.integer("moe_intermediate_size", 1536),
        config.integer("moe_num_shared_experts", 2, minimum=0),
    )
    sparse = _sparse_layers(config, sizes.layers)

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes)
        if index not in sparse:
            return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, "silu"))
        tensors = f"model.layers.{index}.mlp"
        experts = MixtureOfExperts(
            router=router(index, f"{tensors}.gate", count, sizes.hidden),
            correction=correction(index, f"{tensors}.moe_statics.e_score_correction_bias", 1, count),
            experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=width),
            shared=shared_expert(index, f"{tensors}.shared_experts", sizes.hidden, shared * width) if shared else None,
            routing=Routing(count=chosen),
        )
        return pre_norm_layer(index, sizes, epsilon, attention, experts)

    return rms_decoder(config, "ernie4_5_moe", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=True)


def _sparse_layers(config: Config, layers: int) -> set[int]:
    start, end = (
        config.integer("moe_layer_start_index", 1, minimum=0),
        config.integer("moe_layer_end_index", -1, minimum=-1),
    )
    step, last = config.integer("moe_layer_interval", 1), layers - 1 if end == -1 else end
    return {index for index in range(start, min(last + 1, layers)) if (index + 1) % step == 0}


def without_layers(config: Config, layers: int, kept: Sequence[int]) -> dict[str, object]:
    """Experts from one layer to another; those of every other layer, say, cannot be told when some are gone."""
    if config.integer("moe_layer_interval", 1) > 1:
        return {}
    sparse = _sparse_layers(config, layers)
    numbers = [number for number, index in enumerate(kept) if index in sparse]
    first, last = (numbers[0], numbers[-1]) if numbers else (len(kept), -1)
    return {"moe_layer_start_index": first, "moe_layer_end_index": last}


ARCHITECTURE = Architecture(
    model_type="ernie4_5_moe",
    read=read,
    ignored_tensors=(*IGNORED_TENSORS, _PREDICTORS),
    config_keys=("num_experts_per_tok",),
    elsewhere=in_stacks,
    without_layers=without_layers,
    experts_keys=("moe_num_experts", "num_experts"),
)
