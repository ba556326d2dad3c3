"""Gemma 3's text model (Gemma Team 2025): four norms in a layer, gains stored minus one, windows in 5 of 6 layers."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    every_nth_full,
    gated_mlp,
    layer_rms_norm,
    query_and_key_norm,
    read_activation,
    read_ropes,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.parts.primitives import Norm
from edgepress.exporter.source.config import Config

NORM_PLUS = 1.0  # Gemma3RMSNorm multiplies by 1 + weight


def read(config: Config) -> Decoder:
    """Defaults are transformers' Gemma3TextConfig's; ``rope_local_base_freq`` is version 4's θ of sliding layers."""
    sizes = read_sizes(
        config,
        vocab=262_208,
        hidden=2304,
        intermediate=9216,
        layers=26,
        heads=8,
        kv_heads=4,
        head_dim=256,
        context=131_072,
    )
    types = every_nth_full(config, sizes.layers, 6)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 4096), sizes)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_activation", "gelu_pytorch_tanh")
    bias = config.flag("attention_bias", False)
    scale = config.number("query_pre_attn_scalar", 256.0, above=0.0) ** -0.5

    def layer(index: int) -> Layer:
        def norm(role: str, tensor: str) -> Norm:
            return layer_rms_norm(index, role, tensor, sizes, epsilon=epsilon, plus=NORM_PLUS)

        attention = separate_attention(
            index,
            sizes,
            scale=scale,
            qkv_bias=bias,
            output_bias=bias,
            rope=types[index],
            window=windows[index],
            norms=query_and_key_norm(index, sizes, epsilon, plus=NORM_PLUS),
        )
        return Layer(
            (
                Block(
                    norm=norm("attention_norm", "input_layernorm"),
                    mixer=attention,
                    post_norm=norm("attention_post_norm", "post_attention_layernorm"),
                ),
                Block(
                    norm=norm("mlp_norm", "pre_feedforward_layernorm"),
                    mixer=gated_mlp(index, sizes, activation),
                    post_norm=norm("mlp_post_norm", "post_feedforward_layernorm"),
                ),
            )
        )

    thetas = {
        "full_attention": config.number("rope_theta", 1_000_000.0, above=1.0),
        "sliding_attention": config.number("rope_local_base_freq", 10_000.0, above=1.0),
    }
    return rms_decoder(
        config,
        "gemma3_text",
        sizes,
        layer,
        ropes=read_ropes(config, sizes, types, thetas),
        epsilon=epsilon,
        tied=True,
        norm_plus=NORM_PLUS,
        embedding_multiplier=sizes.hidden**0.5,
        logits_softcap=config.optional_number("final_logit_softcapping", above=0.0) or 0.0,
    )


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Full attention in every ``sliding_window_pattern``-th layer."""
    return {"layer_types": every_nth_full(config, layers, 6)}


ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    config_keys=("partial_rotary_factor", "use_bidirectional_attention"),
)
