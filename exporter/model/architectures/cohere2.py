"""Command R7B and A (Cohere 2024): Command R with windows in three of four layers; the others are not rotated."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    assembled,
    every_nth_full,
    gated_mlp,
    layer_norm,
    read_activation,
    read_sizes,
    separate_attention,
    windows_of,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Cohere2Config's."""
    sizes = read_sizes(
        config, vocab=256_000, hidden=8192, intermediate=22528, layers=40, heads=64, kv_heads=None, context=8192
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context, interleaved=True)
    types = every_nth_full(config, sizes.layers, 4)
    windows = windows_of(config, types, config.optional_integer("sliding_window", 4096), sizes)
    epsilon = config.number("layer_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.flag("attention_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=bias,
            output_bias=bias,
            rope="default" if types[index] == "sliding_attention" else None,
            window=windows[index],
        )
        norm = layer_norm(
            f"layers.{index}.norm", f"model.layers.{index}.input_layernorm", sizes.hidden, epsilon, bias=False
        )
        mlp = gated_mlp(index, sizes, activation)
        return Layer((Block(norm=norm, mixer=attention), Block(norm=norm, mixer=mlp)), parallel=True)

    return assembled(
        config,
        "cohere2",
        sizes,
        layer,
        final_norm=layer_norm("final_norm", "model.norm", sizes.hidden, epsilon, bias=False),
        ropes={"default": rope},
        tied=True,
        logits_multiplier=config.number("logit_scale", 0.0625),
    )


def by_layer(config: Config, layers: int) -> dict[str, list[int] | list[str]]:
    """Full attention in every ``sliding_window_pattern``-th layer."""
    return {"layer_types": every_nth_full(config, layers, 4)}


ARCHITECTURE = Architecture(model_type="cohere2", read=read, ignored_tensors=IGNORED_TENSORS, by_layer=by_layer)
