"""Llama 1 to 3.2 (Touvron et al. 2023; Dubey et al. 2024) and what shares its form: SmolLM2, TinyLlama, Yi."""

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
    """Defaults are transformers' LlamaConfig's. ``attention_bias`` and ``mlp_bias`` are for all their projections."""
    sizes = read_sizes(
        config, vocab=32000, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-6, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    attention_bias, mlp_bias = config.flag("attention_bias", False), config.flag("mlp_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(index, sizes, qkv_bias=attention_bias, output_bias=attention_bias)
        return pre_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, activation, bias=mlp_bias))

    return rms_decoder(config, "llama", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(model_type="llama", read=read, ignored_tensors=IGNORED_TENSORS)
