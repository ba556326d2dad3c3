"""Granite 3 (IBM 2024): Llama with multipliers on the embedding, attention scores, residuals and logits."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    pre_norm_layer,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' GraniteConfig's; ``attention_multiplier`` is the scale itself, 1.0 by default."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)
    scale = config.number("attention_multiplier", 1.0, above=0.0)
    residual_multiplier = config.number("residual_multiplier", 1.0)

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, scale=scale, qkv_bias=attention_bias, output_bias=attention_bias)
        mlp = gated_mlp(index, sizes, activation, bias=mlp_bias)
        return pre_norm_layer(index, sizes, epsilon, attention, mlp, residual_multiplier=residual_multiplier)

    return rms_decoder(
        config,
        "granite",
        sizes,
        layer,
        ropes={"default": rope},
        epsilon=epsilon,
        tied=False,
        embedding_multiplier=config.number("embedding_multiplier", 1.0),
        logits_multiplier=1.0 / config.number("logits_scaling", 1.0, above=0.0),
    )


ARCHITECTURE = Architecture(model_type="granite", read=read, ignored_tensors=IGNORED_TENSORS)
