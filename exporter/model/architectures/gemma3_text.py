"""Gemma 3's text model (Gemma Team 2025): four norms in a layer, gains stored minus one, windows in 5 of 6 layers."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    LAYER_TYPES,
    Sizes,
    gated_mlp,
    layer_rms_norm,
    query_and_key_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.description import Block, Decoder, Layer, Norm, Rope
from edgepress.exporter.model.rope import rope_from_section, rotated_dimensions, same_rope
from edgepress.exporter.source.config import Config

NORM_PLUS = 1.0  # Gemma3RMSNorm multiplies by 1 + weight


def read(config: Config) -> Decoder:
    """Defaults are transformers' Gemma3TextConfig's."""
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
    types = _layer_types(config, sizes.layers)
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

    return rms_decoder(
        config,
        "gemma3_text",
        sizes,
        layer,
        ropes=_ropes(config, sizes, types),
        epsilon=epsilon,
        tied=True,
        norm_plus=NORM_PLUS,
        embedding_multiplier=sizes.hidden**0.5,
        logits_softcap=config.optional_number("final_logit_softcapping", above=0.0) or 0.0,
    )


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Full attention in every ``sliding_window_pattern``-th layer."""
    return {"layer_types": _layer_types(config, layers)}


def _layer_types(config: Config, layers: int) -> list[str]:
    """Read ``layer_types``, or every ``sliding_window_pattern``-th layer full (transformers 4; 6 by default)."""
    pattern = config.integer("sliding_window_pattern", 6)
    config.without_effect("_sliding_window_pattern")  # transformers 4.5x saves its own copy of the number
    types = config.optional_texts("layer_types", layers, LAYER_TYPES)
    return types or [LAYER_TYPES[bool((index + 1) % pattern)] for index in range(layers)]


def _ropes(config: Config, sizes: Sizes, types: list[str]) -> dict[str, Rope]:
    """Read a rope for each layer type in use.

    transformers 5: ``rope_parameters`` with a section for each; transformers 4: ``rope_theta`` and ``rope_scaling`` for
    full attention, ``rope_local_base_freq`` for sliding. The thetas default to 1,000,000 and 10,000.
    """
    both = config.section("rope_parameters") or Config({}, config.where)
    scaling, local = config.section("rope_scaling"), both.section("sliding_attention")
    full = both.section("full_attention")
    sections = {"full_attention": [scaling, full], "sliding_attention": [local]}
    thetas = {
        "full_attention": config.number("rope_theta", 1_000_000.0, above=1.0),
        "sliding_attention": config.number("rope_local_base_freq", 10_000.0, above=1.0),
    }
    found = {}
    for kind in LAYER_TYPES:
        ropes = [
            rope_from_section(
                section,
                rotated=rotated_dimensions(config, sizes.head_dim),
                context_length=sizes.context,
                theta=section.number("rope_theta", thetas[kind], above=1.0),
            )
            for section in [one for one in sections[kind] if one] or [Config({}, config.where)]
        ]
        if kind in types:
            found[kind] = same_rope(config, ropes)
    return found


ARCHITECTURE = Architecture(
    model_type="gemma3_text",
    read=read,
    ignored_tensors=IGNORED_TENSORS,
    by_layer=by_layer,
    config_keys=("partial_rotary_factor", "use_bidirectional_attention"),
)
