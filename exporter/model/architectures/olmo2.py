"""OLMo 2 (OLMo Team 2024): norms after attention and MLP instead of before, and over all heads of q and k."""

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    gated_mlp,
    post_norm_layer,
    query_and_key_norm,
    read_activation,
    read_sizes,
    rms_decoder,
    separate_attention,
)
from edgepress.exporter.model.description import Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config


def read(config: Config) -> Decoder:
    """Defaults are transformers' Olmo2Config's."""
    sizes = read_sizes(
        config, vocab=50304, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    epsilon = config.number("rms_norm_eps", 1e-5, above=0.0)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.flag("attention_bias", False)

    def layer(index: int) -> Layer:
        attention = separate_attention(
            index,
            sizes,
            qkv_bias=bias,
            output_bias=bias,
            norm_per_head=False,
            norms=query_and_key_norm(index, sizes, epsilon, per_head=False),
        )
        return post_norm_layer(index, sizes, epsilon, attention, gated_mlp(index, sizes, activation))

    return rms_decoder(config, "olmo2", sizes, layer, ropes={"default": rope}, epsilon=epsilon, tied=False)


ARCHITECTURE = Architecture(model_type="olmo2", read=read, ignored_tensors=IGNORED_TENSORS)
