"""Gemma 2 (Gemma Team 2024): Gemma 3's four norms, soft caps of scores and logits, windows in every other layer."""

from dataclasses import replace

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    gated_mlp,
    layer_rms_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.parts.primitives import Norm
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

NORM_PLUS = 1.0  # Gemma2RMSNorm multiplies by 1 + weight


def read(config: Config) -> Decoder:
    """Defaults are transformers' Gemma2Config's."""
    return read_as(config, "gemma2", post_norms=True)


def read_as(config: Config, model_type: str, *, post_norms: bool) -> Decoder:
    """Gemma 2's config, for a family of that form: with ``post_norms`` of what attention and MLP add, or without."""
    sizes = read_sizes(
        config,
        vocab=256_000,
        hidden=2304,
        intermediate=9216,
        layers=26,
        heads=8,
        kv_heads=4,
        head_dim=256,
        context=8192,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    types = _layer_types(config, sizes.layers)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 4096), sizes)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    bias = config.flag("attention_bias", False)
    scale = config.number("query_pre_attn_scalar", 256.0, above=0.0) ** -0.5
    softcap = config.optional_number("attn_logit_softcapping", 50.0, above=0.0) or 0.0

    def layer(index: int) -> Layer:
        def norm(role: str, tensor: str) -> Norm:
            return layer_rms_norm(index, role, tensor, sizes, epsilon=epsilon, plus=NORM_PLUS)

        def post_norm(role: str, tensor: str) -> Norm | None:
            return norm(role, tensor) if post_norms else None

        attention = separate_attention(
            index, sizes, scale=scale, qkv_bias=bias, output_bias=bias, window=windows[index]
        )
        return Layer(
            (
                Block(
                    norm=norm("attention_norm", "input_layernorm"),
                    mixer=replace(attention, softcap=softcap),
                    post_norm=post_norm("attention_post_norm", "post_attention_layernorm"),
                ),
                Block(
                    norm=norm("mlp_norm", "pre_feedforward_layernorm"),
                    mixer=gated_mlp(index, sizes, activation),
                    post_norm=post_norm("mlp_post_norm", "post_feedforward_layernorm"),
                ),
            )
        )

    return rms_decoder(
        config,
        model_type,
        sizes,
        layer,
        ropes={"default": rope},
        epsilon=epsilon,
        tied=True,
        norm_plus=NORM_PLUS,
        embedding_multiplier=sizes.hidden**0.5,
        logits_softcap=config.optional_number("final_logit_softcapping", 30.0, above=0.0) or 0.0,
    )


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Full attention in every other layer."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[(index + 1) % 2] for index in range(layers)]


ARCHITECTURE = Architecture(
    model_type="gemma2",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    config_keys=("use_bidirectional_attention",),
)
