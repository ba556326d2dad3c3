"""Gemma 1 (Gemma Team 2024): Llama with gains stored minus one, a gated GELU and the embedding times √hidden."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    layer_rms_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

NORM_PLUS = 1.0  # GemmaRMSNorm multiplies by 1 + weight


def read(config: Config) -> Decoder:
    """Defaults are transformers' GemmaConfig's, which takes ``gelu`` for its tanh formula, as released configs mean."""
    sizes = read_sizes(
        config,
        vocab=256_000,
        hidden=3072,
        intermediate=24576,
        layers=28,
        heads=16,
        kv_heads=16,
        head_dim=256,
        context=8192,
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "gelu_pytorch_tanh")
    if config.values.get("hidden_act") == "gelu":
        activation = "gelu_tanh"
    bias = config.flag("attention_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, qkv_bias=bias, output_bias=bias)
        blocks = ((attention, "input_layernorm"), (gated_mlp(index, sizes, activation), "post_attention_layernorm"))
        return Layer(
            tuple(
                Block(
                    norm=layer_rms_norm(index, f"{mixer.kind}_norm", tensor, sizes, epsilon=epsilon, plus=NORM_PLUS),
                    mixer=mixer,
                )
                for mixer, tensor in blocks
            )
        )

    return rms_decoder(
        config,
        "gemma",
        sizes,
        layer,
        ropes={"default": rope},
        epsilon=epsilon,
        tied=True,
        norm_plus=NORM_PLUS,
        embedding_multiplier=sizes.hidden**0.5,
    )


ARCHITECTURE = Architecture(
    model_type="gemma", read=read, ignored_tensors=IGNORED_TENSORS, config_keys=("use_bidirectional_attention",)
)
