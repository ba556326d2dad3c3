"""OLMo 1 (Groeneveld et al. 2024): Llama with layer norms that have neither gain nor bias; q, k and v are cut off."""

from dataclasses import replace
from functools import partial

from edgepress.exporter.model.architectures import Architecture
from edgepress.exporter.model.architectures._common import (
    IGNORED_TENSORS,
    assembled,
    gated_mlp,
    norm_without_gain,
    read_activation,
    read_sizes,
    separate_attention,
)
from edgepress.exporter.model.description import Block, Decoder, Layer
from edgepress.exporter.model.rope import read_rope
from edgepress.exporter.source.config import Config

_EPSILON = 1e-5  # in the class, not in the config


def read(config: Config) -> Decoder:
    """Defaults are transformers' OlmoConfig's. ``clip_qkv`` is the largest magnitude of q, k and v."""
    sizes = read_sizes(
        config, vocab=50304, hidden=4096, intermediate=11008, layers=32, heads=32, kv_heads=None, context=2048
    )
    rope = read_rope(config, head_dim=sizes.head_dim, context_length=sizes.context)
    activation = read_activation(config, "hidden_act", "silu")
    bias = config.flag("attention_bias", False)
    clip = config.optional_number("clip_qkv", above=0.0) or 0.0
    norm = partial(norm_without_gain, size=sizes.hidden, epsilon=_EPSILON, kind="layer")

    def layer(index: int) -> Layer:
        attention = replace(separate_attention(index, sizes, qkv_bias=bias, output_bias=bias), clip=clip)
        return Layer(
            (
                Block(norm=norm(f"layers.{index}.attention_norm"), mixer=attention),
                Block(norm=norm(f"layers.{index}.mlp_norm"), mixer=gated_mlp(index, sizes, activation)),
            )
        )

    return assembled(config, "olmo", sizes, layer, final_norm=norm("final_norm"), ropes={"default": rope}, tied=False)


ARCHITECTURE = Architecture(model_type="olmo", read=read, ignored_tensors=IGNORED_TENSORS)
