"""Jamba (AI21 2024): Mamba with RMS norms of the step, B and C in most layers, attention without rotary in others."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import read_counts, router, separate_experts
from edgepress.exporter.model.architectures._mamba import (
    ATTENTION,
    STATE,
    block,
    feed_forward,
    low_rank,
    mamba,
    with_final_norm,
)
from edgepress.exporter.model.description import Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.mixture_of_experts import MixtureOfExperts, Routing
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' JambaConfig's."""
    sizes = read_sizes(
        config, vocab=65536, hidden=4096, intermediate=14336, layers=32, heads=32, kv_heads=8, context=262_144
    )
    kinds = _kinds(config, sizes.layers)
    count, chosen = _counts(config)
    with_experts = _with_experts(config, sizes.layers) if count > 1 else set[int]()
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    config.text("hidden_act", "silu", ("silu", "swish"))  # of the convolution; no other is in its operator
    width, state_size = config.integer("mamba_expand", 2) * sizes.hidden, config.integer("mamba_d_state", 16)
    taps, rank = config.integer("mamba_d_conv", 4, minimum=2), low_rank(config, "mamba_dt_rank", sizes.hidden)
    conv_bias, bias = config.flag("mamba_conv_bias", True), config.flag("mamba_proj_bias", False)
    config.without_effect("use_mamba_kernels", "use_mambapy", "use_associative_scan")
    config.without_effect("expert_layer_period", "expert_layer_offset", "num_experts_per_tok", "router_aux_loss_coef")

    def layer(index: int) -> Layer:
        mixer: Mixer = (
            separate_attention(index, sizes, rope=None)
            if kinds[index] == ATTENTION
            else mamba(
                index,
                f"model.layers.{index}.mamba",
                sizes.hidden,
                (width, state_size, rank, taps),
                conv_bias=conv_bias,
                bias=bias,
                norms=epsilon,
            )
        )
        mlp: Mixer = feed_forward(index, sizes, activation)
        if index in with_experts:
            mlp = _experts(index, sizes, count, chosen)
        return Layer(
            (
                block(index, sizes, epsilon, mixer, "input_layernorm"),
                block(index, sizes, epsilon, mlp, "pre_ff_layernorm"),
            )
        )

    decoder = rms_decoder(config, "jamba", sizes, layer, ropes={}, epsilon=epsilon, tied=False)
    return with_final_norm(decoder, "model.final_layernorm.weight")


def _kinds(config: Config, layers: int) -> list[str]:
    """Attention in every ``attn_layer_period``-th layer, counted from ``attn_layer_offset``."""
    period = config.integer("attn_layer_period", 8)
    offset = config.integer("attn_layer_offset", 4, minimum=0)
    return [ATTENTION if index % period == offset else STATE for index in range(layers)]


def _counts(config: Config) -> tuple[int, int]:
    """How many experts there are, and how many a token goes through; one is no mixture."""
    if config.values.get("num_experts") == 1:
        config.without_effect("num_experts", "num_local_experts")
        return 1, 1
    return read_counts(config, "num_experts", 16, 2, "num_local_experts")


def _with_experts(config: Config, layers: int) -> set[int]:
    """Experts in every ``expert_layer_period``-th layer, counted from ``expert_layer_offset``."""
    period = config.integer("expert_layer_period", 2)
    offset = config.integer("expert_layer_offset", 1, minimum=0)
    return {index for index in range(layers) if index % period == offset}


def _experts(index: int, sizes: Sizes, count: int, chosen: int) -> MixtureOfExperts:
    """As wide as the MLPs of other layers; weights of those chosen are shares of all."""
    tensors = f"model.layers.{index}.feed_forward"
    return MixtureOfExperts(
        router=router(index, f"{tensors}.router", count, sizes.hidden),
        experts=separate_experts(index, f"{tensors}.experts", sizes, count=count, width=sizes.intermediate[index]),
        routing=Routing(count=chosen, normalized=False),
    )


ARCHITECTURE = Architecture(
    model_type="jamba",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    config_keys=("layers_block_type", "layers_num_experts"),
    experts_keys=("num_experts", "num_local_experts"),
)
