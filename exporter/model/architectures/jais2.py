"""Jais 2 (Inception and MBZUAI 2025): Llama with layer norms, biases, a squared ReLU and no gate."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    assembled,
    layer_norm,
    plain_mlp,
    read_activation,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Jais2Config's."""
    sizes = read_sizes(
        config, vocab=150272, hidden=3328, intermediate=26624, layers=32, heads=26, kv_heads=None, context=8192
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("layer_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "relu2")
    attention_bias, mlp_bias = config.flag("attention_bias", True), config.flag("mlp_bias", True)

    def layer(index: int) -> Layer:
        name, tensors = f"layers.{index}", f"model.layers.{index}"
        attention = separate_attention(index, sizes, qkv_bias=attention_bias, output_bias=attention_bias)
        mlp = plain_mlp(index, sizes, activation, f"{tensors}.mlp", up="up_proj", down="down_proj", bias=mlp_bias)
        before = layer_norm(f"{name}.attention_norm", f"{tensors}.input_layernorm", sizes.hidden, epsilon)
        between = layer_norm(f"{name}.mlp_norm", f"{tensors}.post_attention_layernorm", sizes.hidden, epsilon)
        return Layer((Block(norm=before, mixer=attention), Block(norm=between, mixer=mlp)))

    return assembled(
        config,
        "jais2",
        sizes,
        layer,
        final_norm=layer_norm("final_norm", "model.norm", sizes.hidden, epsilon),
        ropes={"default": rope},
        tied=False,
    )


ARCHITECTURE = Architecture(model_type="jais2", read=read, ignored_tensors=IGNORED_TENSORS)
