"""Granite 4 (IBM 2025): Granite 3 with a state space in the place of attention in most layers, or in none."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    Sizes,
    linear,
    matrix,
    pre_norm_layer,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.architectures._experts import read_counts, read_silu
from edgepress.exporter.model.architectures._mamba import ATTENTION, STATE, mamba2, read_layer_kinds, read_state_space
from edgepress.exporter.model.architectures.granitemoe import granite_experts
from edgepress.exporter.model.description import Decoder, Layer, Mixer
from edgepress.exporter.model.mixers.mlp import MLP, Activation
from edgepress.exporter.model.parts.primitives import Linear, Rope
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

_STATE_KEYS = (
    *("mamba_n_heads", "mamba_d_head", "mamba_d_state", "mamba_d_conv", "mamba_expand", "mamba_n_groups"),
    *("mamba_chunk_size", "mamba_conv_bias", "mamba_proj_bias", "time_step_limit"),
)


def read(config: Config) -> Decoder:
    """Defaults are transformers' GraniteMoeHybridConfig's; ``attention_multiplier`` is the scale itself."""
    sizes = _sizes(config)
    kinds = _kinds(config, sizes.layers)
    ropes = _ropes(config, sizes)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.flag("attention_bias", False)
    scale = config.number("attention_multiplier", 1.0, above=0.0)
    residual_multiplier = config.number("residual_multiplier", 1.0)
    if STATE not in kinds:
        config.without_effect(*_STATE_KEYS)
    state_space = read_state_space(config, hidden=sizes.hidden) if STATE in kinds else None
    feed_forward = _experts(config, sizes) if _has_experts(config) else partial(_mlp, sizes, activation)

    def layer(index: int) -> Layer:
        mixer: Mixer
        if kinds[index] == ATTENTION or state_space is None:
            rope = next(iter(ropes), None)
            mixer = separate_attention(index, sizes, scale=scale, qkv_bias=bias, output_bias=bias, rope=rope)
        else:
            mixer = mamba2(index, f"model.layers.{index}.mamba", sizes.hidden, state_space, epsilon=epsilon)
        return pre_norm_layer(
            index, sizes, epsilon, mixer, feed_forward(index), residual_multiplier=residual_multiplier
        )

    return rms_decoder(
        config,
        "granitemoehybrid",
        sizes,
        layer,
        ropes=ropes,
        epsilon=epsilon,
        tied=False,
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        logits_multiplier=1.0 / config.number("logits_scaling", 1.0, above=0.0),
    )


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """State spaces in all layers, where the config does not say."""
    return {"layer_types": _kinds(config, layers)}


def _kinds(config: Config, layers: int) -> list[str]:
    return read_layer_kinds(config, layers) or [STATE] * layers


def _sizes(config: Config) -> Sizes:
    """The MLP that all tokens share is as wide as ``shared_intermediate_size``; the other width is that of experts."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    config.without_effect("num_experts_per_tok", "router_aux_loss_coef", "normalization_function", "init_method")
    shared = config.integers_by_layer("shared_intermediate_size", 1024, sizes.layers)
    return replace(sizes, intermediate=shared)


def _has_experts(config: Config) -> bool:
    return config.integer("num_local_experts", 8, minimum=0) > 0


def _experts(config: Config, sizes: Sizes) -> Callable[[int], Mixer]:
    """Experts beside the shared MLP, of another width."""
    read_silu(config, "hidden_act")
    count, chosen = read_counts(config, "num_local_experts", 8, 2)
    widths = config.integers_by_layer("intermediate_size", 11008, sizes.layers)

    def layer(index: int) -> Mixer:
        shared = sizes.intermediate[index]
        return granite_experts(index, sizes, count=count, chosen=chosen, width=widths[index], shared=shared)

    return layer


def _ropes(config: Config, sizes: Sizes) -> dict[str, Rope]:
    """The rope of all attention, or none: ``position_embedding_type`` is "nope", or null, in the hybrid models."""
    config.text("position_embedding_type", "nope", ("nope", "rope"))
    if config.values.get("position_embedding_type") == "rope":
        return {"default": read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)}
    config.without_effect("rope_theta", "rope_scaling", "rope_parameters")
    return {}


def _mlp(sizes: Sizes, activation: Activation, index: int) -> MLP:
    """Take the gate from the first half of ``input_linear``'s rows and up from the second."""
    name, tensors = f"layers.{index}.mlp", f"model.layers.{index}.shared_mlp"
    both, rows, columns = f"{tensors}.input_linear.weight", sizes.intermediate[index], sizes.hidden
    return MLP(
        gate=Linear(matrix(f"{name}.gate", "linear", both, rows, columns)),
        up=Linear(matrix(f"{name}.up", "linear", both, rows, columns, start=rows)),
        down=linear(f"{name}.down", f"{tensors}.output_linear", columns, rows),
        activation=activation,
    )


ARCHITECTURE = Architecture(
    model_type="granitemoehybrid",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    width_key="shared_intermediate_size",
    by_layer=by_layer,
    experts_keys=("num_local_experts",),
)
